"""The downloads of runs: tables, reports, whole runs."""

from __future__ import annotations

import streamlit as st

from workbench.api.store import Run, left_out, pack_runs
from workbench.dashboard.downloads import report_of, tables_of


def downloads(runs: list[Run]) -> None:
    """Draws the downloads, which are created only on request: the tables of many runs take a while."""
    name = f"{len(runs)}-runs" if len(runs) > 1 else runs[0].id
    st.download_button("Report (HTML)", lambda: report_of(runs), f"{name}.html", "text/html", on_click="ignore")
    st.download_button("Tables as CSV", lambda: tables_of(runs, "csv"), f"{name}-csv.zip", "application/zip")
    st.download_button("Tables as Parquet", lambda: tables_of(runs, "parquet"), f"{name}-parquet.zip", "application/zip")
    st.download_button(
        "Complete runs (for import)", lambda: pack_runs(runs), f"{name}.zip", "application/zip",
        help="The run directories. Import loads them into another store.",
    )  # fmt: skip
    if sentence := left_out(runs):
        st.caption(sentence)
