"""Widgets that configure, run and compare in JupyterLab, and checks for exercises: ``from workbench import widgets``."""

from workbench.notebook import model_cell, rendering
from workbench.notebook.compare_view import CompareView
from workbench.notebook.exercise import check, check_exercise
from workbench.notebook.run_panel import RunPanel
from workbench.notebook.split_picker import SplitPicker
from workbench.notebook.trace_view import TraceView

__all__ = ["CompareView", "RunPanel", "SplitPicker", "TraceView", "check", "check_exercise"]

rendering.enable()
model_cell.enable()
