"""A run's directory: the truth about the run. Workers and owner write their own files, readers only read."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.errors import DamagedRunError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from workbench.spec.run_spec import RunSpec

TERMINAL = ("finished", "failed", "cancelled", "lost")


def home() -> Path:
    """The store: ``$WORKBENCH_HOME``, or the platform's directory for a user's data."""
    if chosen := os.environ.get("WORKBENCH_HOME"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_data_dir("workbench"))


def new_run_id(label: str) -> str:
    """Sorts by time, says the split, is unique: ``20261124-101530-dp2-3f9a2c``."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{secrets.token_hex(3)}"


class StoredRun(Protocol):
    """A run in the store, as the API's ``Run`` or as its ``RunDirectory``: what analysis, charts and exports accept."""

    @property
    def id(self) -> str: ...

    @property
    def directory(self) -> RunDirectory: ...


class RunDirectory:
    """The files of one run (DESIGN's store layout)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    @classmethod
    def create(
        cls, store: Path, run_id: str, spec_toml: str, record: dict[str, Any], environment: dict[str, Any]
    ) -> RunDirectory:
        """A new run: ``record`` is what was decided at its submission."""
        run = cls(store / "runs" / run_id)
        try:
            for part in ("events", "log"):
                (run.path / part).mkdir(parents=True)
        except OSError as error:
            raise UsageError(
                f"cannot write to the store {store} ({error.strerror}); set WORKBENCH_HOME to another directory"
            ) from None
        run.spec_path.write_text(spec_toml, encoding="utf-8")
        run._write("environment.json", environment)
        run._write("run.json", record)
        run.write_status({"state": "queued"})
        return run

    @property
    def directory(self) -> RunDirectory:
        """Itself, so that a ``StoredRun`` is either this or the API's ``Run``."""
        return self

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.toml"

    def spec(self) -> RunSpec:
        """The spec with all defaults filled in."""
        from workbench.spec.files import load

        return load(self.spec_path)

    def log_path(self, rank: int | str) -> Path:
        """What a worker (or ``"owner"``) printed."""
        return self.path / "log" / (f"rank-{rank}.log" if rank != "owner" else "owner.log")

    def events_path(self, rank: int) -> Path:
        return self.path / "events" / f"rank-{rank}.jsonl"

    def table_path(self, name: str, rank: int) -> Path:
        return self.path / name / f"rank-{rank}.parquet"

    def profiler_path(self, rank: int) -> Path:
        """torch.profiler's own trace of a worker, where the spec asked for it."""
        return self.path / "profiler" / f"rank-{rank}.json.gz"

    def profiler_paths(self) -> list[Path]:
        """torch's traces that there are."""
        return sorted((self.path / "profiler").glob("rank-*.json.gz"))

    def record(self) -> dict[str, Any]:
        """What was decided at its submission."""
        record = self._read("run.json")
        if not record:
            raise DamagedRunError(
                f"run {self.id}: run.json is empty or missing; delete the run with `workbench rm --purge {self.id}`"
            )
        return record

    def environment(self) -> dict[str, Any]:
        return self._read("environment.json") or {}

    def status(self) -> dict[str, Any]:
        return self._read("status.json") or {"state": "lost", "message": "the run directory has no status.json"}

    def write_status(self, status: dict[str, Any]) -> None:
        self._write("status.json", status)

    def labels(self) -> dict[str, Any]:
        """What people changed: name, tags, note, deleted_at."""
        return self._read("labels.json") or {}

    def update_labels(self, **values: Any) -> None:
        self._write("labels.json", {**self.labels(), **values})

    def summary(self) -> dict[str, Any] | None:
        """The run's figures once it has finished."""
        return self._read("summary.json")

    def write_summary(self, summary: dict[str, Any]) -> None:
        self._write("summary.json", summary)

    def error(self) -> dict[str, Any] | None:
        """Why it failed: rank, step, exception, traceback, last lines and operations, advice."""
        return self._read("error.json")

    def write_error(self, error: dict[str, Any]) -> None:
        self._write("error.json", error)

    def request_cancel(self) -> None:
        """Asks the owner to end the run."""
        (self.path / "cancel").touch()

    def cancel_requested(self) -> bool:
        return (self.path / "cancel").exists()

    def events(self, rank: int, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """A worker's events from a byte offset on, whole lines only, and the offset to go on from."""
        try:
            with self.events_path(rank).open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], offset
        whole = data[: data.rfind(b"\n") + 1]
        return [json.loads(line) for line in whole.splitlines()], offset + len(whole)

    def table(self, name: str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
        """A table of all workers, in order of rank; of a long one only some columns, or the rows of one step."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from workbench.store.tables import schema

        empty = schema(name).empty_table()
        rows = None if step is None else [("step", "=", step)]
        paths = sorted((self.path / name).glob("rank-*.parquet"), key=lambda p: int(p.stem.split("-")[1]))
        tables = [empty if columns is None else empty.select(columns)]
        for path in paths:
            there = None if columns is None else [c for c in columns if c in pq.read_schema(path).names]
            tables.append(pq.read_table(path, columns=there, filters=rows))
        return pa.concat_tables(tables, promote_options="default")  # older runs lack newer columns: empty there

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            hint = f"delete the run with `workbench rm --purge {self.id}`"
            raise DamagedRunError(f"run {self.id}: {name} is damaged and cannot be read; {hint}") from None

    def _write(self, name: str, value: dict[str, Any]) -> None:
        """Replaces a file whole: a reader sees the old or the new one."""
        draft = self.path / f".{name}.{os.getpid()}"
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(self.path / name)
