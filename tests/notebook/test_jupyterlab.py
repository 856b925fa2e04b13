"""In a real JupyterLab: its browser page without internet, and a kernel that is restarted while a run goes on."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

from notebooks import execute

CHROMIUM = shutil.which("chromium")
START = """
import time
import workbench as wb
from workbench import widgets
spec = wb.RunSpec(model="mlp", train={"num_steps": 1_000_000}, split={"data": 2}, baseline={"mode": "none"})
panel = widgets.RunPanel(spec)
"""
CHARTS_ARE_DRAWN = """number => {
    const charts = [...document.querySelectorAll(".vega-embed")]
    return charts.length >= number && charts.every(chart => chart.querySelector("svg path, canvas"))
}"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A store and Jupyter's own directories below the test's."""
    own = {name: str(tmp_path / name.lower()) for name in ("WORKBENCH_HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    path = os.pathsep.join(filter(None, [str(execute.ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, **own, "PYTHONPATH": path, "IPYTHONDIR": str(tmp_path / "ipython")}


def said(client: Any, code: str) -> str:
    """What the code prints in the kernel."""
    texts: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        assert message["msg_type"] != "error", message["content"]
        if message["msg_type"] == "stream":
            texts.append(message["content"]["text"])

    client.execute_interactive(code, output_hook=hear, timeout=120)
    return "".join(texts).strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_panel_takes_its_run_up_after_the_kernel_was_restarted_and_nothing_is_left(environment: dict[str, str]) -> None:
    manager: KernelManager
    manager, client = start_new_kernel(env=environment)
    try:
        first = said(client, START + "print(panel.start().id)\nwhile panel.run.state != 'running': time.sleep(0.05)")
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=60)
        again = said(client, START + "print(panel.run.id, panel.run.state)")
        assert again == f"{first} running"
        processes = [
            psutil.Process(int(pid))
            for pid in said(client, "print(*[w.pid for w in panel.run.directory.status().workers])").split()
        ]
        assert len(processes) == 2
        assert said(client, "panel.cancel()\nprint(panel.run.wait(30).state)") == "cancelled"
        assert not any(process.is_running() for process in processes)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def lab(tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a JupyterLab whose directory has the quickstart, as it comes but without outputs."""
    directory = tmp_path / "notebooks"
    directory.mkdir()
    notebook = execute.read(Path(execute.__file__).with_name("00_quickstart.ipynb"))
    for cell in execute.code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, directory / "quickstart.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--port={port}", f"--ServerApp.root_dir={directory}", "--IdentityProvider.token=", "--no-browser", "--allow-root"]
    options += ["--LabApp.news_url=", "--LabApp.expose_app_in_browser=True"]
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.1)
        assert server.poll() is None, (tmp_path / "lab.log").read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()  # which ends its kernels
        server.wait(30)


@pytest.mark.long
@pytest.mark.timeout(390)
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_the_quickstart_runs_in_a_browser_without_internet(lab: str, tmp_path: Path) -> None:
    """A picker is turned, its run is started and shown, and charts have marks. Screenshots lie in the test's directory."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 5200})  # tall: cells out of sight are not drawn
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(lab) else route.abort())
        page.goto(f"{lab}/lab/tree/quickstart.ipynb")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")  # as the menu does
        page.get_by_text("No answer yet").nth(2).wait_for(timeout=180_000)
        page.wait_for_function(CHARTS_ARE_DRAWN, arg=4)  # mesh, held, loss, parts of the step
        page.screenshot(path=tmp_path / "executed.png")
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0

        def toggled(label: str) -> Any:
            """The toggle button of this label; while it is on, its icon is a part of its accessible name."""
            return page.locator("button.widget-toggle-button", has_text=re.compile(rf"^\s*{label}$"))

        toggled("tensor").click()
        page.get_by_text("dp2-tp2").first.wait_for(timeout=20_000)
        toggled("data").click()
        page.get_by_text("tp2", exact=True).first.wait_for(timeout=20_000)
        page.locator("button.mod-primary", has_text="Run").click()  # its icon is a part of its name
        page.get_by_text("tp2 · transformer on text · 2 workers · finished").wait_for(timeout=120_000)
        toggled("single").click()
        page.wait_for_function(CHARTS_ARE_DRAWN, arg=4)
        page.screenshot(path=tmp_path / "used.png")
        browser.close()
