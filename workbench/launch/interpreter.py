"""The command and the environment of a child interpreter that imports the same packages as its parent."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path


def module_command(module: str, *arguments: str) -> list[str]:
    """``python -P -m module …``. Without ``-P`` the interpreter puts the current directory first on its path, and a folder
    there called ``workbench`` (or ``torch``) replaces the installed package."""
    return [sys.executable, "-P", "-m", module, *arguments]


def same_packages(**environment: str) -> dict[str, str]:
    """This process's environment, and in ``PYTHONPATH`` the entries of its import path that an interpreter does not add by
    itself: a child finds the modules that this process finds, as one of the fork server does."""
    standard = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    path = [entry or str(Path.cwd()) for entry in sys.path]
    added = [entry for entry in path if not entry.startswith(standard) and Path(entry).is_dir()]
    return {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(added)}
