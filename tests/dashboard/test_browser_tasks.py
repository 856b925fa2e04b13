"""What people come for, by mouse alone. The first, a comparison in two clicks, is in test_browser.py."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import SMALL, browser_marks, ended
from workbench.api import Run
from workbench.store import runs_table
from workbench.store.directory import RunDirectory
from workbench.testing.browser import dashboard, settled

pytestmark = browser_marks(1200)
sync_api = pytest.importorskip("playwright.sync_api")


def rows_of(page: Any, button: str) -> list[dict[str, str]]:
    """Rows of the CSV file that a button downloads."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))


def choose(page: Any, name: str, option: str) -> None:
    box = page.get_by_role("combobox", name=name).first
    box.scroll_into_view_if_needed()
    settled(page)  # scrolling closes an open list
    box.click()
    page.get_by_role("option", name=option).click()


def list_all_splits(page: Any, num_workers: int) -> None:
    """Opens the list; the number of workers, two at first, is raised by clicks."""
    page.get_by_text("All splits").first.click()
    page.get_by_text("By formula, least memory first.").wait_for()
    for number in range(3, num_workers + 1):
        field = page.get_by_test_id("stNumberInput").filter(has=page.get_by_label("Workers", exact=True))
        field.get_by_role("button").last.click()
        page.wait_for_function("n => document.querySelector('input[aria-label=Workers]').value === n", arg=str(number))
    settled(page)


def test_which_splits_let_llama_3_8b_fit_into_eight_devices_of_80_gb(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/configure")
        settled(page)
        page.get_by_role("button", name="Start from").click()
        choose(page, "Model preset", "llama3-8b")
        page.get_by_role("button", name="Use this preset").click()
        page.get_by_role("button", name="Use this preset").wait_for(state="hidden")
        list_all_splits(page, 8)
        choose(page, "Compare with", "H100, 80 GB")
        page.get_by_text(re.compile(r"0 of \d+ fit \(H100, 80 GB")).wait_for()
        page.get_by_role("button", name=re.compile(r"^train.checkpointing = full \(\d+ of \d+\)")).click()
        fit = page.get_by_text(re.compile(r"[1-9]\d* of \d+ fit \(H100, 80 GB"))
        fit.wait_for()
        settled(page)
        rows = rows_of(page, "Splits (CSV)")
        fitting = [row for row in rows if row["fits"] == "true"]
        assert f" {len(fitting)} of {len(rows)} fit" in fit.inner_text()
        assert all(float(row["memory_bytes"]) < 80e9 for row in fitting)
        assert "pp8-1f1b-m8" in {row["split"] for row in fitting}


def test_all_splits_of_four_workers_of_the_cnn_are_ranked_and_exported(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/configure?model.name=cnn&model.widths=[8,16]&model.blocks_per_stage=1&train.num_steps=4")
        settled(page)
        list_all_splits(page, 4)
        page.get_by_role("button", name="Queue 9 splits").click()
        page.get_by_role("button", name="Live").click()
        page.wait_for_url("**/live")
        assert set(ended(tmp_path)) == {"finished"}
        page.get_by_text("all splits of 4, cnn: all 11 runs finished").wait_for()
        page.get_by_role("button", name="Compare", exact=True).click()
        page.wait_for_url("**/compare?runs=**")
        settled(page)
        rows = rows_of(page, "Results (CSV)")
        assert {row["workers"] for row in rows[:2]} == {"1"}, "the baselines, of one thread and of four"
        assert {row["run"].partition(" ")[0] for row in rows[2:]} == {
            "tp4", "layer4", "pp4-1f1b-m4", "dp4", "layer2-tp2", "pp2-1f1b-m4-tp2", "dp2-tp2", "dp2-layer2", "dp2-pp2-1f1b-m4",
        }  # fmt: skip
        times = [float(row["step_ms"]) for row in rows[2:]]
        assert times == sorted(times)


def test_why_a_pipeline_is_slower_than_its_ideal(page: Any, tmp_path: Path) -> None:
    with dashboard(tmp_path) as address:
        page.goto(f"{address}/{SMALL}&split.pipeline.size=2")
        settled(page)
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_url("**/live?run=**")
        assert set(ended(tmp_path)) == {"finished"}
        page.get_by_role("link", name="Trace").click()
        page.get_by_text(re.compile(r"^Trace steps take .+ the ideal of their schedule")).wait_for()
        page.get_by_text(re.compile(r"^In the ideal, too, workers wait \d+% of the time")).wait_for()
        page.locator("canvas[data-drawn]").wait_for()


NET = """
from torch import nn

def build(width: int = 16):
    layers = (nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(2))
    return nn.Sequential(nn.Linear(64, width), *layers, nn.Linear(width, 10))
"""
SHORT = "split.layer.size=2&dataset.name=digits&train.num_steps=3&train.num_warmup_steps=0&baseline.mode=none"


def test_a_model_of_ones_own_is_selected_cut_by_hand_and_run(page: Any, tmp_path: Path) -> None:
    file, store = tmp_path / "net.py", tmp_path / "store"
    file.write_text(NET)
    with dashboard(store, options=["--model", f"{file}:build"]) as address:
        page.goto(f"{address}/configure?{SHORT}")
        settled(page)
        choose(page, "Model", f"{file}:build")
        page.get_by_text("Structure: 4 blocks").wait_for()
        settled(page)
        choose(page, "Cut only after", "2")
        page.keyboard.press("Escape")  # the list stays open for more
        page.wait_for_url("**model.cut_at=**")
        settled(page)
        page.get_by_role("button", name="Run", exact=True).click()
        page.wait_for_url("**/live?run=*")
        assert ended(store) == ["finished"]
        page.goto(f"{address}/run?run={page.url.partition('run=')[2]}")
        page.get_by_text("net.py:build on digits").first.wait_for()
        settled(page)
    (row,) = runs_table.rows(store)
    model = Run(RunDirectory(store / "runs" / row["run_id"])).spec.as_dict()["model"]
    assert (row["split"], row["parity_verdict"], list(model["cut_at"])) == ("layer2", "equal", ["2"])
