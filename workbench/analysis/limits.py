"""Determines what limits a run: the largest part of its step that is not computation, with the evidence and a suggestion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from workbench.analysis import bubble
from workbench.analysis.formatting import mebibytes
from workbench.errors import WorkbenchError
from workbench.messages import listed

if TYPE_CHECKING:
    from workbench.spec.run_spec import RunSpec
    from workbench.store.directory import RunDirectory, StoredRun
    from workbench.strategies.base import Limiting

NOT_ON_GPU = "the limiting factor is not measured on GPUs yet."
NOTABLE = 0.1
"""Smallest share of the step that counts as a limit; below it the run is limited by computation."""


@dataclass(frozen=True)
class Evidence:
    """Figures that show how a run spends its time. Times are in seconds per step, means over workers and trace steps."""

    split: str
    unit: str
    """Name of a step: ``step``, or ``batch`` in inference."""

    step: float
    compute: tuple[float, ...]
    """Compute time of each worker."""

    optimizer: float
    schedule: float
    exposed: Mapping[str, float]
    """Time for which communication blocked the workers, by axis."""

    idle: Mapping[str, float]
    """Time for which workers waited for others, by axis; that of ``pipeline`` counts only if ``bubble`` is empty."""

    bubble: Mapping[str, float] = field(default_factory=dict)
    """Parts of the pipeline's idle time: order, imbalance, communication and rest."""

    stages_of_worker: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Worker → the pipeline stages that it holds."""

    num_microbatches: int = 1
    data: float = 0.0
    """Time to fetch a batch, before the step."""

    ready: float | None = None
    """Time of a timed step in which a worker was ready to run but had no core."""

    num_threads: int = 1
    """Number of threads of all workers."""

    num_cores: int = 1
    bytes_per_step: int | None = None
    spec: RunSpec | None = None
    """Spec whose strategies give advice; None if a plugin or a file of the run is not available."""


@dataclass(frozen=True)
class Limit:
    """What limits a run."""

    kind: str
    """Kind of limit: compute, communication, bubble, imbalance, idle, schedule, optimizer, data or oversubscription."""

    where: str
    """Axis, stage or worker, if the limit has one."""

    share: float
    """Share of the step, or of the step and the fetching of its batch."""

    sentence: str
    """The limit and its figures, in one sentence."""

    advice: str
    """Suggestion, in one sentence."""

    def __str__(self) -> str:
        return f"{self.sentence} {self.advice}"


def limit(e: Evidence) -> Limit:
    """Returns the largest notable part of the step that is not computation, or computation itself."""
    largest = max(_candidates(e), key=lambda c: c.share)
    computing = fmean(e.compute) / e.step
    if largest.share >= NOTABLE:
        return largest
    text = f"{e.split} is limited by compute: {computing:.0%} of the {e.unit}, {_ms(fmean(e.compute))} of {_ms(e.step)}."
    return Limit("compute", "", computing, text, "Try more workers or a lower precision (train.precision).")


def _candidates(e: Evidence) -> list[Limit]:
    limits = [_data(e), _oversubscription(e), *_communication(e), *_idle(e)]
    optimizer, schedule = e.optimizer / e.step, e.schedule / e.step
    limits.append(
        Limit(
            "optimizer", "", optimizer,
            f"{e.split} is limited by the optimizer: {optimizer:.0%} of the {e.unit}, {_ms(e.optimizer)}.",
            f"Try {'sharding the optimizer state (split.data.shard = optimizer) or ' * _can_shard(e)}a larger batch per update.",
        )
    )  # fmt: skip
    limits.append(
        Limit(
            "schedule", "", schedule,
            f"{e.split} is limited by schedule overhead: {schedule:.0%} of the {e.unit}, {_ms(e.schedule)}.",
            "Try fewer, larger microbatches or a larger model: every action of the schedule has a fixed cost.",
        )
    )  # fmt: skip
    return limits


def _can_shard(e: Evidence) -> bool:
    """Whether replicas of the run each hold the whole optimizer state."""
    data = dict(e.spec.split.items()).get("data") if e.spec else None
    return getattr(data, "shard", "") == "none"


def _data(e: Evidence) -> Limit:
    share = e.data / (e.step + e.data)
    text = f"{e.split} is limited by data loading: fetching a batch takes {_ms(e.data)} before each {e.unit} of {_ms(e.step)}."
    return Limit("data", "", share, text, "Try a dataset that loads faster.")


def _oversubscription(e: Evidence) -> Limit:
    """Counts only if the run has more threads than cores; ``findings`` reports the load of other programs."""
    share = (e.ready or 0.0) / e.step if e.num_threads > e.num_cores else 0.0
    text = (
        f"{e.split} is limited by too few cores: {e.num_threads} threads share {e.num_cores}, and a worker was ready to run"
        f" but had no core for {_ms(e.ready or 0.0)} of {_ms(e.step)}, {share:.0%}."
    )
    return Limit("oversubscription", "", share, text, "Try fewer workers or fewer threads per worker.")


def _communication(e: Evidence) -> list[Limit]:
    limits = []
    for axis, seconds in e.exposed.items():
        seconds += e.bubble.get("communication", 0.0) if axis == "pipeline" else 0.0
        share = seconds / e.step
        volume = "" if e.bytes_per_step is None else f"; the communication volume is {_mebibytes(e.bytes_per_step)}"
        text = f"{e.split} is limited by communication along {axis}: workers are blocked for {_ms(seconds)}, {share:.0%} of the"
        advice = _advice(e, "communication", axis) or "Try to communicate less often."
        limits.append(Limit("communication", axis, share, f"{text} {e.unit}{volume}.", advice))
    return limits


def _idle(e: Evidence) -> list[Limit]:
    limits = []
    if e.bubble:
        order, imbalance, rest = (e.bubble[part] for part in ("order", "imbalance", "rest"))
        limits += [_bubble(e, order), _imbalance(e, "pipeline", imbalance), _timing_variation(e, rest)]
    for axis, seconds in e.idle.items():
        if axis == "pipeline" and e.unit == "batch" and not e.bubble:
            limits.append(_sequential_stages(e, seconds))
        elif axis != "pipeline" or not e.bubble:
            limits.append(_imbalance(e, axis, seconds))
    return limits


def _sequential_stages(e: Evidence, seconds: float) -> Limit:
    """Returns the limit of a generation, whose stages run one after the other."""
    share = seconds / e.step
    text = (
        f"{e.split} is limited by stages that run one after the other: workers are idle for {_ms(seconds)}, {share:.0%} of the"
        f" {e.unit}, because a token passes through all stages before the next token begins."
    )
    return Limit("bubble", "pipeline", share, text, "Try split.tensor, which divides the work of each token.")


def _bubble(e: Evidence, seconds: float) -> Limit:
    share = seconds / e.step
    text = (
        f"{e.split} is limited by the bubble: the schedule's order leaves workers idle for {_ms(seconds)} even with equal stages,"
        f" {share:.0%} of the {e.unit}."
    )
    advice = _advice(e, "bubble", "pipeline") or f"Try more microbatches than {e.num_microbatches}."
    return Limit("bubble", "pipeline", share, text, advice)


def _timing_variation(e: Evidence, seconds: float) -> Limit:
    share = seconds / e.step
    text = (
        f"{e.split} is limited by timing variation: workers are idle for {_ms(seconds)}, {share:.0%} of the {e.unit}, longer than"
    )
    text += " the schedule's order, the stage times and communication explain."
    return Limit("idle", "pipeline", share, text, "Try again on an otherwise idle machine.")


def _imbalance(e: Evidence, axis: str, seconds: float) -> Limit:
    """Returns waits for a worker that computes longer than the others, or idle time if no worker does."""
    share, mean = seconds / e.step, fmean(e.compute)
    slowest = max(range(len(e.compute)), key=lambda rank: e.compute[rank])
    longest = e.compute[slowest]
    stages = e.stages_of_worker.get(slowest, ()) if axis == "pipeline" else ()
    where = f"worker {slowest}"
    if stages:
        where = f"stage{'s' * (len(stages) > 1)} {listed([*map(str, stages)])}"
    waits = f"the other workers are idle for {_ms(seconds)} on average, {share:.0%} of the {e.unit}"
    if longest - mean >= seconds / 2:
        text = f"{e.split} is limited by imbalance at {where}: it computes for {_ms(longest)}, the mean is {_ms(mean)}; {waits}."
        advice = _advice(e, "imbalance", axis) if stages else ""
        default_advice = "Try to reduce that worker's share of the work, or stop other processes on its cores."
        return Limit("imbalance", where, share, text, advice or default_advice)
    text = (
        f"{e.split} is limited by idle time: workers wait {_ms(seconds)} for one another along {axis},"
        f" {share:.0%} of the {e.unit}."
    )
    return Limit("idle", axis, share, text, "Try again on an otherwise idle machine, or fewer blocking operations.")


def _advice(e: Evidence, limit: Limiting, axis: str) -> str:
    """Returns the advice of the run's strategies, or an empty string. Of joined axes such as ``data+context``, the first comes
    first."""
    if e.spec is None:
        return ""
    strategies = e.spec.split.strategies
    return next((advice for name in axis.split("+") for s in strategies if (advice := s.advice(limit, name, e.spec))), "")


def _mebibytes(num_bytes: float) -> str:
    """Formats bytes: ``20.0 MiB``, with more digits for small values."""
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes >= 2**20 / 10 else mebibytes(num_bytes)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def limit_of(run: StoredRun) -> Limit | None:
    """Returns what limits this run. None if it has not finished, took no trace step, was recorded by a version without these
    figures, or ran on GPUs, where they are not measured."""
    evidence = evidence_of(run)
    return None if evidence is None else limit(evidence)


def evidence_of(run: StoredRun) -> Evidence | None:
    """Collects the figures of a finished run; None as in ``limit_of``."""
    run = run.directory
    summary, record = run.summary(), run.record()
    if (
        summary is None
        or summary.optimizer_s is None
        or summary.schedule_s is None
        or any(w.axes is None for w in summary.workers)
    ):
        return None
    workers, pipelines = summary.workers, bubble.pipelines(run)
    exposed, idle = defaultdict[str, float](float), defaultdict[str, float](float)
    for worker in workers:
        for axis, figures in (worker.axes or {}).items():
            exposed[axis] += figures.exposed_communication_s / len(workers)
            idle[axis] += figures.idle_s / len(workers)
    actions_of = {rank: w.actions for ranks, members in pipelines.items() for rank, w in zip(ranks, members, strict=True)}
    stages = {rank: tuple(sorted({action.stage for action in actions})) for rank, actions in actions_of.items()}
    return Evidence(
        split=record.split,
        unit="batch" if record.mode == "inference" else "step",
        step=fmean(w.step_s for w in workers if w.step_s is not None),
        compute=tuple(w.compute_s for w in workers if w.compute_s is not None),
        optimizer=summary.optimizer_s,
        schedule=summary.schedule_s,
        exposed=exposed,
        idle=idle,
        bubble=bubble.mean_of(pipelines.values()),
        stages_of_worker=stages,
        num_microbatches=len({action.microbatch for actions in actions_of.values() for action in actions}) or 1,
        data=summary.data_s or 0.0,
        ready=summary.ready_s,
        num_threads=record.num_workers * record.threads_per_worker,
        num_cores=record.num_cores,
        bytes_per_step=summary.communication_bytes_per_step,
        spec=_spec_of(run),
    )


def _spec_of(run: RunDirectory) -> RunSpec | None:
    try:
        return run.spec()
    except WorkbenchError:
        return None


def limits_of(runs: Iterable[StoredRun]) -> dict[str, Limit]:
    """Returns what limits each run, by run id, where it is known."""
    return {run.id: limit for run in runs if (limit := limit_of(run))}


def sentences(runs: Iterable[StoredRun], limits: Mapping[str, Limit]) -> dict[str, str]:
    """Returns what limits each run, by run id; for a run on GPUs that this is not measured.

    Args:
        limits: of ``limits_of`` these runs.
    """
    by_run = {}
    for run in (run.directory for run in runs):
        if run.id in limits:
            by_run[run.id] = str(limits[run.id])
        elif run.record().device == "cuda":
            by_run[run.id] = f"{run.record().split}: {NOT_ON_GPU}"
    return by_run
