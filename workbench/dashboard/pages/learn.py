"""The page Learn: one lesson per strategy, with the concept step by step, formulas, costs, a run, and the code."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from workbench.analysis.byte_units import in_bytes
from workbench.analysis.formatting import factor, marked
from workbench.analysis.parity import parity_text
from workbench.analysis.progress import Follower
from workbench.analysis.step_walkthrough import busiest
from workbench.api.specs import RunSpec, four_strategies
from workbench.api.store import Run, open_exact
from workbench.charts.walkthrough import walk_chart
from workbench.dashboard.complexity import difference
from workbench.dashboard.components.alerts import alert
from workbench.dashboard.components.chart import plain_figure
from workbench.dashboard.components.failure import failure_card
from workbench.dashboard.components.lanes import lanes
from workbench.dashboard.components.navigate import follows_address, go, has
from workbench.dashboard.components.progress import bar
from workbench.dashboard.lessons import Lesson, lesson, names, overview, walkthrough
from workbench.dashboard.start import DEMONSTRATION, start
from workbench.dashboard.traces import steps_of
from workbench.errors import UsageError

REFRESH_S = 1.0


def main() -> None:
    """Draws the page."""
    st.title("Learn")
    one = lesson(_chosen())
    st.header(one.title, anchor=False)
    if one.spec is None:
        _text(one, list(one.sections))
        _formulas(one)
        _overview()
        return
    first, *others = one.sections
    left, right = st.columns([5, 6], gap="large")
    with left:
        _text(one, [first, *others[:1]])
    with right:
        _diagram(one.name)
    _formulas(one)
    if last := others[1:]:
        for column, heading in zip(st.columns(len(last), gap="large"), last, strict=True):
            with column:
                _text(one, [heading])
    _run_section(one)
    if one.scripts:
        _code(one)


def _chosen() -> str:
    """Draws the selection of the lesson, which is in the address so that it can be shared. Returns its name."""
    offered = names()
    requested = st.query_params.get("lesson", offered[0])
    key = "lesson"
    if requested not in offered:
        alert("warning", "There is no such lesson", requested[:100])
    if follows_address(key, requested):
        st.session_state[key] = st.session_state[f"{key}, asked"] = requested if requested in offered else offered[0]
    chosen = st.segmented_control(
        "Lesson", offered, format_func=lambda name: lesson(name).short, key=key, label_visibility="collapsed", required=True
    )
    st.session_state[f"{key}, asked"] = chosen
    if chosen != requested:
        st.query_params.from_dict({"lesson": str(chosen)})
    return str(chosen)


def _text(one: Lesson, headings: list[str]) -> None:
    for heading in headings:
        st.subheader(heading, anchor=False)
        st.markdown(one.sections[heading])


def _formulas(one: Lesson) -> None:
    if not one.formulas:
        return
    st.subheader("Formula" if len(one.formulas) == 1 else "Formulas", anchor=False)
    for formula in one.formulas:
        with st.container(border=True):
            st.latex(formula.tex)
            st.markdown(formula.says)
            st.caption(formula.source)


def _overview() -> None:
    st.subheader("Overview of the strategies", anchor=False)
    st.caption(
        "Expected values for the small model of each lesson. Model state and activations are those of the largest worker,"
        " relative to one worker; communication is per step."
    )
    st.dataframe(
        overview(),
        hide_index=True,
        key="overview",
        placeholder="–",
        column_config={
            "state": st.column_config.NumberColumn(
                "model state",
                format="percent",
                help="Parameters, gradients and optimizer state on the largest worker, relative to one worker.",
            ),
            "activations": st.column_config.NumberColumn(
                "activations", format="percent", help="Relative to one worker. Empty where a router decides: there is no formula."
            ),
            "communication_mib": st.column_config.NumberColumn(
                "communication (MiB)",
                format="%.2f",
                help="Payload per step: each collective counts once per group. On the wire an all-reduce takes about twice that.",
            ),
            "operations": st.column_config.NumberColumn(
                "operations per step", help="Each operation takes at least the latency of the link."
            ),
            "lines": st.column_config.NumberColumn("added lines", help="Lines added to a training script of a dozen lines."),
            "concepts": st.column_config.NumberColumn(
                "new concepts", help="Number of torch.distributed names that the script uses."
            ),
        },
    )
    st.caption("The demonstration runs four of these strategies and one worker on text, in about a minute.")
    if st.button("Run the demonstration", type="primary", icon=":material/play_arrow:"):
        _start(four_strategies(RunSpec()), lambda _: go("live"), DEMONSTRATION)


@st.fragment
def _diagram(name: str) -> None:
    """Draws one moment of the step, selected by a slider."""
    of = walkthrough(name)
    label = f"Moment of one training step of {of.planned.spec.split.label} (0: before it begins)"
    number = st.slider(label, 0, len(of.moments) - 1, busiest(of.moments), key=f"moment of {name}")
    kinds = list(dict.fromkeys(kind for frame in of.cells for kind in frame["kind"]))
    num_lanes = max(frame["lane"].nunique() for frame in of.wires)
    sentence = of.moments[number].sentence
    chart = walk_chart(of.cells[number], of.wires[number], kinds, num_lanes, sentence)
    plain_figure(chart.configure_mark(aria=False), f"walk {name}")  # the sentence says it
    st.markdown(f"**{sentence}**")


def _run_section(one: Lesson) -> None:
    """Runs the spec of the lesson on request, shows its progress and then what the workers did."""
    st.subheader("Run", anchor=False)
    st.caption(
        "Trains a small model with this strategy in separate processes on this machine, after checking parity with one worker."
    )
    if st.button("Run", type="primary", icon=":material/play_arrow:"):
        assert one.spec is not None
        _start([one.spec], lambda ids: st.query_params.update(run=ids[0]))
    if not (named := st.query_params.get("run")):
        return
    try:
        run = open_exact(named)
    except UsageError as error:
        alert("warning", "Run not found", str(error))
        return
    if run.state.is_terminal:
        _result(run)
    else:
        st.fragment(_follow, run_every=REFRESH_S)(run)


def _start(specs: list[RunSpec], then: Callable[[list[str]], None], group: str | None = None) -> None:
    started = start(specs, group)
    if started.refused:
        alert("error", "Not started", *started.refused)
    else:
        then(started.ids)


def _follow(run: Run) -> None:
    if run.state.is_terminal:
        st.rerun()
    follower = Follower(run)
    follower.read_new()
    bar(follower, run.state, run.message)


def _result(run: Run) -> None:
    failure_card(run)
    row = run.row()
    if row["step_time_s"] is None:
        return
    with st.container(horizontal=True, gap="large"):
        st.metric("Step", marked(f"{row['step_time_s'] * 1e3:.1f} ms", row, "step_time_s"), width="content")
        if row["speedup"] is not None:
            st.metric(
                "Speed-up",
                marked(factor(row["speedup"]), row, "speedup"),
                help="Step time of one worker divided by the step time of this run.",
                width="content",
            )
        if row["communication_bytes_per_step"] is not None:
            st.metric("Communication per step", in_bytes(row["communication_bytes_per_step"]), width="content")
        st.metric("Parity", parity_text(row), width="content")
    if traced := steps_of(run):
        lanes(run, traced.typical)
    if has("trace") and st.button("Open trace", icon=":material/timeline:"):
        go("trace", {"run": run.id})


def _code(one: Lesson) -> None:
    st.subheader("Code", anchor=False)
    plain, split = one.scripts
    code = difference(plain, split)
    st.markdown(
        f"The single-worker script has {code.num_lines} lines. The distributed script prints the same losses; it **adds"
        f" {code.num_added} lines, removes {code.num_removed}** and uses **{len(code.concepts)} new concepts**: "
        + ", ".join(f"`{name}`" for name in code.concepts)
        + "."
    )
    with st.expander("Diff", expanded=True):
        st.code(code.text, language="diff", wrap_lines=True)
