"""How long switching between the pages takes with 40 runs in the store, in a browser.

``python benchmarks/pages.py`` runs the demonstration and a split of eight workers, copies these runs to 40, and prints
for each page the seconds from a click in the navigation, or from opening a link, until its heading is visible and until
it is settled: no part is stale, all charts and tables are drawn. The first visit, on which the server imports what the
page needs, is separate from the median of the later ones. It also prints the load of the machine, whose other programs
slow all of it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.store import listing
from workbench.store.json_record import to_json
from workbench.testing.browser import browser, dashboard, settled, when

NUM_RUNS, REPETITIONS = 40, 5
PAGES = {"Configure": "Configure", "Live": "Live", "Runs": "Runs", "Compare": "Compare", "Trace": "Trace", "Learn": "Learn"}
"""Entry of the navigation → heading of the page."""
RUNS = ([], ["--model", "mlp", "--split", "data=8"])
"""Arguments of ``workbench run``."""


def fill(store: Path) -> list[str]:
    """Runs, and copies the runs under new ids. Returns the ids of the newest run of each split."""
    for arguments in RUNS:
        command = [sys.executable, "-m", "workbench.cli.main", "run", *arguments]
        subprocess.run(command, env={**os.environ, "WORKBENCH_HOME": str(store)}, check=True, capture_output=True)
    real = [run for run in listing.all_runs(store) if run.summary() is not None]
    for number in range(NUM_RUNS - len(real)):
        run = real[number % len(real)]
        record = replace(
            run.record(), run_id=f"20260101-{number:06d}-{run.record().split}-{number:06x}", created_at=1.7e9 + number
        )
        shutil.copytree(run.path, store / "runs" / record.run_id)
        (store / "runs" / record.run_id / "run.json").write_text(json.dumps(to_json(record)), encoding="utf-8")
    return list({run.record().split: run.id for run in real}.values())


def switch_s(page: Any, name: str, heading: str) -> tuple[float, float]:
    """From a click in the navigation until the heading is there and until the page is settled."""
    start = time.perf_counter()
    page.get_by_role("link", name=name, exact=True).click()
    when(page, f"document.querySelector('h1')?.textContent.startsWith({heading!r})")
    headed = time.perf_counter() - start
    settled(page)
    return headed, time.perf_counter() - start


def open_s(page: Any, address: str, heading: str) -> tuple[float, float]:
    """From opening a link until the heading is there and until the page is settled."""
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    when(page, f"document.querySelector('h1')?.textContent.startsWith({heading!r})")
    headed = time.perf_counter() - start
    settled(page)
    return headed, time.perf_counter() - start


def show(name: str, times: list[tuple[float, float]]) -> None:
    """Prints the first visit and the medians of the others."""
    headed, whole = (statistics.median(column) for column in zip(*times[1:], strict=True))
    print(f"{name:26} heading {headed:5.2f} s, settled {whole:5.2f} s (first visit {times[0][0]:.2f} s, {times[0][1]:.2f} s)")


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as directory:
        store = Path(directory)
        latest = fill(store)
        print(f"{len(listing.all_runs(store))} runs; load before {os.getloadavg()[0]:.1f}; wanted: 0.5 s and 1.5 s")
        with dashboard(store) as address, browser() as opened:
            page = opened.new_page(viewport={"width": 1280, "height": 800})
            page.goto(address)
            settled(page)
            rounds = [{name: switch_s(page, name, heading) for name, heading in PAGES.items()} for _ in range(REPETITIONS + 1)]
            for name in PAGES:
                show(name, [times[name] for times in rounds])
            links = {f"link to Compare, {len(latest)} runs": (f"compare?runs={','.join(latest)}", "Compare")}
            links["link to Run"] = (f"run?run={latest[-1]}", "Run")
            for name, (path, heading) in links.items():
                show(name, [open_s(page, f"{address}/{path}", heading) for _ in range(REPETITIONS + 1)])
        print(f"load after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
