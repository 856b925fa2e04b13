"""Plans: resolves specs before they run, lists which combinations are supported, and suggests supported ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.plan.all_splits import all_splits
from workbench.plan.compatibility import MODES, Support, support_table
from workbench.plan.mesh import Mesh
from workbench.plan.nearest_valid import change_text, nearest_valid, with_change
from workbench.plan.optimizer import optimizer_text
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.registry import STRATEGIES
from workbench.spec import RunSpec
from workbench.spec.files import read_table
from workbench.strategies.pipeline.schedules import action_order
from workbench.strategies.pipeline.stages import staged_strategy

if TYPE_CHECKING:
    from workbench.api.stored_run import Run
    from workbench.strategies.pipeline.schedules.base import Schedule

__all__ = [
    "MODES",
    "Plan",
    "Support",
    "all_splits",
    "change_text",
    "nearest_valid",
    "optimizer_text",
    "order_of_actions",
    "plan",
    "process_groups",
    "schedule_rows",
    "support_table",
    "with_change",
]


def process_groups(run: Run) -> dict[str, list[list[int]]]:
    """Returns the groups of ranks along each axis of a run's mesh, and of each strategy that divides an axis, such as ``expert``,
    the groups of neighbours."""
    axes = run.record.mesh
    groups = {axis: [list(group) for group in Mesh(axes).groups(axis)] for axis in axes}
    for name, options in read_table(run.directory.spec_path).get("split", {}).items():
        if name in STRATEGIES.names() and (strategy := STRATEGIES.get(name)).divides_axis:
            size = options["size"]
            groups[name] = [group[at : at + size] for group in groups[strategy.axis] for at in range(0, len(group), size)]
    return groups


def schedule_rows(schedule: Schedule) -> list[str]:
    """Returns the actions of each worker in a pipeline schedule, as rows of the file that the schedule ``csv`` reads."""
    from workbench.strategies.pipeline.schedules.to_csv import rows_of  # imports torch, which takes seconds

    return rows_of(schedule)


def order_of_actions(spec: RunSpec) -> action_order.Order | None:
    """Returns the order of actions of each worker, for a pipeline as in torch's schedule; None without stages."""
    strategy = staged_strategy(spec)
    return action_order.read(strategy.action_rows) if strategy else None
