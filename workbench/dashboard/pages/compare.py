"""The page Compare: the best runs, the step times, the figures, and below these the findings, differences and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import pandas as pd
import streamlit as st

from workbench.analysis import noise
from workbench.analysis.comparison import numbers
from workbench.analysis.parity import HELP
from workbench.analysis.trust import is_doubtful
from workbench.analysis.winners import Winner, best_rows, in_table_order
from workbench.api.groups import group_of
from workbench.api.store import Run, open_exact
from workbench.dashboard.cache import queue, runs_frame
from workbench.dashboard.comparison import Comparison, Figure, compared, measured
from workbench.dashboard.components.chart import figure, run_figure
from workbench.dashboard.components.choose_runs import choose_runs
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.components.measure_again import measure_again_button
from workbench.dashboard.components.navigate import go, has
from workbench.dashboard.downloads import csv_of
from workbench.dashboard.table import alike, filtered
from workbench.messages import counted

MOST_FINDINGS = 6
"""Findings that are shown at first."""
MOST_GROUPS = 8
PICKED = "picked run"
"""Key of the clicked run, which is highlighted in every table and chart."""
TIMES = ("step_ms", "p10_ms", "p90_ms", "samples_per_s", "speedup", "speedup_same_cores", "efficiency")
"""Columns of the table that depend on time."""
_FIGURES = {
    "step_ms": "step_time_s", "samples_per_s": "samples_per_s", "speedup": "speedup", "peak_mib": "peak_memory_bytes",
    "communication_mib": "communication_bytes_per_step",
}  # fmt: skip
"""Column of the table → column of ``runs``, where the best value is marked."""
_IS_BEST = "background-color: rgba(0, 158, 115, 0.25)"
_IS_UNRELIABLE = {"light": "color: #6b6b6b", "dark": "color: #a3a3a3"}
"""Grey with a contrast of 4.5:1 or more."""
_STANDS_OUT = "background-color: rgba(230, 159, 0, 0.3)"
"""Highlight on light and dark backgrounds."""


def main() -> None:
    """Draws the page."""
    st.title("Compare")
    run_ids = choose_runs()
    runs = [open_exact(run_id) for run_id in run_ids]
    if not runs:
        _groups()
        return
    found = compared(runs)
    if len(runs) == 1:
        st.info("Select a second run above to compare.")
    for run in runs:
        failure_card(run)
    if found is None:
        return
    finished = [(run, row) for run, row in zip(runs, found.rows, strict=True) if row["step_time_s"] is not None]
    rows = [row for _, row in finished]
    _winners(found.winners)
    measure_again_button(runs)
    _draw(found.step_time)
    _table(in_table_order(rows), found.work)
    _findings([run for run, _ in finished], rows, found)
    _spec(found.differences, len(runs))
    _charts(found)


def _groups() -> None:
    """Draws a button for each of the latest groups, which compares its runs with their baselines."""
    frame = runs_frame()
    grouped = filtered(frame[(frame["state"] == "finished") & (frame["group"] != "")])
    if grouped.empty:
        return
    st.header("Groups", anchor=False)
    for name in grouped["group"].unique()[:MOST_GROUPS]:
        run_ids = list(grouped.loc[grouped["group"] == name, "run_id"])[::-1]
        if st.button(f"{name} ({counted(len(run_ids), 'run')})", icon=":material/stacks:", key=f"compare group {name}"):
            group = group_of(name, [queue().record(run_id) for run_id in run_ids], dict(frame[["run_id", "state"]].to_numpy()))
            step_times = dict(frame[["run_id", "step_time_s"]].dropna().to_numpy())
            go("compare", {"runs": ",".join(group.compared(step_times))})


def _winners(best: Sequence[Winner]) -> None:
    """Draws the best runs, one metric each."""
    for column, winner in zip(st.columns(len(best) or 1), best, strict=False):
        with column, st.container(border=True):
            st.metric(winner.title, winner.figure)
            st.text(", ".join(filter(None, (winner.splits, winner.detail))))  # a label of an imported run may hold Markdown


def _findings(runs: Sequence[Run], rows: Sequence[dict[str, Any]], found: Comparison) -> None:
    """Draws what limits each run, with its evidence, and which differences are noise."""
    st.header("Findings", anchor=False)
    _list(found.findings[:MOST_FINDINGS])
    if more := found.findings[MOST_FINDINGS:]:
        with st.expander(counted(len(more), "more finding")):
            _list(more)
    store = runs_frame()
    times = [replace(measured(run, alike(store, run)), name=row["split"]) for run, row in zip(runs, rows, strict=True)]
    if differences := noise.sentences(rows, times, found.work):
        with st.expander("Noise analysis"):
            _list(differences)


def _list(sentences: Sequence[str]) -> None:
    st.text("\n".join(f"• {sentence}" for sentence in sentences), width="stretch")


def _spec(frame: pd.DataFrame, num_runs: int) -> None:
    if num_runs < 2:
        return
    st.header("Configuration differences", anchor=False)
    if frame.empty:
        st.caption("The specs are equal: differences between the results are noise.")
    else:
        picked = st.session_state.get(PICKED)
        st.dataframe(frame.style.apply(_column_stands_out, picked=picked), key="differences")


def _table(rows: list[dict[str, Any]], work: str) -> None:
    st.header("Results", anchor=False)
    number = st.column_config.NumberColumn
    frame = numbers(rows)
    event: Any = st.dataframe(
        _styled(frame, best_rows(rows, work), [i for i, row in enumerate(rows) if is_doubtful(row)]),
        hide_index=True,
        key="figures",
        on_select="rerun",
        selection_mode="single-row",
        placeholder="–",
        column_config={
            "workers": number("workers", help="Number of worker processes."),
            "step_ms": number("step (ms)", format="%.1f", help="Median over the timed steps of the slowest worker."),
            "p10_ms": number("p10 (ms)", format="%.1f", help="10th percentile of the timed steps."),
            "p90_ms": number("p90 (ms)", format="%.1f", help="90th percentile of the timed steps."),
            "samples_per_s": number("samples/s", format="%.0f", help="Global batch size divided by the step time."),
            "speedup": number("speed-up", format="%.2f×", help="Step time of one worker divided by the step time of this run."),
            "speedup_same_cores": number(
                "vs same cores", format="%.2f×", help="Speed-up over one worker with as many threads as all workers together."
            ),
            "efficiency": number(
                "efficiency", format="%.0f%%", help="Speed-up divided by how many times as many threads as the baseline it has."
            ),
            "peak_mib": number("peak (MiB)", format="%.1f", help="Peak memory of the tensors on the largest worker."),
            "communication_mib": number(
                "communication (MiB)",
                format="%.2f",
                help="Communication volume per step: each collective counts once per group, each send once.",
            ),
            "parity": st.column_config.TextColumn("parity", help=HELP),
            "trust": st.column_config.TextColumn("trust", help="State of the times: quiet, or why they are unreliable (grey)."),
        },
    )
    _pick([str(frame["run"].iloc[row]) for row in event.selection.rows], "figures")
    with st.container(horizontal=True):
        table = frame.assign(run_id=[row["run_id"] for row in rows], run=frame["run"].str.removesuffix(" ⚠"))
        st.download_button("Results (CSV)", lambda: csv_of(table), "results.csv", "text/csv", on_click="ignore")
        _picked(rows)


def _styled(frame: pd.DataFrame, best: dict[str, list[int]], doubtful: list[int]) -> Any:
    """Marks the best value of each column, the times that are not trusted, and the clicked run."""
    styled = frame.style.apply(_row_stands_out, axis=1, picked=st.session_state.get(PICKED))
    for column, of_runs in _FIGURES.items():
        if of_runs in best:
            styled = styled.map(lambda _: _IS_BEST, subset=pd.IndexSlice[best[of_runs], [column]])
    grey = _IS_UNRELIABLE[st.context.theme.type or "light"]
    return styled.map(lambda _: grey, subset=pd.IndexSlice[doubtful, list(TIMES)])


def _row_stands_out(row: pd.Series, picked: str | None) -> list[str]:
    return [_STANDS_OUT if row["run"] == picked else ""] * len(row)


def _column_stands_out(column: pd.Series, picked: str | None) -> list[str]:
    return [_STANDS_OUT if column.name == picked else ""] * len(column)


def _picked(rows: list[dict[str, Any]]) -> None:
    """Draws the actions on the clicked run."""
    row = next((row for row in rows if row["split"] == st.session_state.get(PICKED)), None)
    if row is None:
        st.caption("Click a run in the table or in a chart to highlight it everywhere.")
        return
    if has("run") and st.button(f"Open {row['split']}", icon=":material/open_in_full:"):
        go("run", {"run": row["run_id"]})
    if has("trace") and st.button(f"Trace of {row['split']}", icon=":material/timeline:"):
        go("trace", {"run": row["run_id"]})
    st.button("Clear selection", icon=":material/close:", on_click=lambda: st.session_state.pop(PICKED, None))


def _pick(clicked: list[str], where: str) -> None:
    """Records what was just clicked; ignores a click that was seen before."""
    if clicked and st.session_state.get(f"clicked in {where}") != clicked:
        st.session_state[f"clicked in {where}"] = clicked
        st.session_state[PICKED] = clicked[0]
        st.rerun()
    if not clicked:
        st.session_state.pop(f"clicked in {where}", None)


def _charts(found: Comparison) -> None:
    for column, parts in zip(cycle(st.columns(2, gap="large")), found.charts, strict=False):
        with column:
            for part in parts:
                _draw(part)
    st.header("Communication, measured and expected", anchor=False)
    for column, one in zip(cycle(st.columns(2, gap="large")), found.communication, strict=False):
        with column:
            _draw(one)
    if not found.communication:
        st.caption("No communication: each run has a single worker.")


def _draw(one: Figure) -> None:
    """Draws a chart and, on request, its details: of the clicked run, or of all if none is."""
    picked = st.session_state.get(PICKED)
    clicked = run_figure(one.chart, one.frame, one.name, picked)
    _pick([clicked] if clicked else [], one.name)
    if one.unfolded:
        heading, draw = one.unfolded
        with st.expander(heading, key=f"details of {one.name}", on_change="rerun") as expander:
            if expander.open:  # else nothing is drawn, which takes time at every click
                shown = one.frame[one.frame["split"] == picked] if picked in set(one.frame["split"]) else one.frame
                figure(draw(shown), shown, f"{one.name}-details")
