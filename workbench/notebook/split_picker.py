"""The widget ``SplitPicker``: a form for a split, with a live view of its plan."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as w
import pandas as pd
import traitlets

from workbench.analysis.expected import placement
from workbench.analysis.formatting import mebibytes
from workbench.analysis.markup import table
from workbench.analysis.outlook import Outlook
from workbench.api.plans import change_text, nearest_valid, plan, with_change
from workbench.api.plugins import MODELS, STRATEGIES, is_source
from workbench.api.specs import DEFAULT_MODEL, RunSpec, differences, fields, parts, spec_of
from workbench.charts.mesh import held_chart, mesh_chart
from workbench.errors import SpecError
from workbench.messages import counted
from workbench.notebook.fields import Fields
from workbench.notebook.rendering import Still, WidgetBase, output
from workbench.notebook.still import buttons, paragraphs
from workbench.notebook.switch import switch

_REFUSED = "border-left: 4px solid #C62828; background: rgba(198, 40, 40, 0.1); padding: 6px 10px; margin: 4px 0"
"""Style of a refusal, on light and dark ground."""
_NOT_IN_FORM = {f"model.{name}" for name in ("name", "preset", "folder", "loss", "cut_at", "tensor_plan", "mixtures")} | {
    "train.optimizer_options",
    "train.optimizer_folder",
}


class SplitPicker(WidgetBase):
    """Shows a form for a split and what each worker holds, before anything runs.

    ``SplitPicker(model="transformer", split={"data": 2})`` takes the arguments of ``RunSpec`` as initial values. ``.spec`` is the
    selected spec, or None while it is invalid; ``.observe(…, "spec")`` reports changes.
    """

    spec = traitlets.Instance(RunSpec, allow_none=True)

    def __init__(self, **parts_of_spec: Any) -> None:
        start = RunSpec(**parts_of_spec)
        self._not_in_form = _NOT_IN_FORM | ({"train.optimizer"} if is_source(start.train.optimizer) else set())
        self._fixed = {path: value for path, value in differences(start).items() if not self._is_in_form(path)}
        self._strategies = {name: switch(name, _summary(name), False) for name in STRATEGIES.names()}
        for button in self._strategies.values():
            button.observe(lambda change: self._rebuild(), "value")
        self._split, self._options = w.VBox(), w.Accordion(selected_index=None)
        self._text, self._remedies, self._charts = w.HTML(), w.HBox(layout=w.Layout(flex_flow="row wrap")), w.Output()
        self._refusal = ""
        strategies = w.HBox(list(self._strategies.values()), layout=w.Layout(flex_flow="row wrap"))
        form = w.VBox([strategies, self._split, self._options])
        form.layout.width = "45%"
        form.layout.min_width = "320px"
        result = w.VBox([self._text, self._remedies, self._charts], layout=w.Layout(width="55%"))
        super().__init__([w.HBox([form, result], layout=w.Layout(flex_flow="row wrap"))])
        self._planned: Outlook | None = None
        self._set(differences(start))

    def still(self) -> Still:
        chosen = {name: button.value for name, button in self._strategies.items()}
        on = ", ".join(name for name, is_on in chosen.items() if is_on) or "none"
        values = ", ".join(f"{path} = {value}" for path, value in self._paths().items())
        if self._planned is None:
            texts, charts = [values, self._refusal], []
        else:
            texts = [values, *_plan_texts(self._planned)]
            charts = [mesh_chart(placement(self._planned.plan)), held_chart(self._planned.held)]
        description = f"Form to choose a split. Strategies: {on}. " + " ".join(text.removesuffix(".") + "." for text in texts)
        return Still([buttons(chosen), paragraphs(texts), *charts], description)

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
            Fields((f for f in section if self._is_in_form(f.path)), paths, self._read) for section in sections.values()
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

    def _is_in_form(self, path: str) -> bool:
        """Whether the form has this path: split, model options and training. All others keep their initial values, such as what
        a user's model consists of apart from its arguments, and an optimizer of the user's own."""
        return path.startswith(("split.", "train.", "model.")) and path not in self._not_in_form

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
            self._planned = Outlook.of(plan(spec_of(paths)))
        except SpecError as error:
            self._planned, self.spec = None, None
            self._refuse(paths, error)
            return
        self._remedies.children, self.spec = (), self._planned.plan.spec
        self._text.value = _plan_html(self._planned)
        self._charts.outputs = (
            output(mesh_chart(placement(self._planned.plan)), is_wide=False),
            output(held_chart(self._planned.held), is_wide=False),
        )

    def _refuse(self, paths: dict[str, Any], error: SpecError) -> None:
        self._refusal = f"This configuration is invalid: {error}"
        self._text.value = (
            f'<div role="alert" style="{_REFUSED}"><b>This configuration is invalid.</b> {escape(str(error))}</div>'
        )
        self._charts.outputs = ()
        buttons = []
        for change in nearest_valid(paths, error):
            button = w.Button(description=change_text(change), tooltip="Change this setting", layout=w.Layout(width="auto"))
            button.on_click(lambda _, change=change: self._set(with_change(paths, change)))
            buttons.append(button)
        self._remedies.children = buttons


def _summary(strategy: str) -> str:
    return " ".join((STRATEGIES.get(strategy).__doc__ or "").split("\n\n")[0].split())


def _plan_texts(outlook: Outlook) -> list[str]:
    """Returns the label and workers of a plan, its expected memory and communication, and a notice on the device."""
    planned, largest = outlook.plan, max(outlook.bytes_of_workers.values())
    communication = outlook.communication["bytes"].sum()
    axes = " × ".join(f"{axis} {size}" for axis, size in planned.mesh.axes.items())
    head = " · ".join(filter(None, (planned.spec.split.label, counted(planned.num_workers, "worker"), axes)))
    expected = f"Expected memory of the largest worker: {mebibytes(largest)}. Expected communication per step:"
    notice = f"{planned.device_notice}." if planned.device_notice else ""
    return list(filter(None, (head, f"{expected} {mebibytes(communication)}.", notice)))


def _plan_html(outlook: Outlook) -> str:
    """Returns ``_plan_texts`` and the expected communication as HTML."""
    head, *others = map(escape, _plan_texts(outlook))
    text = f"<p><b>{head}</b><br>{'<br>'.join(others)}</p>"
    return text + _communication_table(outlook.communication) if len(outlook.communication) else text


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
