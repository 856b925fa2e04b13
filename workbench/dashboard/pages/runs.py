"""The page Runs: find, name, tag, delete, restore, compare, export and import runs."""

from __future__ import annotations

import zlib
from typing import IO

import pandas as pd
import streamlit as st

from workbench.analysis.findings import findings_on
from workbench.analysis.latest import MOST_COMPARED
from workbench.api.store import Run, import_runs, open_exact
from workbench.dashboard.cache import overview
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.details import details
from workbench.dashboard.components.export import downloads
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.components.navigate import go, has
from workbench.dashboard.components.runs_table import runs_table
from workbench.dashboard.table import SORTS, chosen, filtered, tags_of
from workbench.errors import WorkbenchError
from workbench.messages import counted

MOST_SHOWN = 200
"""Maximum number of rows that the browser gets at once; the filters find the others."""
_MOST_FAILED = 9
"""Failed runs that are read to show three of which none is a baseline of another."""
UNDO = "deleted just now"
IMPORTED = "imported just now"


def main() -> None:
    """Draws the page."""
    st.title("Runs")
    if IMPORTED in st.session_state:
        st.toast(st.session_state.pop(IMPORTED))
    _undo()
    frame, deleted = overview().read()
    if frame.empty:
        st.info("There are no runs yet.")
        if st.button("Configure a run", type="primary"):
            go("configure")
        _import()
        _deleted(deleted)
        return
    filtered_runs = _filter(frame)
    if len(filtered_runs) > MOST_SHOWN:
        st.caption(
            f"{len(filtered_runs):,} of {len(frame):,} runs; the first {MOST_SHOWN} are listed. Use the filters to find the"
            " others."
        )
    else:
        st.caption(
            f"{len(filtered_runs):,} of {len(frame):,} runs. To compare, export, tag or delete runs, select them: click in the"
            " first column or press Shift+Space on a row."
        )
    listed = filtered_runs.head(MOST_SHOWN)
    # A selection is of rows: it must not outlive the list in which it was made.
    selection_key = zlib.crc32("\n".join(listed["run_id"]).encode())
    selected = runs_table(listed, key=f"runs {selection_key}", selection="multi-row")
    selected = selected or chosen(frame, st.query_params.get("runs", "").split(","))
    _selected(selected)
    _failed(listed[~listed["run_id"].isin(selected)])
    _import()
    _deleted(deleted)


def _filter(frame: pd.DataFrame) -> pd.DataFrame:
    columns = st.columns([3, 2, 2, 2, 2])
    with columns[0]:
        text = st.text_input("Filter", placeholder="name, split, dataset, note, id…", key="find", max_chars=200)
    with columns[1]:
        states = st.multiselect("State", sorted(frame["state"].unique()), key="states", placeholder="any")
    with columns[2]:
        models = st.multiselect("Model", sorted(filter(None, frame["model"].unique())), key="models", placeholder="any")
    with columns[3]:
        tags = st.multiselect("Tags", tags_of(frame), key="tags", placeholder="any")
    with columns[4]:
        sort = st.selectbox("Sort", list(SORTS), key="sort")
    return filtered(frame, text, states, models, tags, sort)


def _selected(run_ids: list[str]) -> None:
    """Draws the actions on the selected runs."""
    runs = [open_exact(run_id) for run_id in run_ids]
    if not runs:
        return
    st.header(f"{len(runs)} selected", anchor=False)
    with st.container(horizontal=True):
        if has("compare") and len(runs) > 1 and st.button("Compare", type="primary", icon=":material/compare_arrows:"):
            go("compare", {"runs": ",".join(run_ids)})
        if has("run") and len(runs) == 1 and st.button("Open", type="primary", icon=":material/open_in_full:"):
            go("run", {"run": run_ids[0]})
        st.button("Delete", icon=":material/delete:", on_click=_delete, args=(run_ids,))
        with st.popover("Export", icon=":material/download:"):
            downloads(runs)
        if len(runs) > 1:
            with st.popover("Tag", icon=":material/label:"):
                _tag(runs)
    if len(runs) == 1:
        details(runs[0])
    else:
        rows = [run.row() for run in runs[:MOST_COMPARED]]
        compared = runs[:MOST_COMPARED]
        for sentence in findings_on(compared, rows):
            st.text(f"• {sentence}")


def _tag(runs: list[Run]) -> None:
    """Draws the tags of several runs; those of one run are with its name and note."""
    text = st.text_input("Tags, separated by commas", max_chars=500, key="tags of several")
    with st.container(horizontal=True):
        is_added, is_taken = st.button("Add to all"), st.button("Remove from all")
    if not (is_added or is_taken):
        return
    given = text.split(",")
    try:
        for run in runs:
            if is_added:
                run.add_tags(given)
            else:
                run.remove_tags(given)
    except WorkbenchError as error:
        alert("error", "Not tagged", str(error))
    else:
        st.rerun()


def _delete(run_ids: list[str]) -> None:
    gone, problems = [], []
    for run_id in run_ids:
        try:
            open_exact(run_id).delete()
            gone.append(run_id)
        except WorkbenchError as error:
            problems.append(str(error))
    st.session_state[UNDO] = {"gone": gone, "problems": problems}


def _restore(run_ids: list[str]) -> None:
    for run_id in run_ids:
        open_exact(run_id).restore()
    st.session_state.pop(UNDO, None)


def _undo() -> None:
    """Shows what was deleted, with a button that restores it."""
    deleted = st.session_state.get(UNDO)
    if not deleted:
        return
    if deleted["problems"]:
        alert("warning", "Not deleted", *deleted["problems"])
    if gone := deleted["gone"]:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(f"{counted(len(gone), 'run')} deleted.")
            st.button("Undo", icon=":material/undo:", on_click=_restore, args=(gone,))


def _failed(listed: pd.DataFrame) -> None:
    failed = listed[listed["state"].isin(["failed", "lost"])]
    if failed.empty:
        return
    st.header("Failures", anchor=False)
    st.caption("The latest three failed runs of this list, without their baselines. Select another run to see its failure.")
    runs = [open_exact(str(run_id)) for run_id in failed["run_id"].head(_MOST_FAILED)]
    baselines = {baseline for run in runs for baseline in run.record.baseline_ids}
    for run in [run for run in runs if run.id not in baselines][:3]:
        failure_card(run)


def _import() -> None:
    with st.expander("Import runs", icon=":material/upload:"):
        st.caption("A zip file of run directories from Export, or of a whole store. Import executes nothing.")
        packed = st.file_uploader("Zip file", type="zip", key=f"import {st.session_state.get('import number', 0)}")
        if packed is not None and st.button("Import", type="primary"):
            _import_file(packed)


def _import_file(file: IO[bytes]) -> None:
    try:
        new, existing = import_runs(file)
    except WorkbenchError as error:
        alert("error", "Not imported", str(error))
        return
    st.session_state["import number"] = st.session_state.get("import number", 0) + 1
    st.session_state[IMPORTED] = f"{len(new)} imported" + (f", {len(existing)} already present" if existing else "")
    st.rerun()


def _deleted(run_ids: list[str]) -> None:
    if not run_ids:
        return
    with st.expander(f"Deleted runs ({len(run_ids)})", icon=":material/delete:"):
        st.caption("The files of deleted runs remain on disk; `workbench rm --purge` removes them.")
        back = st.multiselect("Runs to restore", run_ids[::-1][:MOST_SHOWN], key="bring back")
        st.button("Restore", on_click=_restore, args=(back,), disabled=not back)
