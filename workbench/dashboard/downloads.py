"""Files that the browser downloads."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import altair as alt
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from workbench.api import Run
from workbench.charts.theme import AnyChart, dressed, svg
from workbench.export.tables import as_text, export


def tables_of(runs: list[Run], file_format: str) -> bytes:
    """Returns a zip file of the tables of the runs, as ``workbench export`` writes them."""
    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in export(runs, Path(directory), file_format):
            archive.write(path, path.relative_to(directory))
    return packed.getvalue()


def report_of(runs: list[Run]) -> bytes:
    """Returns the report of the runs as one HTML file."""
    from workbench.export.report.write import write_report  # loads what draws reports, which no page needs before

    with tempfile.TemporaryDirectory() as directory:
        return write_report(runs, Path(directory) / "report.html")[0].read_bytes()


def csv_of(frame: pd.DataFrame) -> bytes:
    """Returns the frame as CSV in which no text is a formula."""
    written = io.BytesIO()
    pyarrow.csv.write_csv(as_text(pa.Table.from_pandas(frame, preserve_index=False)), written)
    return written.getvalue()


def picture_of(chart: AnyChart, file_format: Literal["png", "svg"]) -> bytes:
    """Returns the chart as a picture on a light background."""
    if file_format == "svg":
        return svg(chart).encode()
    written = io.BytesIO()
    with alt.data_transformers.enable("default", max_rows=None):
        dressed(chart).save(written, format=file_format, scale_factor=2)
    return written.getvalue()


def trace_of(run: Run) -> bytes:
    """Returns the compressed trace of a run, for Perfetto and chrome://tracing."""
    from workbench.export.chrome_trace import write_trace

    with tempfile.TemporaryDirectory() as directory:
        return write_trace([run], Path(directory) / "trace.json.gz").read_bytes()
