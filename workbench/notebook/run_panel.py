"""The widget ``RunPanel``: starts a run and shows its progress, live figures and result; the kernel stays free."""

from __future__ import annotations

import threading
import time
from html import escape
from typing import Any

import ipywidgets as w
import psutil

from workbench.analysis.formatting import seconds
from workbench.analysis.losses import losses
from workbench.analysis.progress import Follower
from workbench.api import Run, submit
from workbench.api.execution import terminated_as_interrupted
from workbench.api.progress import progress_text
from workbench.api.specs import RunSpec
from workbench.api.store import newest_first
from workbench.charts.loss import losses_charts
from workbench.charts.theme import AnyChart
from workbench.errors import RunFailedError, UsageError, WorkbenchError
from workbench.notebook.rendering import Still, WidgetBase, output
from workbench.notebook.split_picker import SplitPicker
from workbench.notebook.still import buttons, paragraphs

_REFRESH_S = 0.5


class RunPanel(WidgetBase):
    """Runs a spec, or the selected spec of a picker when *Run* is pressed, and shows its progress.

    The run is a separate process: the kernel stays free, and the run outlives it. A panel of the same spec, such as one made by
    executing the cell again, attaches to the run that is in progress, or that was created since this session began and has
    finished. ``.wait()`` starts the run if there is none and returns it when it has finished; ``.run`` is the run, or
    None if there is none.

    Raises:
        UsageError: the argument is neither a spec nor a picker.
    """

    def __init__(self, spec: RunSpec | SplitPicker) -> None:
        if not isinstance(spec, RunSpec | SplitPicker):
            raise UsageError(f"RunPanel takes a RunSpec or a SplitPicker, but got {spec!r}")
        self._source = spec
        self._start = w.Button(description="Run", button_style="primary", icon="play")
        self._cancel = w.Button(description="Cancel", icon="stop", disabled=True)
        self._bar = w.IntProgress(0, 0, 1, layout=w.Layout(width="240px"))
        self._message, self._figures, self._charts = w.HTML(), w.HTML(), w.Output()
        self._start.on_click(lambda _: self._show_error(self.start))
        self._cancel.on_click(lambda _: self.cancel())
        super().__init__([w.HBox([self._start, self._cancel, self._bar, self._message]), self._figures, self._charts])
        if isinstance(spec, SplitPicker):
            spec.observe(lambda change: self._chosen_anew(), "spec")
        self.run: Run | None = None
        self._followers: dict[str, Follower] = {}
        self._thread: threading.Thread | None = None
        self._ready()
        if self.spec and (earlier := _earlier(self.spec)):
            self._watch(earlier)

    @property
    def spec(self) -> RunSpec | None:
        """Returns the spec that *Run* starts; None if that of the picker is invalid."""
        return self._source.spec if isinstance(self._source, SplitPicker) else self._source

    def start(self) -> Run:
        """Starts a new run, even if the spec has run before.

        Raises:
            UsageError: the spec of the picker is invalid, or the current run has not ended.
            SpecError: the spec cannot be run.
        """
        if self.spec is None:
            raise UsageError("the split selected in the picker is invalid; the picker shows the reason")
        if self.run is not None and not self.run.state.is_terminal:
            raise UsageError(f"run {self.run.id} is still {self.run.state}; cancel it first")
        run = submit(self.spec)
        self._watch(run)
        return run

    def cancel(self) -> None:
        """Requests the end of the run and of the baselines that only it needs; returns at once."""
        if self.run is not None:
            self.run.cancel()

    def wait(self) -> Run:
        """Attaches to a run or starts one if there is none, waits for its end and returns it.

        Raises:
            RunFailedError: the run failed, was cancelled or was lost.
        """
        if self.run is None:
            if self.spec and (earlier := _earlier(self.spec)):
                self._watch(earlier)
            else:
                self.start()
        assert self.run is not None
        assert self._thread is not None
        try:
            with terminated_as_interrupted():
                self._thread.join()
        except KeyboardInterrupt:
            self.run.end()
            raise
        if self.run.state != "finished":
            raise RunFailedError(f"run {self.run.id} {self.run.state}: {self.run.message}")
        return self.run

    def still(self) -> Still:
        what = self.spec.split.label if self.spec else "an invalid spec"
        is_going = self.run is not None and not self.run.state.is_terminal
        if self.run is None:
            state = "Nothing runs yet; in JupyterLab the button Run starts it, in code wait()."
        else:
            state = progress_text(self.run, {}) if is_going else repr(self.run)
        charts = [] if self.run is None or is_going else self._loss_charts(self.run)
        parts = [buttons({"Run": not is_going, "Cancel": is_going}), paragraphs([f"{what}: {state}"]), *charts]
        return Still(parts, f"Panel that runs {what}. {state}")

    def _ready(self) -> None:
        is_running = self.run is not None and not self.run.state.is_terminal
        self._start.disabled = is_running or self.spec is None
        self._cancel.disabled = not is_running
        if not is_running:
            self._message.value = escape(self.spec.split.label) if self.spec else "invalid"

    def _chosen_anew(self) -> None:
        """Clears an ended run of another spec: it is neither shown with the label of this one nor waited for."""
        if self.run is None or self.run.state.is_terminal:
            self.run = None
            self._clear()
        self._ready()

    def _clear(self) -> None:
        self._bar.value, self._figures.value, self._charts.outputs = 0, "", ()

    def _show_error(self, action: Any) -> None:
        try:
            action()
        except WorkbenchError as error:
            self._message.value = f"<b>{escape(str(error))}</b>"

    def _watch(self, run: Run) -> None:
        self.run, self._followers = run, dict[str, Follower]()
        self._clear()
        self._ready()
        self._thread = threading.Thread(target=self._follow, args=(run,), daemon=True)
        self._thread.start()

    def _follow(self, run: Run) -> None:
        """Reads events in a thread until the run has ended. Drawing is rare and cheap, since the run needs the cores."""
        while not run.state.is_terminal:
            self._draw(run)
            time.sleep(_REFRESH_S)
        self._draw(run)
        self._ready()
        self._message.value = run.state
        self._figures.value = run._repr_html_()
        self._charts.outputs = tuple(map(output, self._loss_charts(run)))

    def _loss_charts(self, run: Run) -> list[AnyChart]:
        row = run.row()
        return [*losses_charts(losses([run], [row]))] if row["final_loss"] is not None else []

    def _draw(self, run: Run) -> None:
        """Shows progress, step time, throughput, loss and process memory."""
        self._message.value = escape(progress_text(run, self._followers))
        follower = self._followers.get(run.id)
        if follower is None or follower.progress is None:
            return
        num_done, num_steps = follower.progress
        self._bar.max, self._bar.value = num_steps, num_done  # in this order: a value above the maximum is clipped
        workers = follower.workers()
        step_s = max(worker["step_ms"] or 0.0 for worker in workers) / 1e3
        facts = [f"{seconds(step_s)} per step", f"{run.spec.train.global_batch_size / step_s:.0f} samples/s"]
        losses_so_far = [step["loss"] for step in follower.losses]
        if losses_so_far:
            facts.append(f"loss {losses_so_far[-1]:.3f}")
        if sizes := [worker["memory_mib"] for worker in workers if worker["memory_mib"]]:
            facts.append("process memory " + ", ".join(f"{size:.0f} MiB" for size in sizes))
        self._figures.value = f"<p>{' · '.join(facts)}</p>{_line(losses_so_far)}"


def _earlier(spec: RunSpec) -> Run | None:
    """Returns the latest run of the same spec that is in progress; else the latest that was created since this process began and
    has finished; else None."""
    finished = None
    began_s = psutil.Process().create_time()
    for run in newest_first():
        state = run.state
        is_ours = state == "finished" and finished is None and run.record.created_at >= began_s
        if (not state.is_terminal or is_ours) and _is_of(run, spec):
            if not is_ours:
                return run
            finished = run
    return finished


def _is_of(run: Run, spec: RunSpec) -> bool:
    """Whether the run has this spec; the device of a run is resolved, that of the spec may be open."""
    try:
        run_spec = run.spec
    except WorkbenchError:
        return False
    return run_spec.replace(launch={**run_spec.as_dict()["launch"], "device": spec.launch.device}) == spec


def _line(values: list[float], width: int = 360, height: int = 60) -> str:
    """Returns the values as an SVG line, at little cost, since the kernel takes its time from the run."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    across, down = (width - 4) / (len(values) - 1), (height - 4) / ((high - low) or 1.0)
    points = " ".join(f"{2 + i * across:.0f},{2 + (high - value) * down:.0f}" for i, value in enumerate(values))
    line = f'<polyline points="{points}" fill="none" stroke="#0072B2" stroke-width="2"/>'
    return f'<svg width="{width}" height="{height}" role="img" aria-label="loss by step">{line}</svg>'
