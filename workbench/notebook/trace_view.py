"""What each worker of a run did when: a choice of workers and of a part of the step that all charts share."""

from __future__ import annotations

from typing import Any

import ipywidgets as w
import pandas as pd

from workbench.analysis.charts.timeline import timeline_chart
from workbench.analysis.figures import mebibytes
from workbench.analysis.frames import timeline
from workbench.api import Run, open_run
from workbench.notebook.rendering import output, picture
from workbench.notebook.shown import Shown
from workbench.spec.markup import table


class TraceView(Shown):
    """The run's last trace step: lanes of the workers, and the communication within the part of the step that is chosen.

    ``.data`` are the frames behind it: ``timeline`` and ``communication`` of what is chosen.
    """

    def __init__(self, run: Run | str) -> None:
        self.run = open_run(run) if isinstance(run, str) else run
        self._timeline, self._communication = timeline(self.run.directory), _communication(self.run)
        workers = sorted(set(self._timeline["worker"]), key=int)
        self._workers = w.SelectMultiple(options=workers, value=tuple(workers), description="Workers", rows=min(6, len(workers)))
        end = float(self._timeline["end_ms"].max())
        self._window = w.FloatRangeSlider(
            value=(0.0, end), min=0.0, max=end, step=end / 200, description="From, to", readout_format=".1f",
            continuous_update=False, layout=w.Layout(width="420px"),
        )  # fmt: skip
        for widget in (self._workers, self._window):
            widget.observe(lambda change: self._draw(), "value")
        self._charts, self._moved = w.Output(), w.HTML()
        unit = w.HTML("milliseconds of the step")
        super().__init__([w.HBox([self._workers, w.VBox([self._window, unit])]), self._charts, self._moved])
        self._draw()

    @property
    def data(self) -> dict[str, pd.DataFrame]:
        """What is shown now: rows that overlap the chosen part of the step, of the chosen workers."""
        return {"timeline": self._chosen(self._timeline), "communication": self._chosen(self._communication)}

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return picture(self._chart())

    def _chosen(self, frame: pd.DataFrame) -> pd.DataFrame:
        begin, end = self._window.value
        inside = (frame["end_ms"] >= begin) & (frame["begin_ms"] <= end)
        chosen: pd.DataFrame = frame[inside & frame["worker"].isin(self._workers.value)]
        return chosen

    def _chart(self) -> Any:
        begin, end = self._window.value
        frame = self.data["timeline"]
        frame = frame.assign(begin_ms=frame["begin_ms"].clip(lower=begin), end_ms=frame["end_ms"].clip(upper=end))
        return timeline_chart(frame, f"What does each worker of {self.run.spec.split.label} do during one step?")

    def _draw(self) -> None:
        self._charts.outputs = (output(self._chart()),) if len(self.data["timeline"]) else ()
        moved = self.data["communication"]
        sums = moved.groupby(["operation", "axis", "phase"], sort=False)["payload_bytes"].agg(["count", "sum"]).reset_index()
        rows = [[o["operation"], o["axis"], o["phase"], f"{o['count']:g}", mebibytes(o["sum"])] for o in sums.to_dict("records")]
        heads = ("operation", "axis", "in", "on these workers", "bytes")
        self._moved.value = table(heads, rows, num_names=3) if rows else "Nothing moves in this part of the step."


def _communication(run: Run) -> pd.DataFrame:
    """The operations of the last trace step, with their begin and end in milliseconds of the step."""
    frame, steps = run.communication(), run.timeline()
    last = steps["step"].max()
    start = steps.loc[steps["step"] == last, "start_s"].min()
    of_step: pd.DataFrame = frame[frame["step"] == last]
    return of_step.assign(
        worker=of_step["rank"].astype(str),
        begin_ms=(of_step["start_s"] - start) * 1e3,
        end_ms=(of_step["end_s"] - start) * 1e3,
    )
