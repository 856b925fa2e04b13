"""The widget ``CompareView``: runs side by side, with a selection of runs and a highlighted one for the table and all charts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from html import escape
from typing import Any

import ipywidgets as w
import pandas as pd
import traitlets

from workbench.analysis.findings import findings_on
from workbench.analysis.markup import cells, comparison_html
from workbench.api import Run, open_run
from workbench.charts.comparison import CHARTS
from workbench.charts.selection import standing_out
from workbench.charts.theme import AnyChart
from workbench.errors import UsageError
from workbench.export.report.parts import Compared, compare
from workbench.messages import counted
from workbench.notebook.rendering import Still, WidgetBase, output
from workbench.notebook.still import grid, paragraphs
from workbench.notebook.switch import switch


class CompareView(WidgetBase):
    """Compares runs, given as runs, run ids or a comparison. The table and all charts show the selected runs and highlight the
    picked one, which is also the run of a ``TraceView`` of this view.

    ``.chosen`` are the selected runs, ``.picked`` is the highlighted run or None and can be observed, ``.data`` are the frames
    of the table and the charts, by name.

    Raises:
        UsageError: the argument is not runs, or they are not in the store.
    """

    picked = traitlets.Instance(Run, allow_none=True)

    def __init__(self, runs: Iterable[Run | str] | pd.DataFrame | Run | str) -> None:
        if isinstance(runs, str) or not isinstance(runs, Iterable):
            runs = [runs]
        self.runs = [open_run(run) for run in (runs["run_id"] if isinstance(runs, pd.DataFrame) else runs)]
        labels = self._compared.labels
        self._buttons = [switch(label, run.id, True) for label, run in zip(labels, self.runs, strict=True)]
        self._pick = w.Dropdown(options=[("none", None), *zip(labels, self.runs, strict=True)], description="Highlight")
        for button in self._buttons:
            button.observe(lambda change: self._choose(), "value")
        self._table, self._charts = w.HTML(), w.Output()
        wrap = w.Layout(flex_flow="row wrap")
        super().__init__([w.HBox([*self._buttons, self._pick], layout=wrap), self._table, self._charts])
        traitlets.link((self._pick, "value"), (self, "picked"))
        self.observe(lambda change: self._draw(), "picked")
        self._draw()

    @traitlets.validate("picked")
    def _validate_picked(self, proposal: dict[str, Any]) -> Run | None:
        """Returns the run object of this view, since the dropdown compares objects."""
        proposed: Run | None = proposal["value"]
        if proposed is None:
            return None
        run_of_view = next((run for run in self.runs if run.id == proposed.id), None)
        if run_of_view is None:
            raise UsageError(f"run {proposed.id} is not among the compared runs")
        return run_of_view

    @property
    def chosen(self) -> list[Run]:
        """Returns the selected runs, in their order."""
        return [run for run, button in zip(self.runs, self._buttons, strict=True) if button.value]

    @property
    def data(self) -> dict[str, pd.DataFrame]:
        """Returns ``runs`` (rows as in ``wb.runs()``; splits have distinct names) and the frame of each chart."""
        selection = self._selection
        return {"runs": pd.DataFrame(selection.rows), **{chart.name: chart.frame(selection.finished) for chart in CHARTS}}

    def still(self) -> Still:
        selection = self._selection
        if not selection.rows:
            return Still([paragraphs(["No run is selected."])], "Comparison without runs.")
        heads, texts = cells(selection.rows, {})
        sentences = findings_on(selection.runs, selection.rows)
        figures = ". ".join(
            f"{row[0]}: " + ", ".join(f"{head} {text}" for head, text in zip(heads[1:], row[1:], strict=True) if text)
            for row in texts
        )
        parts = [grid(heads, texts), paragraphs([f"• {sentence}" for sentence in sentences]), *self._drawn()]
        return Still(parts, f"Comparison of {counted(len(texts), 'run')}. {figures}. {' '.join(sentences)}")

    @cached_property
    def _compared(self) -> Compared:
        """Returns the comparison of all runs, so that labels and colours do not change with the selection."""
        return compare(self.runs)

    @property
    def _selection(self) -> Compared:
        compared, ids = self._compared, {run.id for run in self.chosen}
        pairs = [(run, row) for run, row in zip(compared.runs, compared.rows, strict=True) if run.id in ids]
        return Compared([run for run, _ in pairs], [row for _, row in pairs])

    def _drawn(self) -> list[AnyChart]:
        selection = self._selection
        picked = next((row["split"] for row in selection.rows if self.picked and row["run_id"] == self.picked.id), None)
        charts: list[AnyChart] = []
        for chart in CHARTS:
            if len(frame := chart.frame(selection.finished)):
                highlighted = picked if picked in set(frame["split"]) else None
                charts += [standing_out(drawn, "split", highlighted) for drawn in chart.charts(frame)]
        return charts

    def _choose(self) -> None:
        """Redraws after a change of the selection; a run that is no longer selected is not highlighted."""
        if self.picked is not None and self.picked.id not in {run.id for run in self.chosen}:
            self.picked = None
        self._draw()

    def _draw(self) -> None:
        selection = self._selection
        rows = selection.rows
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings_on(selection.runs, rows))
        self._table.value = (comparison_html(rows, {}) + f"<ul>{sentences}</ul>") if rows else "Select runs above."
        self._charts.outputs = tuple(map(output, self._drawn()))
