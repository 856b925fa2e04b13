"""The widget ``TraceView``: the timeline of a run, with a selection of step, workers and part of the step."""

from __future__ import annotations

from html import escape

import anywidget
import ipywidgets as w
import pandas as pd
import pyarrow as pa
import traitlets

from workbench.analysis import trace
from workbench.analysis.formatting import mebibytes
from workbench.analysis.markup import table
from workbench.analysis.step_lanes import step_lanes
from workbench.api import Run, open_run
from workbench.charts.theme import AnyChart
from workbench.charts.timeline import timeline_chart
from workbench.charts.timeline_view import JAVASCRIPT, STYLES, packed
from workbench.errors import UsageError
from workbench.notebook.compare_view import CompareView
from workbench.notebook.rendering import Still, WidgetBase
from workbench.notebook.still import grid, paragraphs

_CHOSEN = """
.workbench-choice .jupyter-button.mod-active { color: var(--jp-ui-inverse-font-color1); background: var(--jp-brand-color1); }
.workbench-choice .jupyter-button.mod-active::before { content: "✓"; margin-right: 4px; }
"""
"""Colours and ticks the chosen one of several buttons, as ``switch`` does a button that is on; else it is grey beside grey."""
_HEADS = ("operation", "axis", "phase", "count", "payload")


class Timeline(anywidget.AnyWidget):
    """The lanes of a step; ``region`` is the part selected in them."""

    _esm = JAVASCRIPT
    _css = STYLES + _CHOSEN
    packed = traitlets.Bytes().tag(sync=True)
    region = traitlets.List(traitlets.Float()).tag(sync=True)
    """Begin and end in milliseconds since the step began; empty if nothing is selected."""


class TraceView(WidgetBase):
    """Shows a trace step of a run, initially the most typical: the lanes of the workers, and the communication within the
    selected part of the step. Given a ``CompareView``, it follows the run that is picked there, and initially shows the last run
    with a trace.

    ``.data`` are the frames of the selection: ``timeline`` and ``communication``.

    Raises:
        UsageError: the run has no trace, or the argument is not a run.
    """

    run: Run
    _timeline: pa.Table
    _communication: pa.Table

    def __init__(self, run: Run | str | CompareView) -> None:
        self._step = w.ToggleButtons(description="Trace step")
        self._step.style.button_width = "auto"
        self._step.add_class("workbench-choice")
        self._workers = w.SelectMultiple(description="Workers")
        self._sentence, self._lanes, self._operations = w.HTML(), Timeline(), w.HTML()
        super().__init__([self._step, self._workers, self._sentence, self._lanes, self._operations])
        self._is_setting, self._summary, self._refusal = False, "", ""
        self._step.observe(lambda change: self._read(), "value")
        self._workers.observe(lambda change: self._draw(), "value")
        self._lanes.observe(lambda change: self._list(), "region")
        if isinstance(run, CompareView):
            if not run.runs:
                raise UsageError("the comparison is empty: there is no run to trace")
            run.observe(lambda change: self._follow(change["new"]), "picked")
            run = run.picked or next((one for one in reversed(run.runs) if trace.steps(one)), run.runs[-1])
        self._open(open_run(run))

    def _follow(self, picked: Run | None) -> None:
        """Shows the picked run, or why it cannot be shown; if none is picked, the view does not change."""
        if picked is None:
            return
        try:
            self._open(picked)
        except UsageError as error:
            self.run = picked
            self._timeline, self._communication = self._timeline[:0], self._communication[:0]
            self._is_setting = True
            self._step.options = ()
            self._is_setting = False
            self._lanes.layout.display = "none"
            self._refusal = str(error)
            self._sentence.value, self._operations.value = "", escape(self._refusal)

    def _open(self, run: Run) -> None:
        spans_s = trace.spans_s(run)
        if not spans_s:
            raise UsageError(f"run {run.id} ({run.state}): {trace.untraced(run)}")
        self.run = run
        ranks = list(range(run.record.num_workers))
        self._is_setting = True
        self._step.options = [(trace.step_label(step, span_s), step) for step, span_s in spans_s.items()]
        self._step.value = trace.typical_step(run)
        self._workers.options, self._workers.value, self._workers.rows = ranks, ranks, min(6, len(ranks))
        self._workers.layout.display = None if len(ranks) > 1 else "none"
        self._is_setting = False
        self._read()

    @property
    def data(self) -> dict[str, pd.DataFrame]:
        """Returns the rows of the selected workers (all, if none is selected) that overlap the selected part of the step."""
        chosen, part = list(self._workers.value), self._lanes.region
        begin_ms, end_ms = part or (float("-inf"), float("inf"))
        timeline = trace.intervals(trace.of_workers(self._timeline, chosen), self._start_s, (begin_ms, end_ms))
        operations = trace.of_workers(self._communication, chosen).to_pandas()
        operations["worker"] = operations["rank"].astype(str)
        operations["begin_ms"] = (operations["start_s"] - self._start_s) * 1e3
        operations["end_ms"] = (operations["done_s"] - self._start_s) * 1e3
        is_outside = (operations["end_ms"] < begin_ms) | (operations["begin_ms"] > end_ms)
        return {"timeline": timeline, "communication": operations[~is_outside]}

    def still(self) -> Still:
        split = self.run.record.split
        if not len(timeline := self.data["timeline"]):
            return Still([paragraphs([f"Trace of {split}: {self._refusal}"])], f"Trace of {split}: {self._refusal}")
        title = f"What does each worker of {split} do during step {self._step.value}?"
        text = f"Trace of {split}, step {self._step.value}. {self._summary}"
        parts: list[AnyChart] = [paragraphs([text]), timeline_chart(timeline, title)]
        if rows := self._operation_rows():
            parts.append(grid(_HEADS, rows, num_names=3))
        operations = "; ".join(f"{count} × {name} along {axis} in {phase}, {size}" for name, axis, phase, count, size in rows)
        return Still(parts, text + (f" Communication: {operations}." if rows else ""))

    def _read(self) -> None:
        """Reads the selected step and selects all of it."""
        if self._is_setting:
            return
        step = self._step.value
        self._timeline, self._communication = trace.timeline_of(self.run, step), trace.communication_of(self.run, step)
        self._start_s = trace.span_s(self._timeline)[0]
        self._draw()

    def _draw(self) -> None:
        if self._is_setting:
            return
        lanes = step_lanes(self.run, self._step.value, self._timeline, self._communication, self._workers.value)
        self._summary = lanes.sentence
        self._sentence.value = escape(self._summary)
        self._lanes.region, self._lanes.packed = [], packed(lanes)
        self._lanes.layout.display = None
        self._list()

    def _list(self) -> None:
        """Lists the operations of the selected part."""
        rows = self._operation_rows()
        self._operations.value = table(_HEADS, rows, num_names=3) if rows else "No communication in this part of the step."

    def _operation_rows(self) -> list[list[str]]:
        groups = self.data["communication"].groupby(["operation", "axis", "phase"], sort=False)["payload_bytes"]
        sums = groups.agg(["count", "sum"]).reset_index().to_dict("records")
        return [[o["operation"], o["axis"], o["phase"], f"{o['count']:g}", mebibytes(o["sum"])] for o in sums]
