"""Makes the pictures of the dashboard: ``python docs/screenshots.py [DIRECTORY]`` writes ``docs/dashboard/*.png``.

Shows the runs of the store, such as those of ``workbench run``; needs Chromium and the Python package playwright.
"""

from __future__ import annotations

import sys
from pathlib import Path

from workbench.store.run_directory import home
from workbench.testing.browser import dashboard, screenshots

PAGES = {
    "front": "",
    "configure": "configure?split.data.size=2&split.pipeline.size=2",
    "refused": "configure?split.data.size=3",
    "live": "live",
    "runs": "runs",
}
"""Name of a picture → the page that it shows."""


def main(to: Path) -> None:
    """Writes the pictures."""
    with dashboard(home()) as address:
        for path in screenshots(address, PAGES, to):
            print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("dashboard"))
