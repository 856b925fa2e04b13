"""How soon the page Trace shows its first picture of a step with a million communication rows, in a browser.

``python benchmarks/dashboard_trace.py`` makes synthetic runs and prints seconds: from opening the page, in a browser and on a
server that have shown another run before, until the timeline is drawn and until the whole page is; and the same of a run of few
rows.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from workbench.store.figures import Summary
from workbench.testing.browser import browser, dashboard, when
from workbench.testing.stored_run import stored_run, write_columns

NUM_WORKERS, NUM_OPERATIONS, STEP_S = 8, 125_000, 10.0
NUM_PHASES = 300
REPETITIONS = 5
PICTURE = """[...document.querySelectorAll('[data-testid="stBidiComponentIsolated"]')].some(
    e => e.shadowRoot?.querySelector('canvas[data-drawn]'))"""
WHOLE = "document.body.innerText.includes('Trace for Perfetto')"


def fill(store: Path, run_id: str, num_operations: int) -> None:
    """A run of one trace step: every worker computes and communicates in turn, a bit of each wait being for a late worker."""
    run = stored_run(store, run_id, NUM_WORKERS)
    starts, pitch = np.linspace(0, STEP_S, num_operations, endpoint=False), STEP_S / num_operations
    for rank in range(NUM_WORKERS):
        # What takes most of the time changes a few hundred times in the step, so that its outline has as many pieces.
        busy = np.random.default_rng(rank).uniform(0.2, 0.8, NUM_PHASES).repeat(-(-num_operations // NUM_PHASES))
        begin = starts + pitch * busy[:num_operations]
        operations = {
            "run_id": run_id, "rank": rank, "step": 20, "index": np.arange(num_operations), "operation": "all_reduce",
            "axis": "data", "group": "0-7", "peer": None, "phase": "backward", "payload_bytes": 4096, "ring_bytes": 7168,
            "dtype": "float32", "start_s": begin, "end_s": starts + pitch, "exposed_communication_s": pitch / 4,
            "idle_s": pitch / 8,
        }  # fmt: skip
        kinds, begins, ends = zip(
            ("backward", starts, begin), ("communication", begin, starts + pitch), ("idle", begin, begin + pitch / 8), strict=True
        )
        spans = {
            "run_id": run_id, "rank": rank, "step": 20, "kind": np.repeat(kinds, num_operations), "stage": 0, "microbatch": 0,
            "name": "", "start_s": np.concatenate(begins), "end_s": np.concatenate(ends),
        }  # fmt: skip
        for name, columns in (("communication", operations), ("timeline", spans)):
            write_columns(run.table_path(name, rank), name, columns)
    run.write_summary(Summary(step_time_s=STEP_S, parity_ok=True, parity_verdict="equal"))


def opening_s(context: Any, address: str) -> tuple[float, float]:
    """Until the first picture of a page opened anew is drawn, and until all of it is."""
    page = context.new_page()
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    when(page, PICTURE)
    first = time.perf_counter() - start
    when(page, WHOLE)
    whole = time.perf_counter() - start
    page.close()
    return first, whole


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as directory:
        store, names = Path(directory), [f"20260101-00000{i}-dp8-{i:06x}" for i in range(REPETITIONS + 1)]
        for name in names:
            fill(store, name, NUM_OPERATIONS if name != names[0] else 100)
        print(
            f"{NUM_WORKERS * NUM_OPERATIONS:,} rows of communication, {3 * NUM_WORKERS * NUM_OPERATIONS:,} of timeline, one step"
        )
        with dashboard(store) as address, browser() as opened:
            context = opened.new_context(viewport={"width": 1280, "height": 900})
            few, many = f"{address}/trace?run={names[0]}", [f"{address}/trace?run={name}" for name in names[1:]]
            opening_s(context, few)  # imports what the page needs, and the browser keeps the page's own files
            floor = statistics.median(opening_s(context, few)[0] for _ in range(REPETITIONS))
            times = [opening_s(context, link) for link in many]
            first, whole = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"first picture  {first:.2f} s (of {max(t[0] for t in times):.2f} s at most), wanted: less than 2 s")
            print(f"whole page     {whole:.2f} s; first picture of a run of 2,400 rows {floor:.2f} s")


if __name__ == "__main__":
    main()
