"""States the findings of a comparison as sentences, each supported by its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.analysis.limits import Limit, limits_of
from workbench.analysis.limits import sentences as sentences_on_limits
from workbench.analysis.memory_limits import sentences as sentences_on_memory
from workbench.analysis.parity import lower_precision, per_shard
from workbench.analysis.trust import is_disturbed, trust_sentences
from workbench.analysis.work import different_work
from workbench.messages import listed
from workbench.plan.parity import VERDICTS, is_comparable, verdict

if TYPE_CHECKING:
    from workbench.store.directory import StoredRun

Row = dict[str, Any]
NOTABLE_MEMORY_SHARE = 0.995
"""Share of one worker's peak memory from which on a split needs as much memory as one worker."""


def findings_on(
    runs: Sequence[StoredRun], rows: Sequence[Row], work: str | None = None, limits: Mapping[str, Limit] | None = None
) -> list[str]:
    """Returns the findings on the finished runs of a comparison.

    Args:
        rows: Rows of the runs as in ``runs``, in the same order.
        work: ``different_work`` of the finished runs, where the caller needs it too.
        limits: ``limits_of`` them, likewise.
    """
    finished = [run for run, row in zip(runs, rows, strict=True) if row["step_time_s"] is not None]
    work = different_work(finished) if work is None else work
    limits = limits_of(finished) if limits is None else limits
    return findings(rows, sentences_on_limits(finished, limits), sentences_on_memory(finished), work)


def findings(
    rows: Sequence[Row], limits: Mapping[str, str] | None = None, memory_limits: Mapping[str, str] | None = None, work: str = ""
) -> list[str]:
    """Returns the findings from the rows of a comparison and from what was found of its runs.

    Args:
        rows: Rows as in ``runs``.
        limits: Sentences of ``limits.sentences``, by run id.
        memory_limits: Sentences of ``memory_limits.sentences``, by run id.
        work: The sentence of ``different_work``; empty if the runs do the same work.
    """
    named = [{**row, "split": f"{row['split']} over {row['link']}" if row.get("link") else row["split"]} for row in rows]
    finished = [row for row in named if row["step_time_s"] is not None]
    splits = [row for row in finished if row["num_workers"] > 1]
    undisturbed = [row for row in splits if not is_disturbed(row)]
    trust = trust_sentences(finished)
    if work:
        limited = [(limits or {})[row["run_id"]] for row in undisturbed if row["run_id"] in (limits or {})]
        return [*trust, work, *limited, *parity_sentences(finished)]
    if not splits:
        return trust
    correct = [row for row in undisturbed if is_comparable(row)]
    time_sentences = [_fastest(correct), *_first_tokens(correct)] if correct else []
    limit_sentences = [(limits or {}).get(row["run_id"], f"{row['split']}: no trace step was recorded.") for row in undisturbed]
    memory_sentences = [
        *_smallest([row for row in finished if is_comparable(row)]),
        *(memory_limits[r["run_id"]] for r in splits if memory_limits and r["run_id"] in memory_limits),
    ]
    return [*trust, *time_sentences, *memory_sentences, *limit_sentences, *parity_sentences(finished)]


def _fastest(splits: list[Row]) -> str:
    best = min(splits, key=lambda row: row["step_time_s"])
    speedup, same = best["speedup"], best["speedup_same_cores"]
    is_inference = best["mode"] == "inference"
    text = f"Among the splits, {best['split']} has {'the lowest latency' if is_inference else 'the shortest step'}: "
    if len(splits) == 1:
        text = f"{best['split']} has a {'latency' if is_inference else 'step time'} of "
    text += f"{best['step_time_s'] * 1e3:.1f} ms"
    if is_inference and best["step_time_p95_s"] is not None:
        text += f" (95th percentile {best['step_time_p95_s'] * 1e3:.1f} ms)"
    if speedup is not None:
        text += f", a speed-up of {speedup:.2f} over one worker"
    if same is not None:
        text += f" and of {same:.2f} over one worker on the same cores"
    return text + "."


def _first_tokens(splits: list[Row]) -> list[str]:
    """Reports the shortest times to the first token and per token of generations."""
    measured = [row for row in splits if row["time_to_first_token_s"] is not None]
    later = [row for row in measured if row["time_per_token_s"] is not None]
    sentences = []
    if measured:
        best = min(measured, key=lambda row: row["time_to_first_token_s"])
        sentences.append(f"{best['split']} has the shortest time to first token: {best['time_to_first_token_s'] * 1e3:.1f} ms.")
    if later:
        best = min(later, key=lambda row: row["time_per_token_s"])
        sentences.append(f"{best['split']} has the shortest time per token: {best['time_per_token_s'] * 1e3:.1f} ms.")
    return sentences


def _smallest(rows: list[Row]) -> list[str]:
    measured = [row for row in rows if row["peak_memory_bytes"] is not None]
    if len(measured) < 2:
        return []
    best = min(measured, key=lambda row: row["peak_memory_bytes"])
    text = f"{best['split']} needs the least memory on its largest worker: {best['peak_memory_bytes'] / 2**20:.1f} MiB"
    single = next((row for row in measured if row["num_workers"] == 1), None)
    if single is not None and best["peak_memory_bytes"] > NOTABLE_MEMORY_SHARE * single["peak_memory_bytes"]:
        return ["No split needs less memory than one worker."]
    if single is not None:
        text += f", {best['peak_memory_bytes'] / single['peak_memory_bytes']:.0%} of one worker's"
    return [text + "."]


def parity_sentences(rows: list[Row]) -> list[str]:
    """Reports the splits that differ from one worker, and how."""
    by_verdict = {name: [row for row in rows if verdict(row) == name] for name in VERDICTS}
    return [
        *(f"{row['split']} does NOT compute what one worker computes{_why_wrong(row)}." for row in by_verdict["wrong"]),
        *(
            f"Whether {row['split']} computes what one worker computes is undecided: {row['parity_cause']}. To decide it,"
            f" {row['parity_remedy']}."
            for row in by_verdict["undecided"]
        ),
        *(
            f"{row['split']} equals one worker on the same shards of the batch but {per_shard(row)}."
            for row in by_verdict["equal per shard"]
        ),
        *_lower_precision_sentences(by_verdict["equal"]),
        *map(_lossy_sentence, by_verdict["lossy"]),
    ]


def _lower_precision_sentences(rows: list[Row]) -> list[str]:
    """Reports the splits that equal one worker up to rounding in fp32, by what computes in it."""
    by_reason: dict[str, list[Row]] = {}
    for row in rows:
        if reason := lower_precision(row):
            by_reason.setdefault(reason, []).append(row)
    return [
        f"{listed([row['split'] for row in of_reason])} equal{'s' if len(of_reason) == 1 else ''} one worker up to"
        f" {max(row['parity_whole_batch_error'] or 0.0 for row in of_reason):.1e}: {reason}."
        for reason, of_reason in by_reason.items()
    ]


def _why_wrong(row: Row) -> str:
    return f": {row['parity_cause']}. To make them equal, {row['parity_remedy']}" if row.get("parity_cause") else ""


def _lossy_sentence(row: Row) -> str:
    purpose, error = row.get("parity_on_purpose"), f"{row['parity_max_error']:.1e}"
    if purpose and "gradients" not in purpose:
        return f"{row['split']} {purpose}, unlike one worker; it differs by up to {error} from the declared computation."
    text = f"{row['split']} {purpose or 'changes gradients on purpose'}: it differs from one worker"
    if row.get("parity_cause"):
        return f"{text} on the same shards of the batch by up to {error}; it {per_shard(row)}."
    return f"{text} by up to {error}."
