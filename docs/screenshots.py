"""Makes the pictures of the dashboard: ``python docs/screenshots.py [DIRECTORY]`` writes ``docs/dashboard/*.png``.

Shows the runs of the store, such as those of ``workbench run``; needs Chromium and the Python package playwright.
"""

from __future__ import annotations

import sys
from pathlib import Path

from workbench.analysis.latest import MOST_COMPARED
from workbench.store import runs_table
from workbench.store.directory import home
from workbench.testing.browser import dashboard, screenshots

PAGES = {
    "front": "",
    "configure": "configure?split.data.size=2&split.pipeline.size=2",
    "refused": "configure?split.data.size=3",
    "live": "live",
    "runs": "runs",
    "run": "run?run={pipeline}",
    "learn": "learn?lesson=pipeline",
    "compare": "compare?runs={runs}",
    "trace": "trace?run={pipeline}",
}
"""Name of a picture → the page that it shows; ``{runs}``: the latest of each split, ``{pipeline}``: one of them."""


def main(to: Path) -> None:
    """Writes the pictures."""
    latest = {row["split"]: row["run_id"] for row in runs_table.rows(home()) if row["state"] == "finished"}
    pipelines = [run_id for split, run_id in latest.items() if split.startswith("pp")] or list(latest.values())
    runs = {"runs": ",".join(list(latest.values())[-MOST_COMPARED:]), "pipeline": (pipelines or [""])[0]}
    pages = {name: path.format(**runs) for name, path in PAGES.items()}
    with dashboard(home()) as address:
        for path in screenshots(address, pages, to):
            print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("dashboard"))
