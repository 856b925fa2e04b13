"""How far a figure can be trusted: its spread within a run, the same thing measured again, and whether two runs differ.

Within a run, steps stand beside one another and the interval of their median comes from order statistics, which assume
nothing of how steps are distributed. What a whole run has in common (where its processes and memory happened to lie) no
number of steps shows: that is seen only between runs of the same spec, and so is the band of two equal runs (A/A).
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

from workbench.analysis.findings import different_work, is_disturbed
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
    """Where the true value lies, in 95 % of cases."""

    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval | None:
    """Of the median: between the two values as many places from either end as the binomial distribution allows (David and
    Nagaraja 2003, section 7.1). None: fewer than six values, whose very extremes miss it more often than 5 %."""
    ordered, tail = sorted(values), 0.0
    n = len(ordered)
    for position in range(n // 2):
        tail += 2 * math.comb(n, position) / 2**n
        if tail > 1 - CONFIDENCE:
            return Interval(ordered[position - 1], ordered[n - position]) if position else None
    return None


@dataclass(frozen=True)
class Measured:
    """A run's step times and, where the same spec ran more than once in the same environment, the medians of all."""

    name: str
    times: tuple[float, ...]
    """Of the timed steps, in seconds, the slowest worker's."""

    repeats: tuple[float, ...] = ()
    """Median step times of all runs of this spec, its own among them."""

    samples: int = 1
    """Of a step."""

    @cached_property
    def step_time(self) -> float:
        """The median."""
        return median(self.times)


@dataclass(frozen=True)
class Difference:
    """Of two runs' step time per sample, second over first."""

    ratio: float
    band: float | None
    """Two runs of equal specs differ by less than this factor in 95 % of cases (the A/A band); or, without repeats, the
    intervals of the two medians allow it. None: too few steps to say."""

    num_repeats: int
    """Runs that the band stands on; 0: the steps of these two alone."""

    @property
    def is_noise(self) -> bool | None:
        """Whether the difference lies inside the band."""
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
    """Whether the two differ by more than the noise, with both numbers."""
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


def sentences(rows: list[dict[str, Any]], measured: Sequence[Measured]) -> list[str]:
    """Each against the fastest, by samples per second; rows as in ``runs``, in the order of ``measured``."""
    finished = [m for row, m in zip(rows, measured, strict=True) if row["step_time_s"] is not None and m.times]
    if len(finished) < 2 or different_work(rows) or any(map(is_disturbed, rows)):
        return []
    fastest = min(finished, key=lambda m: m.step_time / m.samples)
    return [sentence(fastest, other) for other in finished if other is not fastest]


def measured(run: StoredRun, store: Iterable[StoredRun]) -> Measured:
    """A run's step times, and those of its equals in the store."""
    run = run.directory
    summary, largest = run.summary(), defaultdict[int, float](float)
    for row in run.table("steps").to_pylist() if summary else []:
        if row["kind"] == "timed":
            largest[row["step"]] = max(row["duration_s"], largest[row["step"]])
    record = run.record()
    repeats = [other.directory for other in store if _is_same(run, record, other.directory)]
    medians = [s.step_time_s for s in (other.summary() for other in repeats) if s]
    return Measured(f"{record.split} ({run.id[-6:]})", tuple(largest.values()), tuple(medians), _samples(run))


def same_spec_key(run: RunDirectory) -> str:
    """Equal for runs that measure the very same: all of the spec but its label and its baseline, and the environment."""
    spec = tomllib.loads(run.spec_path.read_text(encoding="utf-8"))
    parts = {key: value for key, value in spec.items() if key not in ("name", "baseline")}
    return json.dumps([parts, plain(run.environment())], sort_keys=True, default=str)


def _is_same(run: RunDirectory, record: RunRecord, other: RunDirectory) -> bool:
    try:
        other_record = other.record()
        if (other_record.split, other_record.model, other_record.dataset) != (
            record.split,
            record.model,
            record.dataset,
        ):  # of most runs; spares their specs
            return False
        return same_spec_key(other) == same_spec_key(run)
    except (OSError, ValueError, KeyError, DamagedRunError):
        return False


def _samples(run: RunDirectory) -> int:
    return int(tomllib.loads(run.spec_path.read_text(encoding="utf-8"))["train"]["global_batch_size"])
