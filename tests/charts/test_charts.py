"""Charts: each is drawn without a browser, on light and on dark ground, and shows the data that it is given."""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from tests.helpers.recorded import NUM_MICROBATCHES, pipeline_run
from workbench.analysis.communication import operations, volume_frame
from workbench.analysis.comparison import PARTS, labelled, pareto, step_parts
from workbench.analysis.losses import losses
from workbench.analysis.scaling import scaling
from workbench.analysis.trace import IN_FLIGHT, overlap_of, timeline
from workbench.analysis.winners import step_times
from workbench.charts import theme
from workbench.charts.communication import communication_volume_chart
from workbench.charts.line_names import spread
from workbench.charts.loss import loss_chart, losses_charts
from workbench.charts.overlap import overlap_chart
from workbench.charts.pareto import pareto_chart
from workbench.charts.scaling import scaling_charts
from workbench.charts.selection import standing_out
from workbench.charts.step_parts import step_parts_chart
from workbench.charts.step_time import step_time_chart
from workbench.charts.timeline import timeline_chart
from workbench.store import runs_table
from workbench.store.columns import RUN_COLUMNS


def row(split: str, num_workers: int = 2, **figures: Any) -> dict[str, Any]:
    parts = {f"{part.replace(' ', '_')}_s": 0.01 for part in PARTS}
    return {**dict.fromkeys(RUN_COLUMNS), **parts, "split": split, "num_workers": num_workers, "step_time_s": 0.05, **figures}


def marks(drawn: str) -> Counter[str]:
    """How many marks of each kind an SVG of Vega's shows."""
    return Counter(re.findall(r'role="graphics-symbol" aria-roledescription="([^"]+)"', drawn))


def texts(drawn: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawn)


def drawn(chart: theme.AnyChart) -> str:
    """The chart on light ground, once it has been seen that on dark ground it shows the same in other tones."""
    light, dark = theme.svg(chart), theme.svg(chart, dark=True)
    assert marks(light) == marks(dark)
    assert texts(light) == texts(dark)
    assert theme.theme()["background"] in light
    assert theme.theme(dark=True)["background"] in dark
    return light


def test_a_bar_has_a_piece_for_each_part_of_each_split() -> None:
    shown = drawn(step_parts_chart(step_parts([row("dp2"), row("tp2"), row("failed", step_time_s=None)])))
    assert marks(shown)["bar"] == 2 * len(PARTS)
    assert {"dp2", "tp2", *PARTS} <= set(texts(shown))
    assert "failed" not in texts(shown)


def test_the_timeline_has_a_bar_for_each_span_and_a_number_for_each_microbatch(tmp_path: Path) -> None:
    frame = timeline(pipeline_run(tmp_path))
    shown = drawn(timeline_chart(frame, "Who?"))
    spans = 2 * (2 * NUM_MICROBATCHES + 1 + 2)  # of each worker: forward and backward, optimizer, two waits
    assert marks(shown)["bar"] == len(frame) == spans
    assert Counter(texts(shown))["3"] == 2 * 2, "the last microbatch, forward and backward on two workers"
    assert "Who?" in texts(shown)


def test_stages_are_named_only_where_a_worker_has_several(tmp_path: Path) -> None:
    frame = timeline(pipeline_run(tmp_path))
    frame.loc[(frame["worker"] == "0") & (frame["microbatch"] == 3), "stage"] = 2
    shown = texts(drawn(timeline_chart(frame, "Who?")))
    assert (shown.count("2.3"), shown.count("0.1"), shown.count("1.3")) == (2, 2, 2)


def test_what_travels_lies_below_what_the_worker_does_meanwhile(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    frame, last = overlap_of(run), run.table("communication").to_pandas().query("step == step.max() and end_s == end_s")
    below = frame[frame["kind"] == IN_FLIGHT]
    assert list(below["operation"]) == list(last["operation"])
    took_ms = (last["end_s"] - last["start_s"]).sum() * 1e3
    assert (below["end_ms"] - below["begin_ms"]).sum() == pytest.approx(took_ms)
    above = frame[frame["kind"] != IN_FLIGHT].drop(columns=["lane", "operation"])
    assert_frame_equal(above, timeline(run)[above.columns].reset_index(drop=True))
    shown = drawn(overlap_chart(frame, "Hidden?"))
    assert marks(shown)["bar"] == len(frame)
    assert {"0", "0 in flight", "1", "1 in flight"} <= set(texts(shown))


def test_the_ideal_schedule_lies_below_on_the_same_scale(tmp_path: Path) -> None:
    frame = timeline(pipeline_run(tmp_path))
    ideal = frame[frame["kind"] == "forward"].drop(columns="stage")
    shown = drawn(timeline_chart(frame, "Who?", ideal))
    assert marks(shown)["bar"] == len(frame) + len(ideal)
    assert "Ideal timeline of this schedule" in texts(shown)


def speedups() -> list[dict[str, Any]]:
    over = [("single", 1, 1.0, None), ("dp2", 2, 1.5, 1.1), ("dp4", 4, 2.0, 0.9), ("pp2-1f1b-m4", 2, 1.2, 0.8)]
    return labelled([row(name, n, speedup=of_one, speedup_same_cores=same) for name, n, of_one, same in over], {})


def test_scaling_shows_each_way_from_one_worker_on_with_its_name_at_the_end() -> None:
    frame = scaling([*speedups(), *labelled([row("unknown2", speedup=None)], {})])
    assert frame.to_dict("list") == {
        "way": ["dp", "pp-1f1b-m4", "dp", "dp", "pp-1f1b-m4"],
        "split": ["single", "single", "dp2", "dp4", "pp2-1f1b-m4"],
        "workers": [1, 1, 2, 4, 2],
        "speedup": [1.0, 1.0, 1.5, 2.0, 1.2],
        "speedup_same_cores": [1.0, 1.0, 1.1, 0.9, 0.8],
    }
    over_one, on_same_cores = map(drawn, scaling_charts(frame))
    for shown, reference in ((over_one, "ideal"), (on_same_cores, "one worker")):
        assert marks(shown)["point"] == 3
        assert [texts(shown).count(name) for name in ("dp", "pp-1f1b-m4", reference)] == [1, 1, 1]
        assert "role-legend" not in shown


def test_speedups_of_one_number_of_workers_are_bars() -> None:
    (chart,) = scaling_charts(scaling([one for one in speedups() if one["num_workers"] <= 2]))
    shown = drawn(chart)
    assert (marks(shown)["bar"], marks(shown)["tick"]) == (2, 2)
    assert {"1.50×", "1.20×", "ideal"} <= set(texts(shown))


@pytest.mark.parametrize(
    ("points", "on_front"),
    [
        ([(1, 9), (2, 5), (3, 7), (4, 1)], [True, True, False, True]),
        ([(1, 1), (1, 1)], [True, True]),
        ([(1, 2), (1, 1), (2, 1)], [False, True, False]),
        ([(5, 5)], [True]),
        ([], []),
    ],
)
def test_the_front_is_what_no_other_run_beats(points: list[tuple[int, int]], on_front: list[bool]) -> None:
    rows = [row(f"run{i}", step_time_s=time_s, peak_memory_bytes=size) for i, (time_s, size) in enumerate(points)]
    frame = pareto([*rows, row("no memory"), row("failed", step_time_s=None, peak_memory_bytes=1)])
    assert list(frame["on_front"]) == on_front


def test_time_against_memory_shows_every_run_fills_the_front_and_draws_it_as_steps() -> None:
    rows = [
        row(f"run{i}", step_time_s=t, step_time_p10_s=t - 0.01, step_time_p90_s=t + 0.02, peak_memory_bytes=m * 2**20)
        for i, (t, m) in enumerate([(0.1, 9), (0.2, 5), (0.3, 7)])
    ]
    frame = pareto(rows)
    assert list(frame["p90_ms"]) == pytest.approx([120, 220, 320])
    shown = drawn(pareto_chart(frame))
    assert marks(shown)["point"] == 3 + 2, "all, and those of the front"
    assert marks(shown)["area mark"] == 1
    assert {"run0", "run1", "run2", "better"} <= set(texts(shown))
    (path,) = re.findall(r'aria-roledescription="line mark"[^>]*d="M([^"]+)"', shown)
    corners = [tuple(map(float, corner.split(","))) for corner in path.split("L")]
    assert all(one[0] == other[0] or one[1] == other[1] for one, other in pairwise(corners)), "no sloping line"


def test_no_name_covers_another_where_runs_are_close() -> None:
    close = [(1.0, 50), (1.02, 50), (1.01, 51), (0.99, 49), (1.03, 50), (1.0, 52)]
    rows = [row(f"pp2-1f1b-m{i}", step_time_s=t, peak_memory_bytes=m * 2**20) for i, (t, m) in enumerate(close)]
    shown = drawn(pareto_chart(pareto(rows)))
    found = re.findall(r'text-anchor="(\w+)" transform="translate\(([\d.-]+),([\d.-]+)\)"[^>]*>(pp2-1f1b-m\d)<', shown)
    assert len(found) == len(close)
    places = [(float(x) - (6 * len(name) if anchor == "end" else 0), float(y)) for anchor, x, y, name in found]
    for one, other in combinations(places, 2):
        assert abs(one[0] - other[0]) > 6 * len("pp2-1f1b-m0") or abs(one[1] - other[1]) > 10, "beside or below"


def test_names_are_apart_on_a_narrow_page_too() -> None:
    rows = [
        row(name, step_time_s=t, peak_memory_bytes=82 * 2**20) for name, t in (("single, 1 thread", 0.136), ("single, 2", 0.09))
    ]
    shown = pareto_chart(pareto(rows)).to_dict()
    named = next(rows for rows in shown["datasets"].values() if "align" in rows[0])
    assert len({one["dy"] for one in named}) == 2, "one above the other"


def test_a_run_has_one_colour_in_all_charts_and_stands_out_in_them(tmp_path: Path) -> None:
    runs = [pipeline_run(tmp_path, run_id) for run_id in ("a", "b")]
    named = [row(label, 2, speedup=1.5, step_time_s=0.1, peak_memory_bytes=1) for label in ("dp2", "tp2")]
    tone = theme.split_colour("tp2")
    charts = [
        pareto_chart(pareto(named)),
        *scaling_charts(scaling(labelled(named, {}))),
        *losses_charts(losses(runs, named)),
    ]
    for chart in charts:
        assert tone in drawn(chart)
        assert theme.STRATEGY_COLOURS["single"] not in drawn(chart), "that is the colour of the run that it does not show"
        assert "0.3" in re.findall(r'opacity="([\d.]+)"', drawn(standing_out(chart, "split", "tp2")))


def test_losses_have_a_line_a_run_one_name_where_they_are_equal_and_the_verdicts(tmp_path: Path) -> None:
    runs = [pipeline_run(tmp_path, run_id, parity_ok=ok) for run_id, ok in (("a", True), ("b", False), ("c", None))]
    frame = losses(runs, [{**runs_table.row(run), "split": run.id} for run in runs])
    assert list(frame[frame["split"] == "a"]["loss"]) == pytest.approx([(2 / s + 2 / (s + 1)) / 2 for s in range(1, 6)])
    assert frame["difference"].isna().all(), "none of them is on one worker"
    (chart,) = losses_charts(frame)
    shown = drawn(chart)
    verdicts = {"Parity check: a: equals one worker.", "Parity check: b: WRONG.", "Parity check: c: lossy on purpose."}
    assert "a, b, c" in texts(shown)
    assert all(verdict in shown for verdict in verdicts)
    assert marks(shown)["line mark"] == 3


def curve(split: str, *values: float, difference: float = float("nan")) -> pd.DataFrame:
    of_run = {"split": split, "parity": "equals one worker", "parity_error": 3e-15, "difference": difference}
    return pd.DataFrame({**of_run, "step": range(len(values)), "loss": values})


def test_equal_losses_are_said_in_a_sentence_and_differences_drawn() -> None:
    equal = pd.concat([curve("single", 3.0, 2.0, 1.0), curve("dp2", 3.0, 2.0, 1.0, difference=0.0)])
    (chart,) = losses_charts(equal)
    assert "Parity check: all 2 runs equal one worker within 3.0e-15." in drawn(chart)
    assert "single, dp2" in texts(drawn(chart))
    lines, differences = losses_charts(pd.concat([equal, curve("tp2", 3.0, 2.0, 1.1, difference=1e-4)]))
    assert {"single, dp2", "tp2"} <= set(texts(drawn(lines)))
    assert str(differences.description).endswith("Largest: 1.0e-04, tp2 in step 0. Steps without a point: exactly equal.")
    assert marks(drawn(differences))["line mark"] == 1


def test_two_runs_of_a_strategy_have_different_dashes() -> None:
    (chart,) = losses_charts(pd.concat([curve("dp2", 3.0, 1.0), curve("dp4", 3.0, 2.0), curve("tp2", 3.0, 2.5)]))
    assert len(re.findall(r'aria-roledescription="line mark"[^>]*stroke-dasharray="7,3"', drawn(chart))) == 1


def test_names_at_the_ends_of_lines_are_apart_and_inside() -> None:
    placed = spread([100.0, 101.0, 99.0, 20.0], height=110)
    assert sorted(placed) == pytest.approx([20.0, 77.5, 90.5, 103.5])
    assert placed[2] < placed[0] < placed[1], "in the order of the lines"


def test_more_rows_are_drawn_than_altair_allows_by_itself() -> None:
    frame = pd.DataFrame({"step": range(5001), "loss": 1.0})
    assert marks(theme.svg(loss_chart(frame)))["line mark"] == 1


def test_bytes_have_a_bar_measured_and_a_mark_expected(tmp_path: Path) -> None:
    frame = volume_frame(pipeline_run(tmp_path))
    assert frame[["what", "expected_bytes", "measured_bytes"]].to_numpy().tolist() == [
        ["all_reduce · data · backward", 4096, 5000]
    ]
    counted = marks(drawn(communication_volume_chart(frame, "What?")))
    assert (counted["bar"], counted["tick"]) == (1, 1)


def test_operations_are_sums_of_a_step_over_all_workers(tmp_path: Path) -> None:
    frame = operations(pipeline_run(tmp_path)).set_index("operation")
    assert list(frame.loc["send", ["count", "payload_bytes"]]) == [NUM_MICROBATCHES, NUM_MICROBATCHES * 1000]
    assert frame.loc["send", "duration_s"] == pytest.approx(NUM_MICROBATCHES * 0.06)
    assert frame.loc["all_reduce", "count"] == 2 * 3
    assert frame.loc["all_reduce", "duration_s"] == pytest.approx(2 * 0.2), "what has no end has no duration"


def test_a_colour_means_one_thing() -> None:
    """Parts of a step have Okabe and Ito's colours, strategies have others; the same part has the same colour on each chart."""
    strategies = theme.STRATEGY_COLOURS.values()
    assert not {*strategies, *theme.SEQUENCE_COLOURS} & set(theme.COLOURS.values())
    assert len(set(strategies)) == len(strategies)
    shown = theme.svg(step_parts_chart(step_parts([row("dp2")])))
    frame = pd.DataFrame({"kind": ["idle"], "microbatch": [None], "worker": ["0"], "begin_ms": [0.0], "end_ms": [1.0]})
    assert theme.COLOURS["idle"] in theme.svg(timeline_chart(frame, "Who?"))
    assert theme.COLOURS["idle"] in shown


def test_a_strategy_has_one_colour_whatever_its_size_and_options() -> None:
    colour = theme.split_colour
    assert colour("dp2") == colour("dp4-zero1") == colour("dp8 ⚠") == colour("dp2, train") != colour("pp2-1f1b-m4")
    assert colour("single, 2 threads") == theme.STRATEGY_COLOURS["single"]
    assert colour("dp2-tp2") == colour("dp4-tp8") not in theme.STRATEGY_COLOURS.values()
    assert colour("outside3") == colour("outside3")


def test_step_times_are_sorted_with_their_spread_and_the_baseline() -> None:
    rows = [
        row("single", 1, step_time_s=0.1, step_time_p10_s=0.09, step_time_p90_s=0.12, trust="quiet"),
        row("tp2", step_time_s=0.2, trust="disturbed"),
        row("dp2", step_time_s=0.05, speedup=2.0, trust="quiet"),
        row("failed", step_time_s=None),
    ]
    frame = step_times(rows)
    assert list(frame["split"]) == ["dp2", "single", "tp2"]
    assert list(frame.loc[1, ["step_ms", "p10_ms", "p90_ms"]]) == pytest.approx([100.0, 90.0, 120.0])
    shown = drawn(step_time_chart(frame))
    assert {"50.0 ms  2.00×", "100.0 ms", "dp2", "tp2"} <= set(texts(shown))
    counted = marks(shown)
    assert (counted["rule mark"], counted["point"], counted["text mark"]) == (3 + 1, 3, 3)


def test_the_axis_of_step_times_ends_after_the_longest_label_whatever_its_width() -> None:
    chart = step_time_chart(step_times([row("single", 1, step_time_s=0.1, step_time_p10_s=0.1, step_time_p90_s=0.1)]))
    for width in (200, 1000):
        shown = theme.svg(chart.properties(width=width))
        (end,) = map(float, re.findall(r"scale with values from 0 to ([\d.]+)", shown))
        assert (1 - 100.0 / end) * width == pytest.approx(90, abs=1), "the label says the end rounded"


def test_a_legend_has_as_many_columns_as_there_is_room_for() -> None:
    chart = step_parts_chart(step_parts([row("dp2")]))
    of_two = legend_size(chart.properties(width=150))
    assert of_two[0] > 150
    assert legend_size(theme.folding(chart).properties(width=400)) == of_two
    narrow = legend_size(theme.folding(chart).properties(width=150))
    assert (narrow[0] <= 150, narrow[1] > of_two[1]) == (True, True)
    assert legend_size(chart.properties(width=150)) == of_two, "the chart itself is as it was"


def legend_size(chart: theme.AnyChart) -> tuple[int, int]:
    """Width and height."""
    found = re.search(r'role-legend".*?d="M0,0h(\d+)v(\d+)', theme.svg(chart))
    assert found
    return int(found[1]), int(found[2])
