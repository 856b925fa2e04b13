"""Runs side by side: a choice of runs that the table and all charts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import altair as alt
import ipywidgets as w
import pandas as pd

from workbench.analysis.charts.step_parts import step_parts_chart
from workbench.analysis.findings import findings
from workbench.analysis.frames import step_parts
from workbench.analysis.markup import comparison_html
from workbench.api import Run, open_run
from workbench.notebook.rendering import output, picture
from workbench.notebook.shown import Shown


class CompareView(Shown):
    """Takes runs, their ids, or a comparison; what is chosen above is in the table and in every chart.

    ``.chosen`` are the chosen runs, ``.data`` the frames behind what is shown, by name.
    """

    def __init__(self, runs: Iterable[Run | str] | pd.DataFrame) -> None:
        given = list(runs["run_id"]) if isinstance(runs, pd.DataFrame) else list(runs)
        self.runs = [open_run(run) if isinstance(run, str) else run for run in given]
        self._buttons = [w.ToggleButton(True, description=run.spec.split.label, tooltip=run.id) for run in self.runs]
        for button in self._buttons:
            button.layout.width = "auto"
            button.observe(lambda change: self._draw(), "value")
        self._table, self._charts = w.HTML(), w.Output()
        super().__init__([w.HBox(self._buttons, layout=w.Layout(flex_flow="row wrap")), self._table, self._charts])
        self._draw()

    @property
    def chosen(self) -> list[Run]:
        """The runs that are shown, in their order."""
        return [run for run, button in zip(self.runs, self._buttons, strict=True) if button.value]

    @property
    def data(self) -> dict[str, pd.DataFrame]:
        """``runs`` (rows as in ``wb.runs()``) and what each chart draws."""
        rows = [run.row() for run in self.chosen]
        return {"runs": pd.DataFrame(rows), **{name: frame(rows) for name, (frame, _) in _CHARTS.items()}}

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        charts = self._drawn()
        return picture(alt.vconcat(*charts).resolve_scale(color="independent")) if charts else ({}, {})

    def _drawn(self) -> list[alt.Chart]:
        data = self.data
        return [draw(data[name]) for name, (_, draw) in _CHARTS.items() if len(data[name])]

    def _draw(self) -> None:
        rows = [run.row() for run in self.chosen]
        threads = {run.id: run.directory.record()["threads_per_worker"] for run in self.chosen}
        sentences = "".join(f"<li>{sentence}</li>" for sentence in findings(rows))
        self._table.value = (comparison_html(rows, threads) + f"<ul>{sentences}</ul>") if rows else "Choose runs above."
        self._charts.outputs = tuple(map(output, self._drawn()))


_CHARTS: dict[str, tuple[Callable[[list[dict[str, Any]]], pd.DataFrame], Callable[[pd.DataFrame], alt.Chart]]] = {
    "step_parts": (step_parts, step_parts_chart),
}
