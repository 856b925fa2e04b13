"""The command and the environment of a child interpreter that imports the same packages as its parent."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path


def module_command(module: str, *arguments: str) -> list[str]:
    """Returns ``python -P -m module …``. Without ``-P`` the current directory comes first on the import path, where a folder
    called ``workbench`` (or ``torch``) would replace the installed package."""
    return [sys.executable, "-P", "-m", module, *arguments]


def same_packages(**environment: str) -> dict[str, str]:
    """Returns the environment of this process, with the non-standard entries of its import path in ``PYTHONPATH``: a child
    imports the same modules as its parent, as a child of the fork server does."""
    standard = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    path = [entry or str(Path.cwd()) for entry in sys.path]
    added = [entry for entry in path if not entry.startswith(standard) and Path(entry).is_dir()]
    return {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(added)}
