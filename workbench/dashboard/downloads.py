"""What a browser downloads."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path

from workbench.store.export import export
from workbench.store.run_directory import RunDirectory


def tables_of(runs: list[RunDirectory], file_format: str) -> bytes:
    """The runs' tables, as ``workbench export`` writes them, in a zip file."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in export(runs, Path(directory), file_format):
            archive.write(path, path.relative_to(directory))
    return packed.getvalue()
