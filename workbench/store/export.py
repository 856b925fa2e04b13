"""Exports runs and their tables as CSV or Parquet, the same columns in both."""

from __future__ import annotations

from pathlib import Path

from workbench.store.listing import row
from workbench.store.run_directory import RunDirectory
from workbench.store.tables import RUN_COLUMNS, TABLES


def export(runs: list[RunDirectory], to: Path, file_format: str) -> list[Path]:
    """Writes ``runs`` and every table of a run (``steps``, ``memory``, …) under ``to``; returns the files."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    to.mkdir(parents=True, exist_ok=True)
    rows = [row(run) for run in runs]
    tables = {"runs": pa.table({column: [r[column] for r in rows] for column in RUN_COLUMNS})}
    tables |= {name: pa.concat_tables([run.table(name) for run in runs]) for name in TABLES}
    write = pyarrow.csv.write_csv if file_format == "csv" else pyarrow.parquet.write_table
    paths = []
    for name, table in tables.items():
        paths.append(to / f"{name}.{file_format}")
        write(table, paths[-1])
    return paths
