"""The Parquet files of the tables, one per table and worker; ``columns.py`` defines the columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.store.columns import RUNS, TABLES

if TYPE_CHECKING:
    import pyarrow as pa


def schema(name: str) -> pa.Schema:
    """Returns the Arrow schema of a table, which does not depend on its rows."""
    import pyarrow as pa

    columns = RUNS if name == "runs" else TABLES[name]
    return pa.schema([(name, pa.type_for_alias(column.kind)) for name, column in columns.items()])


def done_s(communication: Any) -> Any:
    """Returns when each operation of a table ``communication`` was complete: ``completed_s`` if that is before ``end_s``, the
    end of the wait. torch waits for sends only at the end of a schedule."""
    import pyarrow.compute as pc

    return pc.min_element_wise(communication["end_s"], communication["completed_s"], skip_nulls=True)


def write_table(path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Writes rows as a Parquet file of the table's columns; those that a row lacks are empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unknown = set().union(*rows) - TABLES[name].keys()
    assert not unknown, f"the table {name!r} has no column {', '.join(sorted(unknown))}"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(name)), path)


def read_tables(directory: Path, name: str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
    """Reads the files ``rank-N.parquet`` of a table in order of rank; optionally only some columns, or the rows of one step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty = schema(name).empty_table()
    rows = None if step is None else [("step", "=", step)]
    tables = [empty if columns is None else empty.select(columns)]
    for path in sorted(directory.glob("rank-*.parquet"), key=lambda p: int(p.stem.split("-")[1])):
        existing = None if columns is None else [c for c in columns if c in pq.read_schema(path).names]
        tables.append(pq.read_table(path, columns=existing, filters=rows))
    return pa.concat_tables(tables, promote_options="default")  # columns that older runs lack are empty
