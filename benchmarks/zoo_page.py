"""Writes ``docs/model_zoo.md`` from the files of ``model_zoo.py``."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "model_zoo.md"
HEAD = """# Model zoo

Models that nobody wrote for the workbench, in tiny sizes with random weights, under each strategy on CPU processes. A cell has
the parity error (in fp64, see [parity.md](parity.md)), the step time as a multiple of that on one worker, and the memory of the
largest worker. Two timed steps on a machine with two cores that other programs share say little about time: they show that a
split runs, not that it pays. *Per shard* means that the batch matters: parity then compares with one worker on the same shards. A
number in brackets is the reason of a refusal, below the tables.

`python benchmarks/model_zoo.py RESULTS --find 30 --plans` measures this. The command resumes where it ended, and writes the page.
Versions: {versions}.
"""
_IMPOSSIBLE = {"DataDependent": ("layer=2", "pipeline=2", "data=2, pipeline=2")}
"""Model → strategies that are impossible in principle: the values of the batch choose its layers."""
_NOTES = {
    "torchvision and timm": "The wheel of torchvision is linked to another build of torch: its compiled operators, which none of"
    " these calls, are declared by `benchmarks/zoo_modules.py`.\n\n"
}
_UNDECIDED = ("not nominated", "verified as column", "verified as row", "verified as vocabulary")
_ALPHABETICAL = "Transformers, in alphabetical order"


def write_page(results: Path, names: list[str], strategies: list[str], more: list[str]) -> None:
    """Writes the page.

    Args:
        results: Directory with a file per model.
        names: All models, in the order of the table.
        strategies: Of every model.
        more: Strategies of few models.
    """
    records = {name: _read(results / f"{name.replace(' ', '-')}.json") for name in names}
    ran = {name: record for name, record in records.items() if record is not None}
    reasons: list[str] = []
    parts = [HEAD.format(versions=_versions(ran)), _totals(ran, [*strategies, *more])]
    for family in dict.fromkeys(record["family"] for record in ran.values()):
        chosen = {name: record["rows"] for name, record in ran.items() if record["family"] == family}
        note = _selection(results, ran) if family == _ALPHABETICAL else _NOTES.get(family, "")
        parts.append(f"## {family}\n\n{note}{_table(chosen, ['one worker', *strategies], reasons)}")
    chosen = {name: record["rows"] for name, record in ran.items() if set(more) & record["rows"].keys()}
    if chosen:
        parts.append(f"## Four workers\n\n{_table(chosen, ['one worker', *more], reasons)}")
    parts.append("## Reasons\n\n" + "\n".join(f"{index}. {reason}" for index, reason in enumerate(reasons, 1)) + "\n")
    if plans := _read(results / "plans.json"):
        parts.append(shipped_plans(plans))
    if missing := [name for name in names if name not in ran]:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    PAGE.write_text("\n".join(parts))


def shipped_plans(plans: dict[str, Any]) -> str:
    """Returns the section about the tensor plans that Transformers ships."""
    left_out = {name: plan["left_out"] for name, plan in plans.items() if "left_out" in plan}
    compared = {name: plan for name, plan in plans.items() if name not in left_out}
    right = sum(len(plan["right"]) for plan in compared.values())
    undecided = {name: [e for e, reason in plan["differ"].items() if reason in _UNDECIDED] for name, plan in compared.items()}
    failing = {n: plan for n, plan in compared.items() if plan["not_summed"] or len(plan["differ"]) > len(undecided[n])}
    other: dict[str, int] = {}
    for plan in compared.values():
        for entry in plan["not_compared"]:
            style = re.sub(r".*\((\w+)\)", r"\1", entry)
            other[style] = other.get(style, 0) + 1
    lines = [
        "## Tensor plans that Transformers ships\n",
        f"Of the causal language models that ship a plan, {len(plans)} were looked at so far; {len(compared)} build in the"
        " sizes of the zoo. Each entry of a"
        " plan is compared with what the workbench verifies by computing, on 2 and 4 workers (`benchmarks/zoo_plans.py`):"
        f" {right} entries are verified as they are, and {len(compared) - len(failing)} plans fail in none. The others fail in"
        " these; where such a plan also cuts parameters outside of linear layers, they may be right together with those:\n",
        "| model | entry | verification |\n|---|---|---|",
    ]
    for name, plan in failing.items():
        lines += [
            f"| {name} | `{entry}` | {_escaped(reason)} |"
            for entry, reason in plan["differ"].items()
            if entry not in undecided[name]
        ]
        lines += [f"| {name} | `{entry}` (no entry) | its gradient must be summed |" for entry in plan["not_summed"]]
    lines += [f"\nNot decided, since the search cuts them otherwise or not at all: {_by_model(undecided)}."]
    unmatched = ", ".join(f"{style} ({count})" for style, count in sorted(other.items(), key=lambda item: -item[1]))
    lines.append(
        "\nNot compared, since they name parameters outside of linear layers and tables, such as experts in one tensor, or"
        f" modules that the tiny model does not have: {unmatched}.\n"
    )
    lines.append(f"Not built: {'; '.join(f'{name} ({_escaped(reason)})' for name, reason in left_out.items())}.\n")
    return "\n".join(lines)


def _by_model(entries: dict[str, list[str]]) -> str:
    return "; ".join(f"{name} (`{'`, `'.join(listed)}`)" for name, listed in entries.items() if listed) or "none"


def _escaped(reason: str) -> str:
    return reason.replace("|", "\\|").replace("\n", " ")


def _table(rows_of: dict[str, Any], strategies: list[str], reasons: list[str]) -> str:
    lines = [f"| model | {' | '.join(strategies)} |", f"|{'---|' * (len(strategies) + 1)}"]
    for name, rows in rows_of.items():
        lines.append(f"| {name} | {' | '.join(_cell(rows.get(strategy), reasons) for strategy in strategies)} |")
    return "\n".join(lines) + "\n"


def _selection(results: Path, ran: dict[str, Any]) -> str:
    """Returns how these were selected, and what was left out."""
    left_out = _read(results / "left_out.json") or {}
    found = _read(results / "further.json") or {}
    without = sum(not model["has_plan"] for model in found.values())
    listed = "; ".join(f"{name} ({_escaped(reason)})" for name, reason in left_out.items())
    return (
        f"The causal and masked language models and image classifiers of Transformers' list of configs in alphabetical order that"
        f" build in tiny sizes by one recipe: {len(found)}, of which {without} ship no tensor plan;"
        f" {len(found.keys() & ran.keys())} have run. Left out: {listed}.\n\n"
    )


def _versions(ran: dict[str, Any]) -> str:
    """Returns the versions that the records were measured with."""
    found = dict.fromkeys(f"{name} {number}" for r in ran.values() for name, number in r.get("versions", versions()).items())
    return ", ".join(found)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _totals(ran: dict[str, Any], strategies: list[str]) -> str:
    """Returns how many pairs are possible, run and are refused."""
    pairs = {(name, strategy): row for name, r in ran.items() for strategy, row in r["rows"].items() if strategy in strategies}
    possible = {pair: row for pair, row in pairs.items() if pair[1] not in _IMPOSSIBLE.get(pair[0], ())}
    equal = sum(row.get("verdict") == "equal" for row in possible.values())
    shards = sum(row.get("verdict") == "equal per shard" for row in possible.values())
    by_verdict: dict[str, list[str]] = {"wrong": [], "undecided": []}
    for (name, strategy), row in possible.items():
        if (verdict := row.get("verdict")) in by_verdict:
            by_verdict[verdict].append(f"{name} under {strategy}")
    failed = [f"{name} under {strategy}" for (name, strategy), row in possible.items() if "failed" in row]
    wrong, undecided = by_verdict["wrong"], by_verdict["undecided"]
    refused = len(possible) - equal - shards - len(wrong) - len(failed) - len(undecided)
    share = 100 * (equal + shards) / max(1, len(possible))
    accepted = f"{len(wrong)} accepted splits are wrong" if wrong else "No accepted split is wrong"
    return (
        f"**{share:.1f} % of the {len(possible)} pairs of a model and a strategy that are possible in principle run with parity."
        f" {accepted}.**\n\n"
        f"{len(ran)} models and {len(strategies)} strategies make {len(pairs)} pairs, of which {len(pairs) - len(possible)} are"
        f" impossible: the values of the batch choose the layers of DataDependent. Of the others,\n\n"
        f"- {equal} run and are equal to one worker;\n- {shards} run and are equal to one worker on the same shards;\n"
        f"- {len(undecided)} run, and rounding that the model amplifies leaves the verdict open{_listed(undecided)};\n"
        f"- {len(wrong)} run and differ{_listed(wrong)};\n- {len(failed)} fail while they run{_listed(failed)};\n"
        f"- {refused} are refused.\n"
    )


def _listed(pairs: list[str]) -> str:
    return f" ({', '.join(pairs)})" if pairs else ""


def _cell(row: dict[str, Any] | None, reasons: list[str]) -> str:
    if row is None:
        return "–"
    if reason := row.get("refused") or row.get("failed"):
        reason = re.sub(r"(\S*zoo_modules\.py|hf):[\w-]+", "the model", reason.split("\n")[0]).replace("|", "\\|")
        if reason not in reasons:
            reasons.append(reason)
        return f"{'refused' if 'refused' in row else '**failed**'} [{reasons.index(reason) + 1}]"
    figures = f"{row.get('ratio', 1):.1f}×, {row['memory'] / 2**20:.2f} MiB"
    if row["verdict"] in ("equal", "equal per shard"):
        return f"{row['error']:.0e}{' per shard' if row['verdict'] != 'equal' else ''}, {figures}"
    return f"**{row['verdict']} {row['error']:.0e}** ({row['cause'] or 'no cause known'}), {figures}"


def versions() -> dict[str, str]:
    """Returns the versions of the packages here that models come from."""
    found = {}
    for package in ("torch", "transformers", "torchvision", "timm"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
