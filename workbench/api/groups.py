"""Groups: runs that were submitted together, such as all splits of four workers, with the runs that they are compared with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.analysis.latest import MOST_COMPARED
from workbench.messages import counted, listed
from workbench.store.records import RunRecord
from workbench.store.run_status import TERMINAL


@dataclass(frozen=True)
class Group:
    """The runs of a group and their baselines."""

    name: str

    states: Mapping[str, str]
    """Run id → state: baselines first, then the runs in the order of their submission."""

    baselines: frozenset[str] = frozenset()
    """Ids of the runs that others are compared with."""

    members: frozenset[str] = frozenset()
    """Ids of the runs with the label of the group, without the baselines that other runs may need too."""

    @property
    def active(self) -> list[str]:
        """Ids of the runs that have not ended."""
        return [run_id for run_id, state in self.states.items() if state not in TERMINAL]

    @property
    def finished(self) -> list[str]:
        """Ids of the runs that have finished."""
        return [run_id for run_id, state in self.states.items() if state == "finished"]

    def compared(self, step_times: Mapping[str, float]) -> list[str]:
        """Returns the ids of the finished runs, in the order of the group; of more than a comparison shows, the baselines and the
        fastest.

        Args:
            step_times: run id → step time in seconds of finished runs.
        """
        by_time = sorted(self.finished, key=lambda run_id: (run_id not in self.baselines, step_times.get(run_id, math.inf)))
        chosen = set(by_time[:MOST_COMPARED])
        return [run_id for run_id in self.finished if run_id in chosen]

    @property
    def num_ended(self) -> int:
        return len(self.states) - len(self.active)

    def text(self) -> str:
        """Describes how far the group is: ``2 of 6 runs finished``, ``5 of 6 runs finished and 1 failed``."""
        total, num_finished = len(self.states), len(self.finished)
        others = Counter(state for state in self.states.values() if state in TERMINAL and state != "finished")
        if num_finished == total:
            return f"all {counted(total, 'run')} finished"
        return listed([f"{num_finished} of {counted(total, 'run')} finished", *(f"{n} {state}" for state, n in others.items())])


def group_of(name: str, records: Sequence[RunRecord], states: Mapping[str, str]) -> Group:
    """Returns the group of these runs.

    Args:
        records: Records of the runs with this label, in the order of their submission.
        states: Run id → state of all runs of the store; a baseline that is not there is left out.
    """
    baselines = dict.fromkeys(other for record in records for other in record.baseline_ids)
    members = frozenset(record.run_id for record in records)
    ids = baselines | dict.fromkeys(record.run_id for record in records)
    return Group(name, {run_id: states[run_id] for run_id in ids if run_id in states}, frozenset(baselines), members)
