"""What tests in a browser have in common."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from workbench.store import runs_table
from workbench.store.run_status import TERMINAL
from workbench.testing.browser import chromium

LIMIT_MS = 60_000
SINGLE = "20261124-100001-single-aaaaaa"
SMALL = "configure?model.name=mlp&model.hidden_dim=16&model.feedforward_dim=32"
"""Address of a configuration whose runs are short."""


def browser_marks(limit_s: int = 600) -> list[pytest.MarkDecorator]:
    """Marks of a module of tests in a browser."""
    missing = chromium() is None
    return [pytest.mark.slow, pytest.mark.timeout(limit_s), pytest.mark.skipif(missing, reason="there is no Chromium here")]


def ended(store: Path) -> list[str]:
    """States of all runs once all have ended, for as long as the test may take."""
    while True:
        states = [row["state"] for row in runs_table.rows(store)]
        if states and all(state in TERMINAL for state in states):
            return states
        time.sleep(0.2)
