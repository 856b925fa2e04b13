"""The page of one run: its figures, what its report shows, its logs and the runs beside it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from workbench.analysis.formatting import factor, marked, mebibytes, seconds
from workbench.analysis.parity import lower_precision, parity_text
from workbench.analysis.trust import reason
from workbench.api.remeasurement import can_be_measured_again
from workbench.api.store import Run, open_exact
from workbench.dashboard.cache import Changes, changes_with_baselines, runs_frame
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.choose_runs import choose_run
from workbench.dashboard.components.details import details
from workbench.dashboard.components.export import downloads
from workbench.dashboard.components.log import log
from workbench.dashboard.components.measure_again import measure_again_button
from workbench.dashboard.components.navigate import go, has
from workbench.dashboard.components.runs_table import runs_table
from workbench.dashboard.components.section import draw_section
from workbench.dashboard.table import alike
from workbench.errors import DamagedRunError
from workbench.export.report.parts import Section, compare
from workbench.export.report.write import sections_of


def main() -> None:
    """Draws the page."""
    st.title("Run")
    run_id = choose_run(any_state=True)
    if run_id is None:
        return
    run = open_exact(run_id)
    try:
        row = run.row()
    except DamagedRunError as error:
        alert("error", "This run cannot be read", str(error))
        return
    # As text: the record of an imported run may hold Markdown.
    facts = (row["split"], row["name"], f"{row['model']} on {row['dataset']}", row["mode"], row["state"], run.id)
    st.text("  ·  ".join(filter(None, facts)))
    _actions(run)
    if row["step_time_s"] is not None:
        _figures(run, row)
        for section in _sections(changes_with_baselines([run]), run):
            draw_section(section, f"{section.heading} of {run.id}")
    elif not run.state.is_terminal:
        st.info(run.message or f"The run is {row['state']}; its figures come when it has finished.")
    details(run)
    log(run, run.record.num_workers)
    _beside(run)


@st.cache_resource(max_entries=16, show_spinner=False)
def _sections(changes: Changes, _run: Run) -> list[Section]:
    """Returns the sections of the report of a run."""
    return sections_of(compare([_run]))


def _actions(run: Run) -> None:
    with st.container(horizontal=True):
        if has("trace") and run.summary is not None and st.button("Trace", icon=":material/timeline:"):
            go("trace", {"run": run.id})
        if has("live") and not run.state.is_terminal and st.button("Live", icon=":material/monitor_heart:"):
            go("live", {"run": run.id})
        others = [other for other in run.record.baseline_ids if _exists(run, other)]
        if has("compare") and others and st.button("Compare with its baselines", icon=":material/compare_arrows:"):
            go("compare", {"runs": ",".join([*others, run.id])})
        with st.popover("Export", icon=":material/download:"):
            downloads([run])
        if can_be_measured_again(run):
            measure_again_button([run])


def _figures(run: Run, row: dict[str, Any]) -> None:
    """Draws the main figures with their trust."""
    is_inference = row["mode"] == "inference"
    figures = (
        ("Latency" if is_inference else "Step", seconds(row["step_time_s"]), "step_time_s"),
        ("Speed-up", factor(row["speedup"]), "speedup"),
        ("vs same cores", factor(row["speedup_same_cores"]), "speedup_same_cores"),
        ("Peak memory", mebibytes(row["peak_memory_bytes"]), "peak_memory_bytes"),
        ("Communication per step", mebibytes(row["communication_bytes_per_step"]), "communication_bytes_per_step"),
        ("Parity", parity_text(row), "parity_verdict"),
    )
    with st.container(horizontal=True, gap="medium", key="figures"):
        for head, text, figure in figures:
            if text != "–":
                st.metric(head, marked(text, row, figure), width="content")
    if run.summary and (why := reason(run.record, run.summary)):
        st.caption(f"⚠ {row['trust']}: {why}.")
    if why := lower_precision(row):
        st.caption(f"Parity: {why}.")


def _beside(run: Run) -> None:
    """Draws the baselines of the run and the other runs of its split, model and dataset."""
    frame = runs_frame()
    ids = {*run.record.baseline_ids, *(other.id for other in alike(frame, run))} - {run.id}
    if len(siblings := frame[frame["run_id"].isin(ids)]):
        st.header("Baselines and repeats", anchor=False)
        runs_table(siblings, key="siblings")


def _exists(run: Run, run_id: str) -> bool:
    return (run.path.parent / run_id / "run.json").exists()
