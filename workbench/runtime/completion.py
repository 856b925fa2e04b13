"""When each operation was truly done: our own rows beside gloo's spans, and where the two differ."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.runtime.gloo_spans import GlooSpan
from workbench.runtime.recorder import Operation, Recorder

_AS_GLOO_RUNS_IT = {"reduce_scatter": "all_reduce"}
_POINT_TO_POINT = ("send", "recv")
RETURNS_AT_ONCE_S = 1e-4
"""A wait for what has arrived takes less (a send or recv that is done: 4 to 24 µs on an idle machine)."""
TOLERANCE_S = 2e-3
"""Both clocks agree to microseconds, but a span is closed by gloo's thread, which may have to wait for a core, after what it
tells others."""


@dataclass
class Agreement:
    """Of one worker's trace steps."""

    num_operations: int = 0
    """Rows of our own."""
    num_seen: int = 0
    """Spans of gloo's."""
    num_completed: int = 0
    """Rows that now say when the operation was done."""
    num_late: int = 0
    """Rows of them whose span ended after the wait for them, by more than the tolerance."""
    differences: list[str] = field(default_factory=list)


def complete(recorder: Recorder) -> Agreement:
    """Gives rows their completion where exactly one span can be theirs: those of a step and an operation are paired in order,
    if there are as many, and each begins after the worker entered. On GPU the rows have theirs from events.

    gloo closes the span of a send or recv only when it is waited for, so that these say it only where the worker saw it arrive.
    """
    agreement = Agreement(len(recorder.operations), len(recorder.gloo_spans))
    rows: dict[tuple[int, str], list[Operation]] = {}
    for row in recorder.operations if recorder.device == "cpu" else []:
        rows.setdefault((row.step, _AS_GLOO_RUNS_IT.get(row.operation, row.operation)), []).append(row)
    spans: dict[tuple[int, str], list[GlooSpan]] = {}
    for span in recorder.gloo_spans:
        spans.setdefault((span.step, span.operation), []).append(span)
    for key in sorted({*rows, *spans}):
        _pair(rows.get(key, []), spans.get(key, []), key, agreement)
    agreement.num_completed = sum(row.completed is not None for row in recorder.operations)
    return agreement


def _pair(rows: list[Operation], spans: list[GlooSpan], key: tuple[int, str], agreement: Agreement) -> None:
    step, operation = key
    if len(rows) != len(spans):
        agreement.differences.append(f"step {step}: {len(rows)} × {operation} recorded, {len(spans)} seen by torch's profiler")
        return
    # A span begins between its row's entry and the next row's.
    ends = [*(row.entered for row in rows[1:]), float("inf")]
    if not all(r.entered <= s.start <= end for r, s, end in zip(rows, spans, ends, strict=True)):
        agreement.differences.append(
            f"step {step}: {operation} as recorded and as seen by torch's profiler begin in another order"
        )
        return
    for row, span in zip(rows, spans, strict=True):
        if operation in _POINT_TO_POINT and row.blocked_s < RETURNS_AT_ONCE_S:
            continue
        row.completed = max(span.end, row.completed or span.end)  # an emulated link may deliver later than gloo
        agreement.num_late += row.ended is not None and span.end > row.ended + TOLERANCE_S
