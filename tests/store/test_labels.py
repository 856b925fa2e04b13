"""Labels, deletion with undo, and the index: what people change is seen at once, however many runs there are."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.helpers.run_directory import new_run
from workbench.cli.main import cli
from workbench.errors import UsageError
from workbench.store import index, listing, runs_table
from workbench.store.directory import RunDirectory
from workbench.store.figures import Summary
from workbench.store.labels import add_tags, delete, relabel, remove_tags, restore
from workbench.store.records import Labels
from workbench.store.run_status import RunState, RunStatus


def ended(store: Path, run_id: str) -> RunDirectory:
    run = new_run(store, run_id)
    run.write_status(RunStatus(RunState.FINISHED))
    long_ago = time.time() - 100
    os.utime(run.path, (long_ago, long_ago))
    return run


def test_a_name_and_a_tag_are_one_line_and_tags_are_told_apart(tmp_path: Path) -> None:
    run = ended(tmp_path, "run-1")
    relabel(run, name="  two\nlines ", tags=["a  b", " c ", "", "c"], note="<b>kept\nas it is</b>")
    assert run.labels() == Labels("two lines", ("a b", "c"), "<b>kept\nas it is</b>")
    (row,) = runs_table.rows(tmp_path)
    assert (row["name"], row["tags"]) == ("two lines", "a b, c")
    with pytest.raises(UsageError, match="comma, but got 'a,b'"):
        relabel(run, tags=["a,b"])
    with pytest.raises(UsageError, match="at most 200 characters"):
        relabel(run, name="x" * 201)


def test_tags_are_added_to_those_that_a_run_has_and_taken_from_them(tmp_path: Path) -> None:
    run = ended(tmp_path, "run-1")
    add_tags(run, ["a", " b  c "])
    add_tags(run, ["a", "d"])
    assert run.labels().tags == ("a", "b c", "d")
    remove_tags(run, ["b c", "e"])
    assert run.labels().tags == ("a", "d")
    remove_tags(run, ["a", "d"])
    assert run.labels().tags == ()


def _add_ten(path: Path, index: int) -> None:
    for number in range(10):
        add_tags(RunDirectory(path), [f"{index} {number}"])


def test_changes_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    run = ended(tmp_path, "run-1")
    processes = [multiprocessing.get_context("spawn").Process(target=_add_ten, args=(run.path, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert set(run.labels().tags or ()) == {f"{index} {number}" for index in range(4) for number in range(10)}


def test_a_lock_that_is_held_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ended(tmp_path, "run-1")
    monkeypatch.setattr("workbench.store.labels._LOCK_S", 0.05)
    directory = os.open(run.path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match=r"another process holds a lock on .*run-1 for 0\.05 s; try again"):
        relabel(run, name="new")
    os.close(directory)
    relabel(run, name="new")
    assert run.labels().name == "new"


def test_a_deleted_run_comes_back_as_it_was(tmp_path: Path) -> None:
    run = ended(tmp_path, "run-1")
    before = runs_table.rows(tmp_path)
    delete(run)
    assert runs_table.rows(tmp_path) == []
    assert runs_table.survey(tmp_path) == ([], ["run-1"])
    restore(listing.exact(tmp_path, "run-1"))
    assert runs_table.rows(tmp_path) == before
    assert runs_table.survey(tmp_path)[1] == []


def test_a_run_that_has_not_ended_is_not_deleted(tmp_path: Path) -> None:
    run = new_run(tmp_path, "run-1")
    with pytest.raises(UsageError, match="has not ended"):
        delete(run)


@pytest.mark.parametrize("text", ["../run-1", "runs/run-1", "", "..", "run-1/", "x" * 1000, "run-2", "\x00"])
def test_an_exact_id_names_a_run_of_the_store_or_nothing(tmp_path: Path, text: str) -> None:
    ended(tmp_path, "run-1")
    with pytest.raises(UsageError, match="is not in the store"):
        listing.exact(tmp_path, text)


def test_rows_are_the_same_with_an_index_without_one_and_with_a_damaged_one(tmp_path: Path) -> None:
    for number in range(index._MIN_NEW + 1):
        ended(tmp_path, f"run-{number:04d}")
    RunDirectory(tmp_path / "runs" / "run-0007").write_summary(Summary(step_time_s=0.5))
    first = runs_table.rows(tmp_path)
    file = tmp_path / index.NAME
    assert file.exists()
    assert runs_table.rows(tmp_path) == first
    relabel(RunDirectory(tmp_path / "runs" / "run-0003"), name="new")
    delete(RunDirectory(tmp_path / "runs" / "run-0004"))
    after = runs_table.rows(tmp_path)
    assert [row["name"] for row in after if row["run_id"] == "run-0003"] == ["new"]
    assert len(after) == len(first) - 1
    for content in ("", "[]", '{"columns": []}', '{"columns": 1, "rows": 2}'):
        file.write_text(content)
        assert runs_table.rows(tmp_path) == after


def test_an_index_of_another_version_is_renewed(tmp_path: Path) -> None:
    for number in range(index._MIN_NEW):
        ended(tmp_path, f"run-{number:04d}")
    rows, file = runs_table.rows(tmp_path), tmp_path / index.NAME
    current = file.read_text()
    column = list(rows[0]).index("efficiency")
    for other in ({}, {"version": index.VERSION - 1}):
        content = json.loads(current)
        for entry in content["rows"].values():
            entry[1][column] = 1.41
        del content["version"]
        file.write_text(json.dumps({**content, **other}))
        assert runs_table.rows(tmp_path) == rows
        assert file.read_text() == current


def test_the_index_is_what_is_read_of_an_ended_run(tmp_path: Path) -> None:
    for number in range(index._MIN_NEW):
        ended(tmp_path, f"run-{number:04d}")
    rows = runs_table.rows(tmp_path)
    for path in (tmp_path / "runs").iterdir():
        (path / "run.json").write_text("{}")  # written in place, unlike anything of ours: only who reads it would notice
    assert runs_table.rows(tmp_path) == rows


def test_a_run_that_changed_just_now_is_not_kept_in_the_index(tmp_path: Path) -> None:
    for number in range(index._MIN_NEW):
        new_run(tmp_path, f"run-{number:04d}").write_status(RunStatus(RunState.FINISHED))
    runs_table.rows(tmp_path)
    assert not (tmp_path / index.NAME).exists()


def test_the_command_line_labels_restores_and_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def workbench(*words: str) -> str:
        result = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run = ended(tmp_path / "mine", "run-1")
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "mine"))
    workbench("label", "run-1", "--name", "a name", "--tag", "a", "--tag", "b")
    assert run.labels() == Labels("a name", ("a", "b"))
    workbench("label", "run-1", "--tag", "")
    assert run.labels().tags == ()
    workbench("rm", "run-1")
    assert runs_table.rows(tmp_path / "mine") == []
    assert workbench("rm", "--undo", "run-1") == "run-1 restored\n"
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "theirs"))
    assert workbench("import", str(tmp_path / "mine")) == "run-1 imported\n"
    assert workbench("import", str(tmp_path / "mine")) == "run-1 is already in the store\n"
    assert [row["name"] for row in runs_table.rows(tmp_path / "theirs")] == ["a name"]
