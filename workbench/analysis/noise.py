"""Estimates the uncertainty of step times: their spread within a run, repeats of the same spec, and whether two runs differ.

Within a run the interval of the median comes from order statistics, which assume nothing about the distribution of steps. Effects
that a whole run shares, such as the placement of its processes and memory, show only between runs of the same spec; so does the
band within which two equal runs differ (A/A).
"""

from __future__ import annotations

import json
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist, fmean, median
from typing import Any

from workbench.analysis.trust import is_disturbed
from workbench.errors import DamagedRunError
from workbench.store.directory import RunDirectory, StoredRun
from workbench.store.json_record import plain
from workbench.store.records import RunRecord

CONFIDENCE = 0.95
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
    2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t distribution for 1, 2, … degrees of freedom."""


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval | None:
    """Returns the confidence interval of the median: the values at equal distance from both ends that the binomial distribution
    allows (David and Nagaraja 2003, section 7.1). None for fewer than six values, whose extremes miss the median more often than
    5 %."""
    ordered, tail = sorted(values), 0.0
    n = len(ordered)
    for position in range(n // 2):
        tail += 2 * math.comb(n, position) / 2**n
        if tail > 1 - CONFIDENCE:
            return Interval(ordered[position - 1], ordered[n - position]) if position else None
    return None


@dataclass(frozen=True)
class Measured:
    """Step times of a run and, if its spec ran more than once in the same environment, the medians of all these runs."""

    name: str
    times: tuple[float, ...]
    """Durations of the timed steps on the slowest worker, in seconds."""

    repeats: tuple[float, ...] = ()
    """Median step times of all runs of this spec, including this one."""

    samples: int = 1
    """Samples per step."""

    @cached_property
    def step_time(self) -> float:
        """Median duration of a step, in seconds."""
        return median(self.times)


@dataclass(frozen=True)
class Difference:
    """Ratio of the step times per sample of two runs, second over first."""

    ratio: float
    band: float | None
    """Factor within which two runs of equal specs differ in 95 % of cases (the A/A band); without repeats, the band that the
    intervals of the two medians allow. None for too few steps."""

    num_repeats: int
    """Number of runs behind the band; 0 if it comes from the steps of these two runs."""

    @property
    def is_noise(self) -> bool | None:
        """Whether the difference lies inside the band; None without a band."""
        return None if self.band is None else abs(math.log(self.ratio)) <= math.log(self.band)


def difference(first: Measured, second: Measured) -> Difference:
    """Judged by the spread between runs of the same spec where there are any, pooled over both; else by that of steps.

    Between runs: log medians have a variance s², found from all repeats about their spec's mean, and the difference of two
    single runs lies within t₀.₉₇₅ · s · √2 (Student 1908).
    """
    ratio = (second.step_time / second.samples) / (first.step_time / first.samples)
    groups = [[math.log(v) for v in m.repeats] for m in dict.fromkeys((first, second)) if len(m.repeats) > 1]
    if first.repeats == second.repeats:
        groups = groups[:1]
    freedom = sum(len(g) - 1 for g in groups)
    if freedom:
        squares = sum((v - fmean(g)) ** 2 for g in groups for v in g)
        student = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else NormalDist().inv_cdf(0.975)
        return Difference(ratio, math.exp(student * math.sqrt(2 * squares / freedom)), sum(map(len, groups)))
    intervals = [median_interval(m.times) for m in (first, second)]
    if None in intervals:
        return Difference(ratio, None, 0)
    widths = [math.log(i.high / i.low) / 2 for i in intervals if i is not None]
    return Difference(ratio, math.exp(math.hypot(*widths)), 0)


def sentence(first: Measured, second: Measured) -> str:
    """States whether two runs differ by more than noise, with both numbers."""
    between = difference(first, second)
    slower = f"{abs(between.ratio - 1):.1%} {'more' if between.ratio > 1 else 'less'} time per sample"
    start = f"{second.name} takes {slower} than {first.name}"
    if between.band is None:
        return f"{start}; fewer than six timed steps cannot distinguish this from noise: increase train.num_steps."
    verdict = "inside the noise" if between.is_noise else "outside the noise"
    if between.num_repeats:
        return f"{start}, {verdict}: equal runs ({between.num_repeats} measured) differ by up to {_band(between.band)}."
    return (
        f"{start}, {verdict} of their steps ({_band(between.band)}); the variation between equal runs is unknown until one of"
        " them is repeated."
    )


def _band(factor: float) -> str:
    return f"{factor - 1:.1%}" if factor < 2 else f"a factor of {factor:.3g}, estimated from few runs; repeat them"


def sentences(rows: Sequence[dict[str, Any]], measured: Sequence[Measured], work: str) -> list[str]:
    """Compares each run with the fastest by samples per second; disturbed runs are left out.

    Args:
        rows: Rows as in ``runs``, in the order of ``measured``.
        work: The sentence of ``different_work``, as such runs are not compared; empty if they do the same work.
    """
    finished = [
        m for row, m in zip(rows, measured, strict=True) if row["step_time_s"] is not None and m.times and not is_disturbed(row)
    ]
    if len(finished) < 2 or work:
        return []
    fastest = min(finished, key=lambda m: m.step_time / m.samples)
    return [sentence(fastest, other) for other in finished if other is not fastest]


def measured(run: StoredRun, store: Iterable[StoredRun]) -> Measured:
    """Returns the step times of a run, and the medians of runs of the same spec in the store."""
    run = run.directory
    summary, largest = run.summary(), defaultdict[int, float](float)
    for row in run.table("steps").to_pylist() if summary else []:
        if row["kind"] == "timed":
            largest[row["step"]] = max(row["duration_s"], largest[row["step"]])
    record = run.record()
    key = same_spec_key(run)
    repeats = [other.directory for other in store if _is_same(key, record, other.directory)]
    medians = [s.step_time_s for s in (other.summary() for other in repeats) if s]
    return Measured(f"{record.split} ({run.id[-6:]})", tuple(largest.values()), tuple(medians), _samples(run))


_DOUBTS = ("max_other_load_cores", "max_calibration_age_days")
"""Options of ``measure`` that change what is marked, not what is measured."""


def same_spec_key(run: RunDirectory) -> str:
    """Returns a key that is equal for runs with the same spec, except name and baseline, and the same environment."""
    spec = tomllib.loads(run.spec_path.read_text(encoding="utf-8"))
    parts = {key: value for key, value in spec.items() if key not in ("name", "baseline")}
    parts["launch"] = {key: value for key, value in parts.get("launch", {}).items() if key != "wait_for_quiet"}
    parts["measure"] = {key: value for key, value in parts.get("measure", {}).items() if key not in _DOUBTS}
    return json.dumps([parts, plain(run.environment())], sort_keys=True, default=str)


def _is_same(key: str, record: RunRecord, other: RunDirectory) -> bool:
    try:
        other_record = other.record()
        if (other_record.split, other_record.model, other_record.dataset) != (
            record.split,
            record.model,
            record.dataset,
        ):  # decides most runs without reading their specs
            return False
        return same_spec_key(other) == key
    except (OSError, ValueError, KeyError, DamagedRunError):
        return False


def _samples(run: RunDirectory) -> int:
    return int(tomllib.loads(run.spec_path.read_text(encoding="utf-8"))["train"]["global_batch_size"])
