"""Completion of the operations of trace steps: recorded operations matched with the spans that gloo reports."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from workbench.runtime.tracing.gloo import GlooSpan
from workbench.runtime.tracing.recorder import Operation, Recorder

_AS_GLOO_RUNS_IT = {"reduce_scatter": "all_reduce"}
_POINT_TO_POINT = ("send", "recv")
RETURNS_AT_ONCE_S = 1e-4
"""The wait for a complete operation takes less (a send or recv: 4 to 24 µs on an idle machine)."""
TOLERANCE_S = 2e-3
"""Both clocks agree to microseconds, but the thread of gloo may have to wait for a core before it closes a span."""

_Key = tuple[int, str, int]
"""Step, gloo's name of the operation, elements of its input."""


@dataclass
class Agreement:
    """Agreement of the recorded operations of a worker's trace steps with the spans that gloo reported."""

    num_operations: int = 0
    """Recorded operations."""
    num_seen: int = 0
    """Spans of gloo."""
    num_completed: int = 0
    """Recorded operations whose completion is known."""
    num_late: int = 0
    """Those whose span ended after the wait for them, by more than the tolerance."""
    differences: list[str] = field(default_factory=list)


def complete(recorder: Recorder) -> Agreement:
    """Sets when recorded operations were complete, where exactly one span can be theirs.

    Operations and spans of one step, kind and size are matched in order if their numbers are equal and each span begins during
    its operation. Overlapping collectives of one size cannot be told apart, because the threads of gloo may begin them in
    either order. The span of a send or recv ends only when it is waited for, so it is used only if the worker was waiting when
    the message arrived. On GPUs nothing reports completion. With an emulated link, the end of the emulated operation counts.

    Args:
        recorder: recorder of this worker after its last step; its operations are changed in place.

    Returns:
        Numbers of operations and spans, and one sentence per step, kind and size that differ.
    """
    agreement = Agreement(len(recorder.operations), len(recorder.gloo_spans))
    for op in recorder.operations:
        if op.emulated is not None:
            op.completed = op.emulated.end  # an emulated link delivers later than gloo
    ops: dict[_Key, list[Operation]] = {}
    for op in recorder.operations if recorder.device == "cpu" else []:
        operation = _AS_GLOO_RUNS_IT.get(op.operation, op.operation)
        ops.setdefault((op.step, operation, _input_elements(op)), []).append(op)
    spans: dict[_Key, list[GlooSpan]] = {}
    for span in recorder.gloo_spans:
        spans.setdefault((span.step, span.operation, span.elements), []).append(span)
    for key in sorted({*ops, *spans}):
        if difference := _pair(ops.get(key, []), spans.get(key, []), agreement):
            step, operation, elements = key
            agreement.differences.append(f"step {step}, {operation} of {elements:,} elements: {difference}")
    agreement.num_completed = sum(op.completed is not None for op in recorder.operations)
    return agreement


def _input_elements(op: Operation) -> int:
    """Returns the elements of the input; of an all-gather, this worker's part."""
    if op.dtype is None:
        return 0
    elements = op.payload_bytes // getattr(torch, op.dtype).itemsize
    return int(elements // op.group_size if op.operation == "all_gather" else elements)


def _pair(ops: list[Operation], spans: list[GlooSpan], agreement: Agreement) -> str:
    """Sets the completion of operations. Returns how they differ from the spans; empty if they do not."""
    if len(ops) != len(spans):
        return f"{len(ops)} recorded, {len(spans)} seen by torch's profiler"
    if not all(o.entered <= s.start and (o.ended is None or s.start <= o.ended) for o, s in zip(ops, spans, strict=True)):
        return "torch's profiler saw it begin at another time"
    is_send = ops[0].operation in _POINT_TO_POINT
    num_overlaps = Counter[int]()
    for i, (span, following) in enumerate(pairwise(spans)):
        num_overlaps.update({i: following.start < span.end, i + 1: following.start < span.end})
    for i, (op, span) in enumerate(zip(ops, spans, strict=True)):
        if op.wait_s < RETURNS_AT_ONCE_S if is_send else num_overlaps[i]:
            continue
        op.completed = max(span.end, op.completed or span.end)
        agreement.num_late += op.ended is not None and span.end > op.ended + TOLERANCE_S
    return ""
