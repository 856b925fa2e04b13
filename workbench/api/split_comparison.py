"""``compare_splits``: one call from a model and a batch to the table of its splits."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from workbench.analysis.formatting import names
from workbench.api.batches import dataset_of_batch
from workbench.api.store import open_run, run_rows
from workbench.api.stored_run import Run
from workbench.api.submission import cancelled_on_error, submit_plan
from workbench.api.table_progress import growing_table
from workbench.errors import SpecError, UsageError
from workbench.launch.termination import terminated_as_interrupted
from workbench.messages import counted
from workbench.models.user.from_callable import UserModel
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.spec.options import DatasetOptions, ModelOptions
from workbench.spec.run_spec import RunSpec
from workbench.spec.split import Split

if TYPE_CHECKING:
    from workbench.analysis.comparison import Comparison

_STRATEGIES = ("data", "fsdp", "layer", "pipeline", "tensor")
"""Strategies that are compared by default, each with its plain options."""
_POLL_S = 0.2


def compare_splits(
    model: Any,
    batch: Any,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    num_workers: int = 2,
    splits: Iterable[Mapping[str, Any]] | None = None,
    **parts: Any,
) -> Comparison:
    """Runs a model on one worker and with several splits, and compares them: ``compare_splits(module, (inputs, targets))``.

    The runs are queued as one group. A cell of a notebook, or a terminal, shows the table as it grows; an interrupt ends them.

    Args:
        model: An ``nn.Module`` or a callable that returns one (``UserModel``), or the model of a spec.
        batch: A pair of inputs and targets, each a tensor with the samples as dim 0, or a tuple, list or dict of such. A tuple of
            inputs holds the arguments of the model by position, ``((a, b), targets)``, a dict those by name. Every step processes
            its samples, in another order. Or the dataset of a spec.
        loss: Callable of (outputs, targets) that returns the loss; by default what the model returns as ``loss``, or else the
            cross-entropy for classes and the mean squared error for values.
        num_workers: Number of workers of the default splits.
        splits: The splits, each as in a spec: ``[{"data": 2}, {"pipeline": {"size": 2, "schedule": "gpipe"}}]``; by default data
            parallelism, FSDP, layer-wise and pipeline parallelism, and tensor slicing.
        parts: Other parts of the spec, such as ``train={"num_steps": 50}``.

    Returns:
        The runs, those on one worker first; ``refused`` has the reason for each split without figures.

    Raises:
        SpecError: the model, or the batch for it, is refused.
        UsageError: the batch is neither a pair nor a dataset.
    """
    base = _spec(model, batch, loss, parts)
    plan(base)  # refuses what no split can change
    chosen: list[Any] = [{name: num_workers} for name in _STRATEGIES] if splits is None else list(splits)
    plans, refused = _planned(base, chosen)
    runs = list[Run]()
    with terminated_as_interrupted():
        try:
            _submit(plans or [plan(base)], _group(base, num_workers), runs)
            ids = dict.fromkeys(run_id for run in runs for run_id in (*run.record.baseline_ids, run.id))
            return _followed([open_run(run_id) for run_id in ids], refused)
        except KeyboardInterrupt:
            for run in runs:
                run.end()
            raise


def _spec(model: Any, batch: Any, loss: Any, parts: dict[str, Any]) -> RunSpec:
    """Returns the spec on one worker."""
    if unknown := [name for name in parts if name in ("split", "model", "dataset") or name not in RunSpec.model_fields]:
        allowed = [name for name in RunSpec.model_fields if name not in ("split", "model", "dataset", "files", "schema_version")]
        raise UsageError(f"compare_splits() has no argument {unknown[0]!r}; parts of a spec: {', '.join(allowed)}")
    train = dict(parts.get("train", {}))
    if isinstance(batch, str | Mapping | DatasetOptions):
        dataset: Any = batch
    else:
        dataset, count = dataset_of_batch(batch)
        train = {"global_batch_size": count, **train}
        if loss is not None and getattr(batch[1], "ndim", 0) == 1:
            loss = _of_vectors(loss)
    if isinstance(model, str | Mapping | ModelOptions):
        if loss is not None:
            raise SpecError("model.loss", "belongs to a model that is given as an object; give wb.UserModel(build, loss=…)")
    else:
        model = UserModel(model, loss=loss)
    return RunSpec(**{**parts, "model": model, "dataset": dataset, "train": train, "split": {}})


def _of_vectors(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Returns the loss for targets that a dataset gives as (samples, 1) if they are numbers, and that were (samples,)."""

    @functools.wraps(loss)
    def of_vectors(outputs: Any, targets: Any) -> Any:
        return loss(outputs, targets.flatten())

    return of_vectors


def _planned(base: RunSpec, splits: list[Any]) -> tuple[list[Plan], dict[str, str]]:
    """Returns the plans of the splits that the checks accept, and why each of the others is refused, by its label."""
    plans, refused = list[Plan](), dict[str, str]()
    for split in splits:
        label = str(split)
        try:
            label = Split(split).label
            plans.append(plan(base.replace(split=split)))
        except SpecError as error:
            refused[label] = str(error)
    return plans, refused


def _group(base: RunSpec, num_workers: int) -> str:
    """Returns a name that no group of the store has."""
    name = f"splits of {base.model.name} over {counted(num_workers, 'worker')}"
    taken = {row["group"] for row in run_rows()}
    return next(each for each in itertools.chain([name], (f"{name} {n}" for n in itertools.count(2))) if each not in taken)


def _submit(plans: list[Plan], group: str, runs: list[Run]) -> None:
    """Starts the runs, which wait for each other, and appends them to ``runs``."""
    with cancelled_on_error(runs):
        for planned in plans:
            run = submit_plan(planned)
            runs.append(run)
            run.relabel(group=group)


def _followed(runs: list[Run], refused: dict[str, str]) -> Comparison:
    """Shows the runs until all have ended, and returns their comparison."""
    from workbench.analysis.comparison import Comparison

    ended = dict[str, dict[str, Any]]()
    threads = {run.id: run.record.threads_per_worker for run in runs}
    with growing_table(threads) as show:
        while waiting := [run for run in runs if run.id not in ended]:
            rows = {run.id: ended.get(run.id) or run.row() for run in runs}
            show(list(rows.values()), waiting)
            ended |= {run.id: rows[run.id] for run in waiting if run.state.is_terminal and rows[run.id]["state"] == run.state}
            time.sleep(_POLL_S)
        rows = {run.id: ended[run.id] for run in runs}
        show(list(rows.values()), [])
    labels = names(list(rows.values()), threads)
    failed = {label: run.message or str(run.state) for label, run in zip(labels, runs, strict=True) if run.state != "finished"}
    return Comparison(list(rows.values()), threads, {**refused, **failed})
