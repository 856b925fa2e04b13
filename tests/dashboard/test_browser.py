"""Journeys through the dashboard in a browser, on real runs; and a screenshot of each page, to be looked at."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import LIMIT_MS, SMALL, browser_marks, ended
from tests.helpers.pages import EVIL, failed
from tests.helpers.states import finished
from workbench.store import runs_table
from workbench.testing.browser import dashboard, settled

pytestmark = browser_marks()
sync_api = pytest.importorskip("playwright.sync_api")
expect: Any = sync_api.expect
ROOT = Path(__file__).parents[2]


def test_an_empty_store_runs_the_demonstration_which_outlives_page_and_server_and_is_compared(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        page.goto(address)
        page.get_by_role("button", name="Run the demonstration").click()
        page.wait_for_url("**/live")
        page.get_by_text(re.compile(r"step \d+ of \d+")).wait_for()
        page.reload()
        page.get_by_text(re.compile(r"step \d+ of \d+")).wait_for()
        page.goto("about:blank")
    assert set(ended(tmp_path)) == {"finished"}
    assert len(runs_table.rows(tmp_path)) == 6, "four splits, and one worker with one thread and with two"
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/runs")
        page.get_by_text("6 of 6 runs").wait_for()
        page.goto(f"{address}/live")
        page.get_by_role("button", name="Compare these runs").click()
        page.wait_for_url("**/compare?runs=**")
        with page.expect_download() as download:
            page.get_by_role("button", name="Results (CSV)").click()
        rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))
        assert {row["run"].partition(",")[0] for row in rows} == {"single", "dp2", "layer2", "pp2-1f1b-m4", "tp2"}
        assert all(row["parity"] == "equals one worker" for row in rows)


def test_a_refused_split_shows_its_reason_and_a_click_mends_it(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/configure?split.data.size=3")
        page.get_by_text("(remainder 1)").first.wait_for()
        expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled(timeout=LIMIT_MS)
        page.get_by_role("button", name="data.size = 4").first.click()
        page.wait_for_url("**/configure?split.data.size=4")
        page.get_by_text("dp4", exact=True).wait_for()


def test_a_shared_link_opens_the_same_configuration_and_runs_it(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/{SMALL}")
        settled(page)
        page.get_by_text("Training", exact=True).click()
        page.get_by_label("Steps", exact=True).first.fill("400")
        page.keyboard.press("Enter")
        page.wait_for_url("**train.num_steps=400**")
        page.get_by_text("1 changed").wait_for()
        expect(page.get_by_label("Steps", exact=True).first, "the section stays open").to_be_visible(timeout=LIMIT_MS)
        link = page.url
        other = page.context.new_page()
        other.goto(link)
        settled(other)
        other.get_by_text(re.compile("^Training")).first.click()
        expect(other.get_by_label("Steps", exact=True).first).to_have_value("400", timeout=LIMIT_MS)
        other.get_by_role("button", name="Run", exact=True).click()
        other.wait_for_url("**/live?run=*")
        other.get_by_role("button", name="Cancel").first.wait_for()
        other.reload()
        other.get_by_text(re.compile(r"step \d+ of \d+")).wait_for()
    assert "finished" in ended(tmp_path)


def test_typing_is_not_lost_while_a_page_refreshes_and_texts_are_never_markup(page: Any, tmp_path: Path) -> None:
    failed(tmp_path), finished(tmp_path, "run-1", 1.0, 0.5)
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/live?run=run-9")
        page.get_by_text(EVIL).first.wait_for()
        page.goto(f"{address}/runs?runs=run-9")
        settled(page)
        assert page.locator("img[src=x]").count() == 0
        field = page.get_by_label("Filter")
        field.fill("run-1")
        field.press("Enter")
        page.get_by_text("1 of 2 runs").wait_for()
    assert alerts == []


def test_a_row_is_selected_by_keyboard_and_let_go_when_the_list_changes(page: Any, tmp_path: Path) -> None:
    for number in range(3):
        finished(tmp_path, f"run-{number}", float(number), 0.5)
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/runs")
        settled(page)
        page.get_by_test_id("stDataFrame").locator("canvas").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Shift+Space")
        page.get_by_text("1 selected").wait_for()
        field = page.get_by_label("Filter")
        field.fill("run-0")
        field.press("Enter")
        page.get_by_text("1 of 3 runs").wait_for()
        settled(page)
        expect(page.get_by_text("1 selected"), "what is selected now would be another run").to_have_count(0, timeout=LIMIT_MS)


@pytest.mark.parametrize(
    ("kind", "name", "to"),
    [("link", "Configure", "Configure"), ("link", "Learn", "Learn"), ("button", "Configure a run", "Configure")],
)
def test_a_refresh_that_comes_after_its_page_was_left_does_not_empty_the_next(
    page: Any, tmp_path: Path, kind: Any, name: str, to: str
) -> None:
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    refreshes: list[bytes] = []
    came_late: list[bytes] = []
    is_leaving = False

    def between(browser: Any) -> None:
        server = browser.connect_to_server()

        def ask(message: bytes) -> None:
            if BackMsg.FromString(message).rerun_script.is_auto_rerun:
                refreshes.append(message)
            server.send(message)

        def answer(message: bytes) -> None:
            browser.send(message)
            if is_leaving and not came_late and ForwardMsg.FromString(message).WhichOneof("type") == "navigation":
                came_late.append(refreshes[-1])
                server.send(refreshes[-1])

        browser.on_message(ask)
        server.on_message(answer)

    page.route_web_socket("**/_stcore/stream", between)
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/live")
        page.get_by_role("button", name="Configure a run").wait_for()
        while not refreshes:
            page.wait_for_timeout(50)
        is_leaving = True
        page.get_by_role(kind, name=name, exact=True).first.click()
        page.get_by_role("heading", name=to, exact=True).wait_for()
        settled(page)
        assert came_late
        expect(page.get_by_role("heading", name=to, exact=True)).to_have_count(1, timeout=LIMIT_MS)


def test_back_goes_from_lesson_to_lesson(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/learn?lesson=pipeline")
        first = page.get_by_role("heading", level=2).first
        settled(page)
        title = re.compile(f"^{re.escape(first.inner_text())}$")
        page.get_by_test_id("stButtonGroup").get_by_text("Tensor").first.click()
        page.wait_for_url("**/learn?lesson=tensor")
        expect(first).not_to_have_text(title, timeout=LIMIT_MS)
        page.go_back()
        page.wait_for_url("**/learn?lesson=pipeline")
        expect(first).to_have_text(title, timeout=LIMIT_MS)


@pytest.mark.long
def test_every_page_has_a_screenshot_and_none_is_wider_than_its_window(opened: Any, tmp_path: Path) -> None:
    store, to = tmp_path / "store", tmp_path / "pictures"
    failed(store)
    for number in range(12):
        finished(store, f"run-{number:02d}", float(number), 0.1 + number / 100)
    environment = {**os.environ, "WORKBENCH_HOME": str(store)}
    subprocess.run([sys.executable, str(ROOT / "docs" / "screenshots.py"), str(to)], env=environment, check=True, timeout=500)
    assert len(list(to.glob("*.png"))) == 36
