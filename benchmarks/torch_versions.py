"""Runs the conformance core on every torch that the workbench allows: ``python benchmarks/torch_versions.py [VERSION…]``.

The checks of private names of torch come first. Each version is installed beside the tests' other packages in an environment of
its own, which is removed afterwards. CI has the newest torch alone; run this before the bounds of torch in ``pyproject.toml``
change and before a release.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = [
    "tests/torch_private",
    "tests/testing/test_conformance.py",
    "-q",
    "-p",
    "no:cacheprovider",
    "--durations=0",
    "--durations-min=10",
]


def allowed() -> list[str]:
    """The minor versions between the bounds of ``pyproject.toml``: ``>=2.11,<2.14`` gives 2.11, 2.12 and 2.13."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = (dependency for dependency in project["dependencies"] if re.match(r"torch\b", dependency))
    bounds = re.fullmatch(r"torch>=(\d+)\.(\d+),<(\d+)\.(\d+)", torch)
    assert bounds is not None, f"bounds that this script cannot read: {torch}"
    major, first, other, end = map(int, bounds.groups())
    assert major == other, f"bounds across major versions: {torch}"
    return [f"{major}.{minor}" for minor in range(first, end)]


def run_core(version: str, select: str) -> bool:
    """Whether the conformance core passes on the newest patch release of a minor version."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        print(f"torch {version}: installing", flush=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", f"torch=={version}.*", "-e", f"{ROOT}[test]"], check=True)
        found = subprocess.run(
            [python, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True
        )
        print(f"torch {found.stdout.strip()}: running", flush=True)
        command = [python, "-m", "pytest", *CORE, *(["-k", select] if select else [])]
        return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*", default=allowed(), help="such as 2.12; default: all that pyproject.toml allows")
    parser.add_argument("-k", dest="select", default="", help="as pytest's: a part of the core")
    arguments = parser.parse_args()
    passed = {version: run_core(version, arguments.select) for version in arguments.versions}
    for version, ok in passed.items():
        print(f"torch {version}: {'passed' if ok else 'FAILED'}")
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
