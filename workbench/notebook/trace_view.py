"""The widget ``TraceView``: the timeline of a run, with a selection of step, workers and part of the step for all charts."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as w
import pandas as pd
import pyarrow as pa

from workbench.analysis import trace
from workbench.analysis.formatting import mebibytes
from workbench.analysis.markup import table
from workbench.api import Run, open_run
from workbench.charts.timeline import timeline_chart
from workbench.errors import UsageError
from workbench.notebook.compare_view import CompareView
from workbench.notebook.rendering import WidgetBase, output, picture


class TraceView(WidgetBase):
    """Shows a trace step of a run, initially the last: the lanes of the workers, and the communication within the selected part
    of the step. Given a ``CompareView``, it follows the run that is picked there, and initially shows the last run with a
    trace.

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
        self._workers = w.SelectMultiple(description="Workers")
        self._window = w.FloatRangeSlider(
            description="Part", readout_format=".1f", continuous_update=False, layout=w.Layout(width="420px")
        )
        self._charts, self._operations = w.Output(), w.HTML()
        unit = w.HTML("milliseconds since the step began")
        super().__init__([self._step, w.HBox([self._workers, w.VBox([self._window, unit])]), self._charts, self._operations])
        self._is_setting = False
        self._step.observe(lambda change: self._read(), "value")
        for widget in (self._workers, self._window):
            widget.observe(lambda change: self._draw(), "value")
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
            self._charts.outputs, self._operations.value = (), escape(str(error))

    def _open(self, run: Run) -> None:
        steps = trace.steps(run)
        if not steps:
            raise UsageError(f"run {run.id} ({run.state}): {trace.untraced(run)}")
        self.run = run
        ranks = list(range(run.record.num_workers))
        self._is_setting = True
        self._step.options, self._step.value = steps, steps[-1]
        self._workers.options, self._workers.value, self._workers.rows = ranks, ranks, min(6, len(ranks))
        self._is_setting = False
        self._read()

    @property
    def data(self) -> dict[str, pd.DataFrame]:
        """Returns the rows of the selected workers (all, if none is selected) that overlap the selected part of the step."""
        chosen, (begin_ms, end_ms) = list(self._workers.value), self._window.value
        timeline, _ = trace.lanes(trace.of_workers(self._timeline, chosen), self._start_s, (begin_ms, end_ms))
        operations = trace.of_workers(self._communication, chosen).to_pandas()
        operations["worker"] = operations["rank"].astype(str)
        operations["begin_ms"] = (operations["start_s"] - self._start_s) * 1e3
        operations["end_ms"] = (operations["done_s"] - self._start_s) * 1e3
        return {
            "timeline": timeline,
            "communication": operations[(operations["end_ms"] >= begin_ms) & (operations["begin_ms"] <= end_ms)],
        }

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return picture(self._chart()) if len(self.data["timeline"]) else ({}, {})

    def _read(self) -> None:
        """Reads the selected step and selects all of it."""
        if self._is_setting:
            return
        step = self._step.value
        self._timeline, self._communication = trace.timeline_of(self.run, step), trace.communication_of(self.run, step)
        self._start_s, end_s = trace.span_s(self._timeline)
        end_ms = (end_s - self._start_s) * 1e3
        self._is_setting = True
        self._window.min, self._window.max, self._window.step = 0.0, end_ms, end_ms / 200
        self._window.value = (0.0, end_ms)
        self._is_setting = False
        self._draw()

    def _chart(self) -> Any:
        title = f"What does each worker of {self.run.record.split} do during one step?"
        return timeline_chart(self.data["timeline"], title)

    def _draw(self) -> None:
        if self._is_setting:
            return
        data = self.data
        self._charts.outputs = (output(self._chart()),) if len(data["timeline"]) else ()
        groups = data["communication"].groupby(["operation", "axis", "phase"], sort=False)["payload_bytes"]
        sums = groups.agg(["count", "sum"]).reset_index().to_dict("records")
        rows = [[o["operation"], o["axis"], o["phase"], f"{o['count']:g}", mebibytes(o["sum"])] for o in sums]
        heads = ("operation", "axis", "phase", "count", "payload")
        self._operations.value = table(heads, rows, num_names=3) if rows else "No communication in this part of the step."
