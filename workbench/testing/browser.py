"""Serves a dashboard and drives a browser, for tests of journeys, screenshots and benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
SCHEMES = ("light", "dark")
_START_S = 60.0
_DRAWN = """() => {
    const every = (name, parts) => [...document.querySelectorAll(`[data-testid="${name}"]`)].every(e => e.querySelector(parts));
    return !document.querySelector('[data-stale="true"], [data-testid="stSkeleton"]')
        && every('stVegaLiteChart', 'canvas, svg') && every('stDataFrame', 'canvas')
        && [...document.querySelectorAll('[data-testid="stBidiComponentIsolated"]')].every(
            e => e.shadowRoot?.querySelector('canvas[data-drawn]'));
}"""
"""Condition that all charts and tables are drawn, which is some time after Streamlit reports the page complete."""
_TIMELINE = """<!doctype html><html lang="en"><title>Timeline</title>
<style>:root { color-scheme: light dark } body { font-family: sans-serif; background: light-dark(#fff, #181b1f) }
STYLES</style><main id="main"></main><script type="module">
import timeline from "./timeline.js";
const packed = new DataView(await (await fetch("packed")).arrayBuffer());
const model = { get: () => packed, set: (_, region) => { window.region = region }, save_changes() {}, on() {}, off() {} };
timeline().render({ model, el: document.getElementById("main") });
</script>"""
"""Page of a timeline alone, with a model like anywidget's."""
_SETTLE_MS = 1500
"""Pause before screenshots, in milliseconds: charts are redrawn in the size of the window."""
_TALLEST = 4000


def chromium() -> str | None:
    """Returns the path of the system's browser; None if there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextlib.contextmanager
def dashboard(store: Path, port: int | None = None, options: Sequence[str] = ()) -> Iterator[str]:
    """Serves a store within this context, with these options of the command; yields the address."""
    port = port or _free_port()
    command = [sys.executable, "-m", "workbench.cli.main", "dashboard", "--port", str(port), *options]
    server = subprocess.Popen(
        command,
        env={**os.environ, "WORKBENCH_HOME": str(store)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        server.wait()


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Yields Playwright's handle of the system's Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def settled(page: Any) -> None:
    """Waits until a page has been drawn."""
    page.wait_for_selector("h1", timeout=_START_S * 1e3)
    page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=_START_S * 1e3)
    page.wait_for_function(_DRAWN, timeout=_START_S * 1e3)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def when(page: Any, condition: str) -> None:
    """Waits until a JavaScript expression is true, to the frame. Playwright's own waiting polls at intervals of up to half a
    second."""
    page.wait_for_function(condition, polling="raf")


def show_timeline(page: Any, packed: bytes) -> None:
    """Shows packed lanes on an empty page, as JupyterLab would, and waits until they are drawn. ``window.region`` is the region
    selected in them."""
    from workbench.charts.timeline_view import JAVASCRIPT, STYLES

    files = {"": (_TIMELINE.replace("STYLES", STYLES), "text/html"), "packed": (packed, "application/octet-stream")}
    files["timeline.js"] = (JAVASCRIPT, "text/javascript")

    def answer(route: Any) -> None:
        body, kind = files[route.request.url.rpartition("/")[2]]
        route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")

    page.route("http://127.0.0.1/timeline/**", answer)
    page.goto("http://127.0.0.1/timeline/")
    page.wait_for_selector("canvas[data-drawn]", timeout=_START_S * 1e3)


def screenshots(address: str, pages: dict[str, str], to: Path, suffix: str = "") -> list[Path]:
    """Takes screenshots of complete pages, wide and narrow, light and dark: ``<name>-wide-light.png``.

    Args:
        pages: Name → path and query.
    """
    to.mkdir(parents=True, exist_ok=True)
    paths = []
    with browser() as opened:
        for scheme in SCHEMES:
            for width_name, (width, height) in WIDTHS.items():
                context = opened.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                for name, path in pages.items():
                    page = context.new_page()
                    page.goto(f"{address}/{path}")
                    settled(page)
                    whole = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
                    page.set_viewport_size({"width": width, "height": min(max(height, whole), _TALLEST)})
                    page.wait_for_timeout(_SETTLE_MS)
                    paths.append(to / f"{name}-{width_name}-{scheme}{suffix}.png")
                    page.screenshot(path=paths[-1])
                    assert not overflows(page), f"{name} is wider than {width} pixels"
                    page.close()
                context.close()
    return paths


def overflows(page: Any) -> bool:
    """Returns whether a page is wider than its window."""
    return bool(page.evaluate("(m => m.scrollWidth > m.clientWidth)(document.querySelector('[data-testid=stMain]'))"))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, "the dashboard ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError(f"the dashboard does not answer at port {port}")
