"""Runs side by side: a choice of runs that the table and all charts share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from html import escape
from typing import Any

import altair as alt
import ipywidgets as w
import pandas as pd

from workbench.analysis.charts.look import AnyChart
from workbench.analysis.charts.losses import losses_chart
from workbench.analysis.charts.pareto import pareto_chart
from workbench.analysis.charts.scaling import scaling_chart
from workbench.analysis.charts.step_parts import step_parts_chart
from workbench.analysis.findings import findings
from workbench.analysis.frames import step_parts
from workbench.analysis.losses import losses
from workbench.analysis.markup import comparison_html
from workbench.analysis.pareto import pareto
from workbench.analysis.report.parts import Compared, compare
from workbench.analysis.scaling import scaling
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
        names = [row["split"] for row in compare([run.directory for run in self.runs]).rows]
        self._buttons = [
            w.ToggleButton(True, description=name, tooltip=run.id) for name, run in zip(names, self.runs, strict=True)
        ]
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
        """``runs`` (rows as in ``wb.runs()``; the split's name tells equal ones apart) and what each chart draws."""
        compared = self._compared
        return {"runs": pd.DataFrame(compared.rows), **{name: frame(compared) for name, (frame, _) in _CHARTS.items()}}

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        charts = list(self._drawn())
        return picture(alt.vconcat(*charts).resolve_scale(color="independent")) if charts else ({}, {})

    @property
    def _compared(self) -> Compared:
        return compare([run.directory for run in self.chosen])

    def _drawn(self) -> Iterator[AnyChart]:
        compared = self._compared
        for frame, draw in _CHARTS.values():
            if len(drawn := frame(compared)):
                yield draw(drawn)

    def _draw(self) -> None:
        rows = self._compared.rows
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(list(rows)))
        self._table.value = (comparison_html(rows, {}) + f"<ul>{sentences}</ul>") if rows else "Choose runs above."
        self._charts.outputs = tuple(map(output, self._drawn()))


def _step_parts(compared: Compared) -> pd.DataFrame:
    return step_parts([row for _, row in compared.finished if row["compute_s"] is not None])


def _pareto(compared: Compared) -> pd.DataFrame:
    frame = pareto(compared.rows)
    return frame if len(frame) > 1 else frame.head(0)  # one point is no choice


def _scaling(compared: Compared) -> pd.DataFrame:
    frame = scaling(compared.rows)
    return frame if frame["workers"].nunique() > 2 else frame.head(0)  # two points are no curve


def _losses(compared: Compared) -> pd.DataFrame:
    trained = [(run, row) for run, row in compared.finished if row["final_loss"] is not None]
    return losses([run for run, _ in trained], [row for _, row in trained]) if trained else pd.DataFrame()


_CHARTS: dict[str, tuple[Callable[[Compared], pd.DataFrame], Callable[[pd.DataFrame], AnyChart]]] = {
    "step_parts": (_step_parts, step_parts_chart),
    "pareto": (_pareto, pareto_chart),
    "scaling": (_scaling, scaling_chart),
    "losses": (_losses, losses_chart),
}
"""Another chart is another line here."""
