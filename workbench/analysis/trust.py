"""States what the times of runs can be trusted for, as sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.messages import counted
from workbench.store.figures import Summary
from workbench.store.records import RunRecord
from workbench.store.trust import Trust, trust_of_times

Row = dict[str, Any]


def is_disturbed(row: Row) -> bool:
    """Whether other programs affected the times of a row of ``runs``."""
    return bool(row.get("trust") == Trust.DISTURBED)


def is_doubtful(row: Row) -> bool:
    """Whether the times of a row of ``runs`` are in another state than ``quiet``."""
    return row.get("trust") not in (None, Trust.QUIET)


def reason(record: RunRecord, summary: Summary) -> str:
    """Returns why the times of a run are not quiet, one clause; empty if they are."""
    match trust_of_times(record, summary):
        case Trust.DISTURBED:
            return f"other programs used {summary.other_load_cores:.1f} cores during the timed steps"
        case Trust.TOO_FEW_STEPS:
            steps = counted(summary.num_timed_steps or 0, "timed step")
            return f"{steps} are too few or too short to know the spread, or whether other programs ran"
        case Trust.SHARED_CORES:
            threads = record.num_workers * record.threads_per_worker
            return f"{threads} threads of the workers shared {counted(record.num_cores, 'core')}"
    return ""


def trust_sentences(rows: Sequence[Row]) -> list[str]:
    """Returns a sentence per state other than ``quiet``, and one on the speed-ups that are empty for it.

    Args:
        rows: rows as in ``runs`` of finished runs.
    """
    of = {state: [row for row in rows if row["trust"] == state] for state in Trust}
    sentences = []
    if of[Trust.DISTURBED]:
        loads = "; ".join(f"{_name(row)}: {row['other_load_cores']:.1f} cores" for row in of[Trust.DISTURBED])
        sentences.append(
            f"⚠ disturbed: other programs ran at the same time ({loads}). These times do not show the splits alone; measure"
            " them again when the machine is quiet."
        )
    if bare := [row for row in rows if row["speedup"] is None and row["baseline_run_id"] is not None]:
        names = ", ".join(map(_name, bare))
        sentences.append(f"No speed-up of {names}: the baseline was disturbed or has no figures.")
    if of[Trust.TOO_FEW_STEPS]:
        names = ", ".join(map(_name, of[Trust.TOO_FEW_STEPS]))
        sentences.append(
            f"⚠ too few steps: the timed steps of {names} are too few or too short to know their spread, or whether other"
            " programs ran. Increase train.num_steps."
        )
    if of[Trust.SHARED_CORES]:
        names = ", ".join(map(_name, of[Trust.SHARED_CORES]))
        sentences.append(f"⚠ shared cores: the workers of {names} had fewer cores than threads, so they delay one another.")
    return sentences


def _name(row: Row) -> str:
    return f"{row['split']} ({str(row['run_id'])[-6:]})"
