"""The exported trace opens in a viewer that is not ours: speedscope, in a browser."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.helpers.recorded import NUM_MICROBATCHES, TRACE_STEPS, pipeline_run
from workbench.export.chrome_trace import write_trace

CHROMIUM, NPM = shutil.which("chromium"), shutil.which("npm")
THREADS = ("steps", "compute", "communication", "communication 2", "waiting")
NUM_THREADS = 2 * len(THREADS)


@pytest.fixture
def viewer(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """speedscope as npm has it, served from a directory."""
    subprocess.run([str(NPM), "pack", "speedscope@1.25.0"], cwd=tmp_path, check=True, capture_output=True, timeout=90)
    (package,) = tmp_path.glob("speedscope-*.tgz")
    with tarfile.open(package) as archive:
        archive.extractall(tmp_path, filter="data")
    root = tmp_path / "package" / "dist" / "release"
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(root))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.skipif(NPM is None, reason="npm is not installed")
def test_speedscope_shows_the_workers_and_adds_their_sends_up_to_the_tables(viewer: tuple[str, Path], tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    address, root = viewer
    run = pipeline_run(tmp_path / "store")
    write_trace([run], root / "trace.json")
    table = run.table("communication").to_pandas()
    sends = table[table["operation"] == "send"]
    assert len(sends) == NUM_MICROBATCHES * len(TRACE_STEPS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("warning", "error") else None)
        page.goto(f"{address}/index.html#profileURL=/trace.json&view=sandwich")
        page.wait_for_selector("text=Symbol Name", timeout=30_000)
        threads, shown = [], []
        for number in range(1, NUM_THREADS + 1):
            page.get_by_text(f"({number}/{NUM_THREADS})").wait_for()
            threads.append(page.locator("span", has=page.locator("span")).first.inner_text())
            if "worker 0" in threads[-1] and ", communication (" in threads[-1]:
                shown = [row for row in page.locator("tr").all_inner_texts() if "send {" in row]
                page.screenshot(path=str(tmp_path / "speedscope.png"))
            page.keyboard.press("n")  # on to the next thread
        browser.close()
    for rank in range(2):
        for name in THREADS:
            assert [thread for thread in threads if f"worker {rank} of" in thread and f", {name} (" in thread]
    assert len(shown) == len(sends)
    milliseconds = sum(float(row.split("ms")[0]) for row in shown)
    assert milliseconds == pytest.approx((sends["end_s"] - sends["start_s"]).sum() * 1e3, abs=0.005 * len(sends)), "to its digits"
    assert not [text for text in complaints if "GL Driver" not in text]
