"""The store that the pages show: what was read of it is kept for all sessions of this server, and read again where it changed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from workbench.api.store import Queue, home
from workbench.dashboard.table import Overview


def runs_frame() -> pd.DataFrame:
    """All runs; ``table.Overview``."""
    return overview().frame


def overview() -> Overview:
    """All runs of the store, and the deleted ones."""
    return _overview(home())


def queue() -> Queue:
    """Those that have not ended."""
    return _queue(home())


@st.cache_resource(max_entries=4, show_spinner=False)
def _overview(store: Path) -> Overview:
    return Overview(store)


@st.cache_resource(max_entries=4, show_spinner=False)
def _queue(store: Path) -> Queue:
    return Queue(store)
