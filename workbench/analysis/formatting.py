"""Formats the figures of runs, with the columns of a comparison; used by the terminal and by reports."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.analysis.parity import cell
from workbench.messages import counted
from workbench.store.records import RunRecord
from workbench.store.trust import trust_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a comparison."""

    head: str
    figure: str
    """The column of ``runs`` whose trust state applies."""

    format: Callable[[Row], str]

    @property
    def title(self) -> str:
        """The head on one line."""
        return self.head.replace("-\n", "-").replace("\n", " ").strip()

    def text(self, row: Row) -> str:
        """Formats the value of a row of ``runs``, with the mark of its trust state."""
        return marked(self.format(row), row, self.figure)


def marked(text: str, row: Row, figure: str) -> str:
    """Returns the text of a figure with the mark of its trust state; a missing value has none."""
    return text if text == "–" else text + trust_of(figure, row).mark


def seconds(value: float | None) -> str:
    """Formats a time: ``12.3 ms``, or ``1.23 s`` from one second."""
    if value is None:
        return "–"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def duration(value: float) -> str:
    """Formats a time that people wait: ``8 s``, ``2 min 05 s``."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def rough_duration(value: float) -> str:
    """Formats an expected duration: ``about 40 s``, ``about 3 min``."""
    return f"about {value:.0f} s" if value < 90 else f"about {value / 60:.0f} min"


def mebibytes(value: float | None) -> str:
    """Formats bytes: ``12.30 MiB``, with two significant digits below 0.1 MiB."""
    if value is None:
        return "–"
    size = value / 2**20
    return f"{size:.2g} MiB" if 0 < size < 0.1 else f"{size:.2f} MiB"


def bandwidth(value: float | None) -> str:
    """Formats bytes per second in the unit that fits: ``33.0 B/s``, ``12.3 MB/s``, ``1.5 GB/s``."""
    if value is None or math.isnan(value):
        return "–"
    value = float(f"{value:.4g}")  # the digits below, so that 999.99 MB/s are 1.0 GB/s
    unit, size = next(((unit, size) for unit, size in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)) if value >= size), ("B/s", 1))
    return f"{value / size:.1f} {unit}"


def factor(value: float | None) -> str:
    """Formats a factor: ``1.53×``."""
    return "–" if value is None else f"{value:.2f}×"


def milliseconds(value: float | None) -> str:
    """Formats seconds as milliseconds without unit: ``12.3``."""
    return "–" if value is None or math.isnan(value) else f"{value * 1e3:.1f}"


def _mebibytes(value: float | None) -> str:
    return mebibytes(value).removesuffix(" MiB")


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


_TRAINING: tuple[Column, ...] = (
    Column("step\nms", "step_time_s", lambda row: milliseconds(row["step_time_s"])),
    Column(
        "p10–p90\nms",
        "step_time_p10_s",
        lambda row: f"{milliseconds(row['step_time_p10_s'])}–{milliseconds(row['step_time_p90_s'])}",
    ),
    Column("samples\n/s", "samples_per_s", lambda row: _rate(row["samples_per_s"])),
)
_INFERENCE: tuple[Column, ...] = (
    Column("latency\nms", "step_time_s", lambda row: milliseconds(row["step_time_s"])),
    Column("p95\nms", "step_time_p95_s", lambda row: milliseconds(row["step_time_p95_s"])),
    Column("samples\n/s", "samples_per_s", lambda row: _rate(row["samples_per_s"])),
)
_GENERATION: tuple[Column, ...] = (
    _INFERENCE[0],
    Column("first\ntoken ms", "time_to_first_token_s", lambda row: milliseconds(row["time_to_first_token_s"])),
    Column("ms per\ntoken", "time_per_token_s", lambda row: milliseconds(row["time_per_token_s"])),
    Column("tokens\n/s", "generated_tokens_per_s", lambda row: _rate(row["generated_tokens_per_s"])),
)
_COMMON: tuple[Column, ...] = (
    Column("speed-\nup", "speedup", lambda row: factor(row["speedup"])),
    Column("vs same\ncores", "speedup_same_cores", lambda row: factor(row["speedup_same_cores"])),
    Column("peak\nMiB", "peak_memory_bytes", lambda row: _mebibytes(row["peak_memory_bytes"])),
    Column("communication\nMiB", "communication_bytes_per_step", lambda row: _mebibytes(row["communication_bytes_per_step"])),
    Column("parity\n", "parity_verdict", cell),
)


def columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    """Returns the columns of a comparison. If all runs are inference, they show latency; if all are generation, first and later
    tokens."""
    figures = _INFERENCE if all(row["mode"] == "inference" for row in rows) else _TRAINING
    if all(row["generated_tokens_per_s"] is not None for row in rows if row["step_time_s"] is not None):
        figures = _GENERATION if figures is _INFERENCE else figures
    return figures + _COMMON


def run_name(record: RunRecord) -> str:
    """Returns the split of a run, with its threads if a worker has several: ``single, 2 threads``."""
    return record.split + (threads_text(record.threads_per_worker) if record.threads_per_worker > 1 else "")


def threads_text(number: int) -> str:
    """Returns ``, 2 threads``, as it follows a split."""
    return f", {counted(number, 'thread')}"


def names(rows: Sequence[Row], threads: dict[str, int]) -> list[str]:
    """Returns the unique name of each run in a comparison: its split, and what distinguishes the runs among threads of single
    workers, model, mode, emulated link, name of the run, or a number.

    Args:
        rows: rows of ``runs``; a split may be a name of this function already.
        threads: Threads of a worker, by run id.
    """
    differ = len({threads.get(row["run_id"]) for row in rows if row["num_workers"] == 1}) > 1
    thread_texts = [threads_text(threads.get(row["run_id"], 1)) if differ and row["num_workers"] == 1 else "" for row in rows]
    links = [f" over {row['link']}" if row["link"] and f" over {row['link']}" not in row["split"] else "" for row in rows]
    work = [", ".join(row[part] for part in ("model", "mode") if len({other.get(part) for other in rows}) > 1) for row in rows]
    parts = zip(rows, thread_texts, work, links, strict=True)
    labels = [
        row["split"] + threads_text + (f", {kinds}" if kinds and f", {kinds}" not in row["split"] else "") + link
        for row, threads_text, kinds, link in parts
    ]
    count, numbers = Counter(labels), Counter[str]()
    named = Counter((label, row["name"]) for label, row in zip(labels, rows, strict=True))
    result = []
    for row, label in zip(rows, labels, strict=True):
        numbers[label] += 1
        suffix = f" ({row['name']})" if row["name"] and named[label, row["name"]] == 1 else f" #{numbers[label]}"
        result.append(label + suffix if count[label] > 1 else label)
    return result
