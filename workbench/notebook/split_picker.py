"""The widget ``SplitPicker``: a form for a split, with a live view of its plan."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as w
import pandas as pd
import traitlets

from workbench.analysis.expected import expected_communication, held, placement
from workbench.analysis.formatting import mebibytes
from workbench.analysis.markup import table
from workbench.api.plans import Plan, change_text, nearest_valid, plan, with_change
from workbench.api.plugins import MODELS, STRATEGIES
from workbench.api.specs import DEFAULT_MODEL, RunSpec, differences, fields, parts, spec_of
from workbench.charts.mesh import held_chart, mesh_chart
from workbench.errors import SpecError
from workbench.messages import counted
from workbench.notebook.fields import Fields
from workbench.notebook.rendering import WidgetBase, output, picture


class SplitPicker(WidgetBase):
    """Shows a form for a split and what each worker holds, before anything runs.

    ``SplitPicker(model="transformer", split={"data": 2})`` takes the arguments of ``RunSpec`` as initial values. ``.spec`` is the
    selected spec, or None while it is invalid; ``.observe(…, "spec")`` reports changes.
    """

    spec = traitlets.Instance(RunSpec, allow_none=True)

    def __init__(self, **parts_of_spec: Any) -> None:
        start = RunSpec(**parts_of_spec)
        self._fixed = {path: value for path, value in differences(start).items() if not _is_in_form(path)}
        self._strategies = {name: w.ToggleButton(False, description=name, tooltip=_summary(name)) for name in STRATEGIES.names()}
        for button in self._strategies.values():
            button.layout.width = "auto"
            button.observe(lambda change: self._rebuild(), "value")
        self._split, self._options = w.VBox(), w.Accordion(selected_index=None)
        self._text, self._remedies, self._charts = w.HTML(), w.VBox(), w.Output()
        strategies = w.HBox(list(self._strategies.values()), layout=w.Layout(flex_flow="row wrap"))
        form = w.VBox([strategies, self._split, self._options])
        form.layout.width = "45%"
        form.layout.min_width = "320px"
        result = w.VBox([self._text, self._remedies, self._charts], layout=w.Layout(width="55%"))
        super().__init__([w.HBox([form, result], layout=w.Layout(flex_flow="row wrap"))])
        self._planned: Plan | None = None
        self._set(differences(start))

    def still(self) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._planned is None:
            return {"text/html": self._text.value}, {}
        return picture(mesh_chart(placement(self._planned)))

    def _set(self, paths: dict[str, Any]) -> None:
        """Sets the form to these paths and values."""
        self._is_setting = True
        for name, button in self._strategies.items():
            button.value = f"split.{name}.size" in paths
        self._is_setting = False
        name = paths.get("model.name", DEFAULT_MODEL)
        model = MODELS.get(name).Options
        preset = model.model_validate({"name": name, "preset": paths.get("model.preset")})
        sections = {"Model": list(fields(model, "model", preset)), "Training": list(fields(parts()["train"], "train"))}
        self._options.children = [
            Fields((f for f in section if _is_in_form(f.path)), paths, self._read) for section in sections.values()
        ]
        self._options.titles = tuple(sections)
        self._build_split(paths)
        self._read()

    def _build_split(self, paths: dict[str, Any]) -> None:
        """Builds the fields of each selected strategy."""
        boxes = []
        for name in (name for name, button in self._strategies.items() if button.value):
            form_fields = list(fields(STRATEGIES.get(name).Options, f"split.{name}"))
            boxes.append(w.HTML(f"<b>{name}</b>: {escape(_summary(name))}"))
            boxes.append(Fields(form_fields, paths, self._read))
        self._split.children = boxes or [w.HTML("Single worker. Select strategies above.")]

    def _rebuild(self) -> None:
        if not self._is_setting:
            self._build_split(self._paths())
            self._read()

    def _paths(self) -> dict[str, Any]:
        form_values = {
            k: v
            for box in (*self._split.children, *self._options.children)
            if isinstance(box, Fields)
            for k, v in box.values.items()
        }
        return {**self._fixed, **form_values}

    def _read(self) -> None:
        """Reads the form and draws its plan, or why it is invalid."""
        paths = self._paths()
        try:
            self._planned = plan(spec_of(paths))
        except SpecError as error:
            self._planned, self.spec = None, None
            self._refuse(paths, error)
            return
        self._remedies.children, self.spec = (), self._planned.spec
        self._text.value = _plan_html(self._planned)
        self._charts.outputs = (
            output(mesh_chart(placement(self._planned))),
            output(held_chart(held(self._planned))),
        )

    def _refuse(self, paths: dict[str, Any], error: SpecError) -> None:
        self._text.value = f"<p><b>This configuration is invalid.</b> {escape(str(error))}</p>"
        self._charts.outputs = ()
        buttons = []
        for change in nearest_valid(paths, error):
            button = w.Button(description=change_text(change), icon="wrench", layout=w.Layout(width="auto"))
            button.on_click(lambda _, change=change: self._set(with_change(paths, change)))
            buttons.append(button)
        self._remedies.children = buttons


def _is_in_form(path: str) -> bool:
    """Whether the form has this path: split, model options and training. All others keep their initial values."""
    return path.startswith(("split.", "train.", "model.")) and path not in ("model.name", "model.preset")


def _summary(strategy: str) -> str:
    return " ".join((STRATEGIES.get(strategy).__doc__ or "").split("\n\n")[0].split())


def _plan_html(planned: Plan) -> str:
    """Returns the label, workers, expected memory and communication of a plan as HTML."""
    largest = held(planned).groupby("worker")["bytes"].sum().max()
    communication = expected_communication(planned)
    axes = " × ".join(f"{axis} {size}" for axis, size in planned.mesh.axes.items())
    workers = counted(planned.num_workers, "worker")
    head = f"<b>{escape(planned.spec.split.label)}</b> · {workers}{f' · {axes}' if axes else ''}"
    notice = f"<br>{escape(planned.device_notice)}." if planned.device_notice else ""
    text = f"<p>{head}<br>Expected memory of the largest worker: {mebibytes(largest)}. Expected communication per step:"
    text += f" {mebibytes(communication['bytes'].sum())}.{notice}</p>"
    return text + _communication_table(communication) if len(communication) else text


def _communication_table(communication: pd.DataFrame) -> str:
    rows = [
        [
            t["operation"].replace("_", "-"),
            t["axis"],
            t["phase"],
            f"{t['count']:g}",
            ("≤ " if t["is_bound"] else "") + mebibytes(t["bytes"]),
        ]
        for t in communication.to_dict("records")
    ]
    return table(("operation", "axis", "phase", "count", "payload"), rows, num_names=3)
