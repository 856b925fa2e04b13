"""Runs that come from a colleague: ids kept, nothing executed, nothing written elsewhere, refused whole when damaged."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from tests.helpers.run_directory import RECORD, new_run, step_row
from workbench.errors import UsageError
from workbench.store import listing, runs_table
from workbench.store.archive import import_runs, pack
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.records import Labels
from workbench.store.run_status import RunState, RunStatus
from workbench.store.tables import write_table


def ended(store: Path, run_id: str = "20261124-001530-dp2-3f9a00") -> RunDirectory:
    run = new_run(store, run_id)
    run.write_status(RunStatus(RunState.FINISHED))
    run.write_summary(Summary(step_time_s=0.5))
    write_table(run.table_path("steps", 0), "steps", [step_row(run, 0, 0, 1.0)])
    return run


def archive(**files: str | bytes) -> io.BytesIO:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
    packed.seek(0)
    return packed


def tree(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def test_what_is_packed_is_taken_in_with_its_id_and_all_its_files(tmp_path: Path) -> None:
    run = ended(tmp_path / "theirs")
    (new,), here = import_runs(tmp_path / "mine", io.BytesIO(pack([run])))
    assert (new.id, here) == (run.id, [])
    assert tree(new.path) == tree(run.path)
    assert runs_table.rows(tmp_path / "mine") == runs_table.rows(tmp_path / "theirs")
    assert new.table("steps").num_rows == 1


def test_a_stores_directory_is_taken_in_and_what_is_here_stays_as_it_is(tmp_path: Path) -> None:
    ended(tmp_path / "theirs", "run-1"), ended(tmp_path / "theirs", "run-2")
    ended(tmp_path / "mine", "run-1").write_labels(Labels(name="mine"))
    new, here = import_runs(tmp_path / "mine", tmp_path / "theirs")
    assert ([run.id for run in new], here) == (["run-2"], ["run-1"])
    assert listing.exact(tmp_path / "mine", "run-1").labels().name == "mine"


def test_a_zip_of_a_whole_store_is_taken_in(tmp_path: Path) -> None:
    run = ended(tmp_path / "theirs")
    files = {f"store/runs/{run.id}/{name}": (run.path / name).read_bytes() for name in tree(run.path)}
    (new,), _ = import_runs(tmp_path / "mine", archive(**files, **{"store/index.json": "{}"}))
    assert new.id == run.id


@pytest.mark.parametrize(
    "evil", ["../../evil.txt", "/tmp/evil.txt", "{run}/../../evil.txt", "{run}/evil.py", "{run}/log/evil.sh"]
)
def test_only_a_runs_own_files_are_written(tmp_path: Path, evil: str) -> None:
    run = ended(tmp_path / "theirs")
    files = {f"{run.id}/{name}": (run.path / name).read_bytes() for name in tree(run.path)}
    (new,), _ = import_runs(tmp_path / "mine", archive(**files, **{evil.format(run=run.id): "boom"}))
    assert tree(new.path) == tree(run.path)
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("run_id", ["..", ".hidden", "a b", "x" * 300, "-dash"])
def test_a_directory_that_is_no_id_is_no_run(tmp_path: Path, run_id: str) -> None:
    run = ended(tmp_path / "theirs")
    files = {f"{run_id}/{name}": (run.path / name).read_bytes() for name in tree(run.path)}
    with pytest.raises(UsageError, match="contains no run"):
        import_runs(tmp_path / "mine", archive(**files))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("summary.json", b"{", "damaged"),
        ("spec.toml", b"= 1", "damaged"),
        ("status.json", b'{"state": "running"}', "has not ended"),
        ("status.json", b"[]", "status.json: \\[\\] is not an object"),
        (
            "summary.json",
            json.dumps({"step_time_s": "<script>"}).encode(),
            "summary.json: step_time_s: '<script>' is not a number",
        ),
        (
            "run.json",
            json.dumps({**RECORD, "run_id": "run-2", "threads_per_worker": 10**30}).encode(),
            "invalid values of threads_per_worker",
        ),
        ("run.json", json.dumps({**RECORD, "run_id": "run-2", "created_at": 1e30}).encode(), "invalid values of created_at"),
        ("run.json", json.dumps({**RECORD, "run_id": "another"}).encode(), "name of its directory is not its run id"),
        ("steps/rank-0.parquet", b"PAR1", "damaged"),
    ],
)
def test_a_damaged_run_is_refused_and_nothing_is_taken_in(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    good, bad = ended(tmp_path / "theirs", "run-1"), ended(tmp_path / "theirs", "run-2")
    (bad.path / name).write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as refused:
        import_runs(tmp_path / "mine", io.BytesIO(pack([good, bad])))
    assert str(tmp_path) not in str(refused.value), "a path of the draft"
    assert runs_table.rows(tmp_path / "mine") == []
    assert not list((tmp_path / "mine").glob(".import-*")), "no draft is left"


def test_what_is_no_zip_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 not", b"hello"):
        with pytest.raises(UsageError, match="not a readable zip file"):
            import_runs(tmp_path / "mine", io.BytesIO(content))
    packed = bytearray(pack([ended(tmp_path / "theirs")]))
    packed[200:260] = bytes(60)
    with pytest.raises(UsageError):
        import_runs(tmp_path / "mine", io.BytesIO(bytes(packed)))
    assert runs_table.rows(tmp_path / "mine") == []
