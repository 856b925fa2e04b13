"""The directory of a run, which holds its whole state. Workers and supervisor write separate files; all others only read."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from workbench.code_parts import CODE_PARTS, MODEL, CodePart
from workbench.errors import DamagedRunError, UsageError
from workbench.store.events import Event, event_from_json
from workbench.store.figures import Summary
from workbench.store.json_record import InvalidRecordError, NewerVersionError, Record, from_json, to_json
from workbench.store.processes import this_origin
from workbench.store.records import CodeRecord, Environment, Labels, RunError, RunRecord
from workbench.store.run_status import RunState, RunStatus

if TYPE_CHECKING:
    import pyarrow as pa

    from workbench.spec.run_spec import RunSpec

R = TypeVar("R", bound=Record)
_HASHES = "hashes.json"
_LARGEST = 256 << 20
"""Bytes of a JSON file of a run."""


def home() -> Path:
    """Returns the store: ``$WORKBENCH_HOME``, or the platform's user data directory."""
    if chosen := os.environ.get("WORKBENCH_HOME"):
        return Path(chosen)
    import platformdirs

    return Path(platformdirs.user_data_dir("workbench"))


def new_run_id(label: str) -> str:
    """Returns a unique id that sorts by time and contains the split: ``20261124-101530-dp2-3f9a2c``."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{label}-{secrets.token_hex(3)}"


class StoredRun(Protocol):
    """A run in the store, as the API's ``Run`` or as its ``RunDirectory``: what analysis, charts and exports accept."""

    @property
    def id(self) -> str: ...

    @property
    def path(self) -> Path: ...

    @property
    def directory(self) -> RunDirectory: ...


class RunDirectory:
    """The files of one run; ``docs/store.md`` describes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    @classmethod
    def create(
        cls,
        store: Path,
        run_id: str,
        spec_toml: str,
        record: RunRecord,
        environment: Environment,
        code: Mapping[CodePart, tuple[CodeRecord, Mapping[str, bytes]]] | None = None,
    ) -> RunDirectory:
        """Creates the directory of a new run.

        Args:
            code: Part of the spec that is the user's own code → the record of the code, and the contents of all files in its
                folder by their path there.

        Raises:
            UsageError: the store cannot be written.
        """
        run = cls(store / "runs" / run_id)
        try:
            run.make_folders()
            run.spec_path.write_text(spec_toml, encoding="utf-8")
            run._write("environment.json", environment)
            run._write("run.json", record)
            for part, (code_record, files) in (code or {}).items():
                run._write_code(part.directory, code_record, files)
            run.write_status(RunStatus(RunState.QUEUED, submitted=this_origin()))
        except OSError as error:
            shutil.rmtree(run.path, ignore_errors=True)
            raise UsageError(
                f"cannot write to the store {store} ({error.strerror}); set WORKBENCH_HOME to another directory"
            ) from None
        return run

    def _write_code(self, folder: str, record: CodeRecord, files: Mapping[str, bytes]) -> None:
        for name, contents in files.items():
            path = self.path / folder / name
            path.parent.mkdir(0o755, parents=True, exist_ok=True)
            # A pickle executes code when it is loaded: only the user whose run it is may read it, and nobody may replace it.
            mode = 0o600 if path.suffix == ".pickle" else 0o644
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(contents)
        (self.path / folder / _HASHES).write_text(json.dumps(to_json(record)), encoding="utf-8")

    def make_folders(self) -> None:
        """Makes the folders that workers write to from their start."""
        for part in ("events", "log"):
            (self.path / part).mkdir(parents=True)

    @property
    def directory(self) -> RunDirectory:
        """Itself, so that a ``StoredRun`` is either this or the API's ``Run``."""
        return self

    @property
    def record_path(self) -> Path:
        return self.path / "run.json"

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.toml"

    def spec(self) -> RunSpec:
        """Returns the spec with all defaults filled in. The user's own model and data come from the code that the run keeps,
        whatever the file says: a run of someone else's must not name code to execute."""
        from workbench.spec.files import load

        spec = load(self.spec_path)
        for part in CODE_PARTS:
            if part.is_own(spec):
                spec = part.moved(spec, str(self.path.resolve() / part.directory))
        return spec

    def log_path(self, rank: int) -> Path:
        """Returns the path of the output of a worker."""
        return self.path / "log" / f"rank-{rank}.log"

    def stack_path(self, rank: int) -> Path:
        """Returns the path to which a worker that hangs writes its stacks."""
        return self.path / "log" / f"rank-{rank}.stack"

    @property
    def supervisor_log_path(self) -> Path:
        """Returns the path of the output of the supervisor."""
        return self.path / "log" / "supervisor.log"

    def events_path(self, rank: int) -> Path:
        return self.path / "events" / f"rank-{rank}.jsonl"

    def table_path(self, name: str, rank: int) -> Path:
        return self.path / name / f"rank-{rank}.parquet"

    def profiler_path(self, rank: int) -> Path:
        """Returns the path of the torch.profiler trace of a worker, which exists if the spec requested it."""
        return self.path / "profiler" / f"rank-{rank}.json.gz"

    def profiler_paths(self) -> list[Path]:
        """Returns the existing torch.profiler traces."""
        return sorted((self.path / "profiler").glob("rank-*.json.gz"))

    def record(self) -> RunRecord:
        """Returns what was decided when the run was submitted."""
        record = self._read(RunRecord, "run.json")
        if record is None:
            raise DamagedRunError(f"run {self.id}: run.json is missing; delete the run with `workbench rm --purge {self.id}`")
        return record

    def environment(self) -> Environment:
        return self._read(Environment, "environment.json") or Environment()

    def code(self, part: CodePart = MODEL) -> CodeRecord | None:
        """Returns the user's own code of a part of the spec; None if that is a plugin or a file."""
        return self._read(CodeRecord, f"{part.directory}/{_HASHES}")

    def codes(self) -> dict[str, CodeRecord]:
        """Returns the user's own code of each part that has any, by the name of the part."""
        return {part.name: code for part in CODE_PARTS if (code := self.code(part))}

    def status(self) -> RunStatus:
        return self._read(RunStatus, "status.json") or RunStatus(RunState.LOST, "the run directory has no status.json")

    def write_status(self, status: RunStatus) -> None:
        self._write("status.json", status)

    def labels(self) -> Labels:
        return self._read(Labels, "labels.json") or Labels()

    def write_labels(self, labels: Labels) -> None:
        self._write("labels.json", labels)

    def summary(self) -> Summary | None:
        """Returns the figures of a finished run."""
        return self._read(Summary, "summary.json")

    def write_summary(self, summary: Summary) -> None:
        self._write("summary.json", summary)

    def error(self) -> RunError | None:
        """Returns why the run failed; None unless it did."""
        return self._read(RunError, "error.json")

    def write_error(self, error: RunError) -> None:
        self._write("error.json", error)

    def request_cancel(self) -> None:
        """Requests the supervisor to end the run."""
        (self.path / "cancel").touch()

    def cancel_requested(self) -> bool:
        return (self.path / "cancel").exists()

    def events(self, rank: int, offset: int = 0) -> tuple[list[Event], int]:
        """Returns the events of a worker from a byte offset on, complete lines only, and the offset of the next event.

        Raises:
            DamagedRunError: an event cannot be read.
        """
        try:
            with self.events_path(rank).open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            return [], offset
        complete = data[: data.rfind(b"\n") + 1]
        try:
            events = [event_from_json(json.loads(line)) for line in complete.splitlines()]
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"events/{self.events_path(rank).name}", f": {error}") from None
        return [event for event in events if event is not None], offset + len(complete)

    def table(self, name: str, columns: Sequence[str] | None = None, step: int | None = None) -> pa.Table:
        """Reads a table of all workers, in order of rank; optionally only some columns, or the rows of one step.

        Raises:
            DamagedRunError: a file is no Parquet file with the columns of the table.
        """
        from pyarrow.lib import ArrowException

        from workbench.store.tables import read_tables

        try:
            return read_tables(self.path / name, name, columns, step)
        except (ArrowException, OSError) as error:
            raise self._damaged(name, f": {str(error).splitlines()[0].replace(f'{self.path}/', '')}") from None

    def _read(self, kind: type[R], name: str) -> R | None:
        """Reads a file; None if there is none.

        Raises:
            DamagedRunError: the file is damaged, or a later version wrote it.
        """
        try:
            path = self.path / name
            if path.stat().st_size > _LARGEST:
                raise self._damaged(name, f": it has more than {_LARGEST >> 20} MiB")
            return from_json(kind, json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._damaged(name, f": {error.strerror}") from None
        except NewerVersionError as error:
            raise DamagedRunError(f"run {self.id}: {name} {error}; update the workbench to read the run") from None
        except InvalidRecordError as error:
            raise self._damaged(name, f": {error}") from None
        except (ValueError, RecursionError):
            raise self._damaged(name) from None

    def _damaged(self, name: str, problem: str = "") -> DamagedRunError:
        hint = f"delete the run with `workbench rm --purge {self.id}`"
        return DamagedRunError(f"run {self.id}: {name} is damaged and cannot be read{problem}; {hint}")

    def _write(self, name: str, record: Record) -> None:
        """Replaces a file atomically: a reader sees the old or the new content."""
        draft = self.path / f".{name}.{os.getpid()}"
        draft.write_text(json.dumps(to_json(record)), encoding="utf-8")
        draft.replace(self.path / name)
