"""Samples from a table: CSV, Parquet or Arrow files (a Hugging Face dataset saved to disk), mapped into memory, not read."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import NonNegativeInt

from workbench.data.base import DatasetSummary
from workbench.data.user.kinds import as_numbers, described
from workbench.data.user.paths import FileDataset
from workbench.errors import SpecError
from workbench.messages import unknown_name
from workbench.plan.loss_weights import IGNORED
from workbench.spec.options import DatasetOptions, ReadsFile

if TYPE_CHECKING:
    import pyarrow as pa

    from workbench.data.base import Array

_TARGETS = ("target", "targets", "label", "labels", "class", "y")
_MAPPED_BYTES = 64 * 2**20
"""Size of a CSV or Parquet file from which on it is converted to a file that can be mapped."""
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_NUM_DESCRIBED = 1024
"""Samples of which the values of structured inputs are described."""


class TableOptions(DatasetOptions):
    """Options of a table."""

    name: Annotated[str, ReadsFile]
    """Path of the .csv, .tsv, .parquet or .arrow file, or hf:PATH of a folder of .arrow files; each row is a sample."""

    inputs: tuple[str, ...] = ()
    """Columns of inputs; by default all but the targets. Columns of numbers together are the features of a sample; if one has
    lists, each column is an input of its own name, and the only one the input."""

    targets: tuple[str, ...] = ()
    """Columns of targets; by default the one named target, label, class or y, or the last."""

    target: Literal["auto", "class", "values"] = "auto"
    """What the target is: a class, or values to predict; by default a class if it is text or an integer."""

    length: NonNegativeInt = 0
    """Length to which lists are cut or padded: targets with −100, others with 0; 0: that of the longest list."""


@dataclass(frozen=True)
class Rows:
    """Rows of a table as samples."""

    table: pa.Table
    inputs: tuple[str, ...]
    target_columns: tuple[str, ...]
    lengths: dict[str, int]
    """Column of lists → their length as a tensor."""
    classes: Array | None
    """Values of the target column that are the classes, sorted; None if it has no classes."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def batch(self, indices: Array) -> tuple[Any, Any]:
        rows = self.table.select(list(dict.fromkeys([*self.inputs, *self.target_columns]))).take(indices)
        return self._inputs(rows), self._targets(rows)

    def targets(self, indices: Array) -> Any:
        """Returns only the targets."""
        return self._targets(self.table.select(self.target_columns).take(indices))

    def _inputs(self, rows: pa.Table) -> Any:
        import numpy as np

        if self.lengths.keys() & set(self.inputs):
            values = {name: self._values(rows, name) for name in self.inputs}
            return values if len(values) > 1 else values[self.inputs[0]]
        return np.stack([_numbers(rows, name).astype(np.float32) for name in self.inputs], axis=1)

    def _targets(self, rows: pa.Table) -> Any:
        import numpy as np

        if self.classes is not None:
            return np.searchsorted(self.classes, rows.column(self.target_columns[0]).to_numpy(zero_copy_only=False))
        if not self.lengths.keys() & set(self.target_columns):
            return np.stack([_numbers(rows, name).astype(np.float32) for name in self.target_columns], axis=1)
        values = {name: self._values(rows, name) for name in self.target_columns}
        return values if len(values) > 1 else values[self.target_columns[0]]

    def _values(self, rows: pa.Table, name: str) -> Array:
        import numpy as np

        if name not in self.lengths:
            return as_numbers(_numbers(rows, name), f"column {name}")
        lists = [np.asarray(values) for values in rows.column(name).to_pylist()]
        padding = IGNORED if name in self.target_columns else 0
        padded = np.full((len(lists), self.lengths[name]), padding, dtype=np.result_type(*lists))
        for row, values in zip(padded, lists, strict=True):
            row[: len(values)] = values[: len(row)]
        return as_numbers(padded, f"column {name}")


class Table(FileDataset[TableOptions]):
    """Rows of a table."""

    name = "table"
    Options = TableOptions

    def summary(self) -> DatasetSummary:
        import numpy as np

        rows = self.load()
        inputs, targets = rows.batch(np.arange(min(_NUM_DESCRIBED, len(rows))))
        if rows.classes is not None:
            return described(inputs, targets, len(rows), max(2, len(rows.classes)), has_ignored_targets=False)
        return described(inputs, targets, len(rows), _num_tokens(rows, inputs, targets))

    def load(self) -> Rows:
        path = self.path
        table = _opened(path, _modified(path))
        return _rows(self.options, table)


def _rows(options: TableOptions, table: pa.Table) -> Rows:
    import pyarrow.compute as pc

    names = table.column_names
    for field, chosen in (("inputs", options.inputs), ("targets", options.targets)):
        if unknown := next((name for name in chosen if name not in names), None):
            raise SpecError(f"dataset.{field}", unknown_name("column", unknown, names))
    if not table.num_rows or len(names) < 2:
        found = f"{table.num_rows} rows of {len(names)} columns"
        raise SpecError("dataset.name", f"requires rows, with columns of inputs and of targets, but has {found}")
    targets = options.targets or ((next((n for n in names if n.lower() in _TARGETS), names[-1])),)
    inputs = options.inputs or tuple(name for name in names if name not in targets)
    for name in (*inputs, *targets):
        if table.column(name).null_count:
            row = pc.index(pc.is_null(table.column(name)), True).as_py()
            raise SpecError("dataset.name", f"column {name} has no value in row {row}; fill it in, or leave the column out")
    kinds = {name: _kind(table, name) for name in (*inputs, *targets)}
    if wrong := next((name for name in inputs if kinds[name] not in ("number", "integer", "list")), None):
        raise SpecError("dataset.inputs", f"column {wrong} has {kinds[wrong]}; list columns of numbers in dataset.inputs")
    kind, classes = kinds[targets[0]], None
    is_class = len(targets) == 1 and (kind in ("text", "integer") if options.target == "auto" else options.target == "class")
    if is_class and kind != "list":
        classes = pc.unique(table.column(targets[0])).sort().to_numpy(zero_copy_only=False)
    elif wrong := next((name for name in targets if kinds[name] not in ("number", "integer", "list")), None):
        raise SpecError("dataset.targets", f"column {wrong} has {kinds[wrong]}, which is no number to predict")
    lengths = {
        name: options.length or int(pc.max(pc.list_value_length(table.column(name))).as_py())
        for name, kind in kinds.items()
        if kind == "list"
    }
    return Rows(table, inputs, targets, lengths, classes)


def _kind(table: pa.Table, name: str) -> str:
    import pyarrow.types as types

    of = table.schema.field(name).type
    if types.is_list(of) or types.is_large_list(of) or types.is_fixed_size_list(of):
        return "list"
    if types.is_integer(of) or types.is_boolean(of):
        return "integer"
    if types.is_floating(of) or types.is_decimal(of):
        return "number"
    return "text" if types.is_string(of) or types.is_large_string(of) or types.is_dictionary(of) else f"values of type {of}"


def _num_tokens(rows: Rows, inputs: Any, targets: Any) -> int:
    """Returns the size of the vocabulary of targets that are lists, over all rows; 0 for other targets."""
    import pyarrow.compute as pc

    if isinstance(targets, dict) or targets.ndim < 2 or targets.dtype.kind != "i":
        return 0
    columns = [name for name in (*rows.inputs, *rows.target_columns) if name in rows.lengths]
    return max(int(pc.max(pc.list_flatten(rows.table.column(name))).as_py()) for name in columns) + 1


def _numbers(rows: pa.Table, name: str) -> Array:
    numbers: Array = rows.column(name).to_numpy(zero_copy_only=False)
    return numbers


def _modified(path: Path) -> int:
    files = path.glob("*.arrow") if path.is_dir() else [path]
    return max((file.stat().st_mtime_ns for file in files), default=0)


@functools.lru_cache(maxsize=4)
def _opened(path: Path, modified: int) -> pa.Table:
    """Returns a file, or all files of a folder, as one table; large ones are mapped."""
    import pyarrow as pa

    try:
        if path.is_dir():
            if not (files := sorted(path.glob("*.arrow"))):
                raise SpecError("dataset.name", f"{path} has no .arrow files; name a folder that save_to_disk has written")
            return pa.concat_tables([_arrow(file) for file in files])
        if path.suffix.lower() == ".arrow":
            return _arrow(path)
        if path.stat().st_size < _MAPPED_BYTES:
            return pa.Table.from_batches(list(_batches(path)))
        return _arrow(_converted(path, modified))
    except (pa.ArrowInvalid, pa.ArrowKeyError, ValueError) as error:
        raise SpecError("dataset.name", f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _arrow(path: Path) -> pa.Table:
    """Returns an Arrow file, of which only what is used is read."""
    import pyarrow as pa

    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(source).read_all()  # as the library datasets writes them


def _batches(path: Path) -> Any:
    """Returns the rows of a CSV or Parquet file in batches."""
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix.lower() == ".parquet":
        return pyarrow.parquet.ParquetFile(path).iter_batches()
    options = pyarrow.csv.ParseOptions(delimiter=_SEPARATORS[path.suffix.lower()])
    return pyarrow.csv.open_csv(path, parse_options=options)


def _converted(path: Path, modified: int) -> Path:
    """Returns an Arrow file with the rows of another file, which is made once, batch by batch."""
    import hashlib

    import platformdirs
    import pyarrow as pa

    folder = Path(platformdirs.user_cache_dir("workbench", appauthor=False), "tables")
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(f"{path} {modified} {path.stat().st_size}".encode()).hexdigest()[:32]
    target = folder / f"{key}.arrow"
    if not target.exists():
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            writer = None
            for batch in _batches(path):
                writer = writer or pa.ipc.new_file(file, batch.schema)
                writer.write_batch(batch)
            if writer is None:
                raise SpecError("dataset.name", f"{path} has no rows")
            writer.close()
        Path(file.name).replace(target)
    return target
