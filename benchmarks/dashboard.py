"""How long the page Runs takes with ten thousand runs in the store, in a browser.

``python benchmarks/dashboard.py`` makes a synthetic store and prints seconds: until the page's table is there, opened in a new
tab (beside the same page of a store with a single run, which is what Streamlit and the browser take) or from another page; from
Enter in the field Find until the page says how many runs match; and ``workbench ls`` of the store.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workbench.store.columns import RUN_FIGURES, RUNS
from workbench.store.figures import Summary
from workbench.store.json_record import from_json
from workbench.store.records import Expected
from workbench.testing.browser import browser, dashboard, settled, when
from workbench.testing.stored_run import stored_run

NUM_RUNS, REPETITIONS = 10_000, 7
_TABLE = """document.querySelector('[data-testid="stDataFrame"]') !== null"""
SPLITS = ("single", "dp2", "layer2", "pp2-1f1b-m4", "tp2")


def fill(store: Path, num_runs: int) -> None:
    """Ended runs with figures, and workers and communication of the usual size, so that their files are as large as real ones."""
    integers = {name: 1 for name in RUN_FIGURES if RUNS[name].kind == "int64"}
    operation = {"operation": "all_reduce", "axis": "data", "phase": "backward", "count": 1, "payload_bytes": 3_500_000}
    for i in range(num_runs):
        split = SPLITS[i % len(SPLITS)]
        run_id = f"20260101-{i:06d}-{split}-{i:06x}"
        run = stored_run(
            store, run_id, 2, name=f"number {i}", split=split, created_at=1.79e9 + i,
            expected=Expected((875_000,) * 2, communication=(operation,) * 10),
        )  # fmt: skip
        figures = {**dict.fromkeys(RUN_FIGURES, 0.5), **integers, "step_time_s": 0.05 + i / 1e6, "parity_ok": True}
        worker = {"parameters": 875_000, "communication": [operation] * 10}
        run.write_summary(from_json(Summary, {**figures, "workers": [worker] * 2}))


def opening_s(context: Any, address: str) -> float:
    """Until the table of the page is there, in a new tab of a browser that has seen the dashboard before."""
    page = context.new_page()
    start = time.perf_counter()
    page.goto(f"{address}/runs", wait_until="commit")
    when(page, _TABLE)
    duration = time.perf_counter() - start
    page.close()
    return duration


def turning_s(page: Any) -> float:
    """From a click in the navigation of another page until the table is there."""
    page.get_by_role("link", name="Configure").click()
    page.wait_for_selector("h1:has-text('Configure')")
    settled(page)
    start = time.perf_counter()
    page.get_by_role("link", name="Runs").click()
    when(page, f"document.querySelector('h1')?.textContent === 'Runs' && {_TABLE}")
    return time.perf_counter() - start


def filtering_s(page: Any, text: str, count: int) -> float:
    """From Enter until the page says how many runs match, which must not be as many as before."""
    field = page.get_by_label("Filter")
    field.fill(text)
    start = time.perf_counter()
    field.press("Enter")
    when(page, f"document.body.innerText.includes('\\n{count:,} of {NUM_RUNS:,} runs')")
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as other:
        store, single = Path(directory), Path(other)
        fill(store, NUM_RUNS)
        fill(single, 1)
        time.sleep(3)  # what changed just now is not taken into the index
        list_them = [sys.executable, "-m", "workbench.cli.main", "ls", "--json"]
        for name in ("without an index", "with the index"):
            start = time.perf_counter()
            subprocess.run(list_them, env={**os.environ, "WORKBENCH_HOME": directory}, check=True, capture_output=True)
            print(f"workbench ls --json, {NUM_RUNS:,} runs, {name:<17} {time.perf_counter() - start:.3f} s")
        with dashboard(store) as address, dashboard(single) as beside, browser() as opened:
            context = opened.new_context(viewport={"width": 1280, "height": 900})
            first = opening_s(context, address)
            opening_s(context, beside)
            pairs = [(opening_s(context, address), opening_s(context, beside)) for _ in range(REPETITIONS)]
            seconds, least = (statistics.median(durations) for durations in zip(*pairs, strict=True))
            print(f"Runs opens in a new tab    {seconds:.3f} s, wanted: less than 1 s (the first of all: {first:.3f} s;")
            print(f"                           with one run in the store: {least:.3f} s)")
            page = context.new_page()
            page.goto(f"{address}/runs")
            settled(page)
            seconds = statistics.median(turning_s(page) for _ in range(REPETITIONS))
            print(f"Runs opens from a page     {seconds:.3f} s, wanted: less than 1 s")
            words = [word for split in SPLITS for word in ((split, NUM_RUNS // len(SPLITS)), ("nothing", 0))]
            seconds = statistics.median(filtering_s(page, text, count) for text, count in words)
            print(f"Runs filters               {seconds:.3f} s, wanted: less than 0.2 s")


if __name__ == "__main__":
    main()
