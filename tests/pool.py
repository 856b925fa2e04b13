"""Until nobody imports it from here: ``workbench.testing.workers``."""

from __future__ import annotations

from workbench.testing.workers import run_in_workers

__all__ = ["run_in_workers"]
