"""Journeys through Learn, Trace and Compare in a browser, on recorded runs."""

from __future__ import annotations

import csv
import gzip
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import LIMIT_MS, SINGLE, browser_marks
from tests.helpers.comparison import record_run
from tests.helpers.recorded import pipeline_run
from workbench.dashboard.lessons import lesson, names
from workbench.testing.browser import dashboard, settled

pytestmark = browser_marks()
sync_api = pytest.importorskip("playwright.sync_api")
expect: Any = sync_api.expect


def saved(part: Any, button: str) -> Path:
    """The file that this button of a page, or of an opened menu, saves."""
    page = getattr(part, "page", part)
    with page.expect_download() as download:
        part.get_by_role("button", name=button).click()
    return Path(download.value.path())


def a_bar_is_clicked(page: Any) -> None:
    """Somewhere below the legend of the second chart, of the parts of a step, there is one; again and again, until the page has
    seen it."""
    chart = page.get_by_test_id("stVegaLiteChart").nth(1)
    box = chart.bounding_box()
    for part in cycle((0.45, 0.5, 0.55, 0.6, 0.65, 0.7)):
        chart.click(position={"x": box["width"] * 0.35, "y": box["height"] * part})
        try:
            page.get_by_role("button", name="Trace of ").wait_for(timeout=3000)
        except sync_api.TimeoutError:
            continue
        return


def test_runs_are_compared_one_is_clicked_and_stands_out_and_figures_are_taken_away(page: Any, tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    record_run(tmp_path, SINGLE, "finished", 1)
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/runs?runs={run.id},{SINGLE}")
        page.get_by_role("button", name="Compare").click()
        page.wait_for_url("**/compare?runs=**")
        settled(page)
        rows = list(csv.DictReader(saved(page, "Results (CSV)").read_text().splitlines()))
        assert {row["run"] for row in rows} == {"dp2", "single"}
        assert all(float(row["step_ms"]) > 0 for row in rows)
        page.get_by_role("button", name="Data of: How long does a step take?").click()
        parts = list(csv.DictReader(saved(page.get_by_test_id("stPopoverBody"), "CSV").read_text().splitlines()))
        assert {row["split"] for row in parts} == {"dp2", "single"}
        page.keyboard.press("Escape")
        a_bar_is_clicked(page)
        page.get_by_role("button", name="Trace of ").click()
        page.wait_for_url("**/trace?run=**")


def test_a_trace_is_drawn_filtered_and_taken_away(page: Any, tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/trace?run={run.id}")
        settled(page)
        page.locator("canvas[data-drawn]").wait_for()
        page.get_by_label("Color by").select_option("microbatch")
        page.get_by_role("searchbox", name="Search operations").fill("forward")
        page.get_by_text("8 events found").wait_for()
        page.get_by_text("14 operations").wait_for()
        page.get_by_role("combobox", name="Operation").fill("send")
        page.keyboard.press("Enter")
        page.get_by_text("4 operations").wait_for()
        expect(page.get_by_role("searchbox"), "the timeline stays as it is when the page is drawn again").to_have_value(
            "forward", timeout=LIMIT_MS
        )
        page.keyboard.press("Escape")
        data = page.get_by_role("button", name="Data of: ").first
        data.evaluate("button => button.scrollIntoView({block: 'center'})")  # from under the navigation
        data.click()
        events = list(csv.DictReader(saved(page.get_by_test_id("stPopoverBody"), "CSV").read_text().splitlines()))
        assert {event["kind"] for event in events} == {"forward", "backward", "optimizer", "idle", "communication"}
        page.keyboard.press("Escape")
        trace = json.loads(gzip.decompress(saved(page, "Trace for Perfetto").read_bytes()))
        assert {event["ph"] for event in trace["traceEvents"]} >= {"M", "X"}


def test_every_lesson_shows_its_formulas_and_its_diagram(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        for name in names():
            page.goto(f"{address}/learn?lesson={name}")
            settled(page)
            expect(page.locator(".katex-display"), name).to_have_count(len(lesson(name).formulas), timeout=LIMIT_MS)
            expect(page.get_by_test_id("stVegaLiteChart"), name).to_have_count(1 if lesson(name).spec else 0, timeout=LIMIT_MS)
            assert page.locator(".katex-error").count() == 0, name
