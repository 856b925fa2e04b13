"""Exports runs and their tables as CSV or Parquet, with the same columns in both, and the traces of torch's profiler."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.store.columns import TABLES
from workbench.store.directory import StoredRun
from workbench.store.runs_table import row
from workbench.store.tables import schema

if TYPE_CHECKING:
    import pyarrow as pa

_FORMULA = "^[=+\\-@\t\r]"
"""Prefix of texts that a spreadsheet would evaluate (OWASP, "CSV Injection")."""


def export(runs: Sequence[StoredRun], to: Path, file_format: str) -> list[Path]:
    """Writes ``runs`` and every table of the runs (``steps``, ``memory``, …) under ``to``, and torch's traces under
    ``profiler/<run id>/``. Returns the files."""
    directories = [run.directory for run in runs]
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    to.mkdir(parents=True, exist_ok=True)
    rows = [row(run) for run in directories]
    tables = {"runs": pa.Table.from_pylist(rows, schema=schema("runs"))}
    tables |= {name: pa.concat_tables([run.table(name) for run in directories]) for name in TABLES}
    paths = []
    for name, table in tables.items():
        paths.append(to / f"{name}.{file_format}")
        if file_format == "csv":
            pyarrow.csv.write_csv(as_text(table), paths[-1])
        else:
            pyarrow.parquet.write_table(table, paths[-1])
    for run in directories:
        for trace in run.profiler_paths():
            paths.append(to / "profiler" / run.id / trace.name)
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(trace, paths[-1])
    return paths


def as_text(table: pa.Table) -> pa.Table:
    """Returns the table with an apostrophe before each text that a spreadsheet would evaluate; numbers are unchanged."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for index, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):  # pandas' texts are large
            column = table.column(index)
            is_formula = pc.match_substring_regex(column, _FORMULA)
            if pc.any(is_formula).as_py():
                quoted = pc.binary_join_element_wise(pa.scalar("'", field.type), column, pa.scalar("", field.type))
                table = table.set_column(index, field, pc.if_else(is_formula, quoted, column))
    return table
