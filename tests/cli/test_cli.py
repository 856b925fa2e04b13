"""The command line on recorded runs: no process of a run is started here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.command import workbench
from tests.helpers.comparison import FAILED, HELD, SINGLE, SPLIT, WORKER, record_run
from workbench.analysis.memory import CATEGORIES
from workbench.api import Run
from workbench.cli import time_figures
from workbench.cli.assertion import parse
from workbench.cli.output import runs_document
from workbench.errors import SpecError
from workbench.store.columns import RUN_COLUMNS
from workbench.store.records import RunError
from workbench.store.run_status import RunState, RunStatus
from workbench.store.tables import write_table


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    record_run(store, SINGLE, "finished", 1, speedup=1.0)
    record_run(store, SPLIT, "finished", 2, speedup=1.7)
    failed = record_run(store, FAILED, "failed", 2)
    failed.write_error(RunError(rank=1, step=4, exception="ValueError: [red]", last_lines=("its last line",), advice="read it"))
    failed.log_path(1).write_text("printed by rank 1\n")
    return store


def done(store: Path, *args: str) -> str:
    result = workbench(store, *args)
    assert result.returncode == 0, result.stderr
    return result.stdout


def ids(output: str) -> list[str]:
    return [row["run_id"] for row in json.loads(output)["runs"]]


def test_json_is_one_document_with_the_columns_of_runs(store: Path) -> None:
    listed = done(store, "ls", "--json")
    assert ids(listed) == [SINGLE, SPLIT, FAILED]
    assert all(set(row) == set(RUN_COLUMNS) for row in json.loads(listed)["runs"])
    assert json.loads(listed)["runs"][2]["step_time_s"] is None, "a failed run has no figures"
    assert ids(done(store, "compare", SPLIT, SINGLE, "--json")) == [SPLIT, SINGLE]


def test_a_trace_without_a_recorded_step_says_so(store: Path, tmp_path: Path) -> None:
    exported = workbench(store, "export", FAILED, "--trace", str(tmp_path / "trace.json"))
    assert exported.returncode == 0
    assert f"{FAILED} (failed) has no recorded steps" in exported.stderr


def test_a_figure_that_is_not_finite_still_gives_json() -> None:
    document = json.loads(runs_document([{"final_loss": float("nan"), "speedup": float("inf"), "step_time_s": 0.5}]))
    assert document == {"runs": [{"final_loss": None, "speedup": None, "step_time_s": 0.5}]}


def test_show_puts_expected_beside_measured_and_says_what_is_not_by_default(store: Path) -> None:
    shown = done(store, "show", SPLIT)
    row = next(line for line in shown.splitlines() if "all_reduce" in line)
    assert row.split() == ["all_reduce", "data", "backward", "4,096", "5,000", "2"]
    assert "train.num_steps=7" in shown
    assert "split." not in shown, "the split's size is in its label"
    assert "train.seed" not in shown
    assert "3.00 MiB" in shown, "the resident peak"


def test_show_says_who_sends_how_much_to_whom_and_what_the_profiler_saw_otherwise(store: Path) -> None:
    difference = "step 9: 2 × all_reduce recorded, 1 seen by torch's profiler"
    seen = {"num_operations": 4, "num_seen": 3, "num_completed": 2, "num_late": 1, "differences": [difference]}
    run = record_run(store, SPLIT + "t", "finished", 2, workers=[{**WORKER, "completions": seen}] * 2)
    reduced = {"step": 9, "operation": "all_reduce", "axis": "data", "group": "g", "payload_bytes": 2**20, "ring_bytes": 2**20}
    for rank in range(2):
        sent = {"step": 9, "operation": "send", "axis": "data", "group": "g", "peer": 1, "payload_bytes": 2**19}
        timed = {"rank": rank, "sequence": 1, "start_s": 0.25 * rank, "completed_s": 0.5}
        rows = [{**reduced, **timed}, *([{**sent, "rank": rank}] if rank == 0 else [])]
        write_table(run.table_path("communication", rank), "communication", rows)
    shown = done(store, "show", SPLIT + "t")
    lines = [line.split() for line in shown.splitlines()]
    assert lines[lines.index(["from", "\\", "to", "0", "1"]) + 1 :][:2] == [["0", "·", "1.50"], ["1", "1.00", "·"]]
    assert "80% are collectives" in shown
    assert ["all_reduce", "data", "2", "1.00", "MiB", "4.2", "MB/s", "–"] in lines, "1 MiB in the 0.25 s after the later entered"
    assert "8 operations recorded, 6 seen by torch's profiler, 4 of them until completion" in " ".join(shown.split())
    assert shown.count(difference) == 2


def test_show_and_compare_say_what_fills_memory(store: Path) -> None:
    peak = dict.fromkeys(CATEGORIES, 0) | {"parameters": 2**18, "activations": 2**20, "workspace": 2**18}
    worker = {**WORKER, "held_memory_by_category": {**HELD, "gradients": 2**17}, "kept_activation_bytes": 2**18,
              "peak_memory_by_category": peak, "peak_memory_bytes": 3 * 2**19, "allocator_peak_bytes": 3 * 2**19,
              "peak_memory_event": "backward of body"}  # fmt: skip
    runs = [record_run(store, f"{SPLIT}m{n}", "finished", n, workers=[worker] * n) for n in (1, 2)]
    tensor = {"step": 3, "category": "activations", "module": "body", "shape": "512×512", "dtype": "float32", "bytes": 2**20}
    for rank in range(2):
        write_table(runs[1].table_path("peak_tensors", rank), "peak_tensors", [{**tensor, "rank": rank}])
    shown = done(store, "show", runs[1].id)
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines.count("1 0.25 = 0.25 0.25, 0.12 (-50.00%) 0.50 = 0.50 0.25 = 0.25") == 1
    assert lines.count("1 0.25 1.00 0.25 1.50 1.50 (+0.0%)") == 1
    assert "largest tensors at the peak of worker 0 (backward of body):" in lines
    assert "1.00 activations body 512×512 float32" in lines
    reason = "activations account for 67% of the peak of worker 0; to reduce it, use train.checkpointing = full"
    assert reason in " ".join(shown.split())
    compared = " ".join(done(store, "compare", *(run.id for run in runs)).split())
    assert f"dp2 needs 100% of one worker's memory, more than its even share of 50%: {reason}" in compared


def test_show_says_once_why_a_run_failed(store: Path) -> None:
    failed = record_run(store, f"{FAILED}h", "failed", 1)
    failed.write_status(RunStatus(RunState.FAILED, "worker 0: hung: no step"))
    failed.write_error(RunError(rank=0, exception="hung: no step", advice="Increase launch.timeout_s."))
    shown = done(store, "show", failed.id)
    assert (shown.count("hung: no step"), shown.count("step None")) == (1, 0)
    assert "Increase launch.timeout_s." in shown


def test_show_withholds_what_limits_a_disturbed_run(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.analysis.limits.limit_of", lambda run: "compute")
    quiet, disturbed = (
        Run(record_run(store, f"{SPLIT}{load:g}", "finished", 2, spread={}, num_timed_steps=100, other_load_cores=load))
        for load in (0.0, 2.0)
    )
    assert next(time_figures.lines(quiet)) == "limit: compute"
    withheld = next(time_figures.lines(disturbed))
    assert withheld.startswith(
        "limit: unknown, because other programs used 2.0 cores during the timed steps; once the machine is"
    )


def test_show_says_what_was_dropped_and_which_formulas_are_bounds(store: Path) -> None:
    run = record_run(store, SPLIT + "d", "finished", 2, dropped_tokens=12.0)
    record = json.loads((run.path / "run.json").read_text())
    record["expected"]["communication"][0]["is_bound"] = True
    (run.path / "run.json").write_text(json.dumps(record))
    shown = done(store, "show", SPLIT + "d")
    assert "dropped per step: 12 assignments" in shown
    assert "at most 4,096" in shown
    assert "data axis: [0 1]" in shown


def test_show_reads_the_expected_communication_of_older_runs(store: Path) -> None:
    run, output = record_run(store, SPLIT + "o", "finished", 2), done(store, "show", SPLIT + "o")
    record = json.loads((run.path / "run.json").read_text())
    record["expected"]["transfers"] = record["expected"].pop("communication")
    (run.path / "run.json").write_text(json.dumps(record))
    assert "4,096" in output
    assert done(store, "show", SPLIT + "o") == output


@pytest.mark.parametrize(
    ("figures", "in_the_table", "sentence"),
    [
        ({"parity_ok": True}, "equal", "parity: equals one worker, largest error 5.0e-01 in a.weight"),
        ({"parity_ok": None, "parity_allowed": 0.6}, "lossy", "on purpose, largest error 5.0e-01 in a.weight, allowed 6.0e-01"),
        (
            {"parity_verdict": "lossy", "parity_on_purpose": "averages parameters"},
            "lossy",
            "on purpose (averages parameters), largest error against the declared result 5.0e-01 in a.weight",
        ),
        ({"parity_ok": False}, "WRONG", "parity: differs from one worker, largest error 5.0e-01 in a.weight"),
        ({"parity_ok": False, "parity_max_error": None}, "WRONG", "parity: differs from one worker, largest error infinite"),
        ({"parity_ok": None, "parity_max_error": None}, "–", ""),
        (
            {
                "parity_verdict": "equal per shard",
                "parity_cause": "a [router] counts",
                "parity_remedy": "set a = 0",
                "parity_whole_batch_tensor": "outputs",
            },
            "equal per",
            "per shard of the batch, largest error 5.0e-01 in a.weight; differs by up to 5.0e-01 (in outputs) from one worker on"
            " the whole batch: a [router] counts. To make them equal, set a = 0.",
        ),
        (
            {"parity_verdict": "lossy", "parity_cause": "a norm", "parity_remedy": "set a = 0"},
            "lossy",
            "per shard of the batch on purpose, largest error 5.0e-01 in a.weight; differs by up to 5.0e-01 from one worker on"
            " the whole batch: a norm. To remove this difference, set a = 0.",
        ),
    ],
)
def test_show_says_whether_the_split_equals_one_worker(
    tmp_path: Path, figures: dict[str, Any], in_the_table: str, sentence: str
) -> None:
    record_run(tmp_path, SPLIT, "finished", 2, **figures)
    shown = done(tmp_path, "show", SPLIT)
    assert in_the_table in shown
    assert sentence in " ".join(shown.split())
    assert bool(sentence) == ("parity:" in shown)


def test_a_failed_run_says_why(store: Path) -> None:
    shown = done(store, "show", FAILED)
    for part in ("failed", "step 4", "ValueError: [red]", "its last line", "read it"):
        assert part in shown
    assert "printed by rank 1" in done(store, "logs", FAILED, "--rank", "1")


def test_text_of_users_reaches_the_terminal_as_it_is_but_without_control_characters(store: Path) -> None:
    name = "[/x] [red]alert :smile:"
    done(store, "label", SPLIT, "--name", f"{name}\x1b[2J", "--tag", "[b]", "--tag", "slow", "--note", "[/note]")
    for command in ("show", SPLIT), ("ls",):
        shown = done(store, *command)
        assert name in shown
        assert "[b], slow" in shown
        assert "\x1b" not in shown
    assert "[/note]" in done(store, "show", SPLIT)
    record = store / "runs" / SPLIT / "run.json"
    record.write_text(record.read_text().replace('"split": "dp2"', '"split": "[/dp2]"'))
    assert "[/dp2]" in done(store, "compare", SINGLE, SPLIT)
    assert "\x1b" not in workbench(store, "show", "\x1b[2J").stderr


def test_compare_tells_runs_of_the_same_split_apart(store: Path) -> None:
    other = record_run(store, "20261124-100003-dp2-dddddd", "finished", 2).id
    compared = done(store, "compare", SPLIT, other)
    assert "dp2 #1" in compared and "dp2 #2" in compared
    done(store, "label", SPLIT, "--name", "larger batch")
    compared = done(store, "compare", SPLIT, other)
    assert "(larger batch)" in compared and "dp2 #2" in compared


def test_a_deleted_run_is_left_out_and_its_files_go_only_with_purge(store: Path) -> None:
    done(store, "rm", SPLIT)
    assert ids(done(store, "ls", "--json")) == [SINGLE, FAILED]
    assert (store / "runs" / SPLIT).exists()
    done(store, "rm", FAILED, "--purge")
    assert not (store / "runs" / FAILED).exists()


@pytest.mark.parametrize(
    "args",
    [
        ("show", "nothing"),
        ("show", "dp2"),
        ("logs", FAILED, "--rank", "2"),
        ("export", SINGLE),
        ("label", SINGLE),
        ("label", SINGLE, "--tag", "a,b"),
        ("compare",),
        ("nonsense",),
        ("run", "--assert", "speedup"),
        ("run", "--assert", ""),
        ("run", "--set", "model.name=[1]"),
        ("run", "--set", "train.seed=99999999999999999999999"),
    ],
)
def test_wrong_usage_exits_2_and_prints_nothing_on_stdout(store: Path, args: tuple[str, ...]) -> None:
    result = workbench(store, *args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr
    assert len(list((store / "runs").iterdir())) == 3, "nothing was started"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, '{"cut off') for name in ("run.json", "status.json", "summary.json", "labels.json")),
        ("summary.json", "[" * 100_000 + "]" * 100_000),
        ("run.json", None),
        ("run.json", '"num_workers": 2147483648'),
        ("run.json", '"mesh": {"data": 1099511627776}'),
        ("run.json", '"created_at": Infinity'),
    ],
    ids=str,
)
def test_a_damaged_run_takes_no_other_down(store: Path, name: str, text: str | None) -> None:
    path = store / "runs" / SPLIT / name
    if text is None:
        path.unlink(), path.mkdir()
    else:  # the last of several equal keys counts
        path.write_text(f"{path.read_text()[:-1]}, {text}}}" if text.startswith('"') else text)
    rows = json.loads(done(store, "ls", "--json"))["runs"]
    assert [row["state"] for row in rows] == ["finished", "damaged", "failed"]
    assert "finished" in done(store, "show", SINGLE)
    shown = workbench(store, "show", SPLIT)
    assert shown.returncode == 2
    assert f"{name} is damaged" in shown.stderr
    done(store, "rm", SPLIT, "--purge")
    assert ids(done(store, "ls", "--json")) == [SINGLE, FAILED]


def test_a_damaged_table_is_named(store: Path) -> None:
    table = store / "runs" / SPLIT / "steps" / "rank-0.parquet"
    table.parent.mkdir(exist_ok=True)
    table.write_bytes(b"PAR1")
    shown = workbench(store, "show", SPLIT)
    assert shown.returncode == 2
    assert "steps is damaged and cannot be read" in shown.stderr
    assert len(json.loads(done(store, "ls", "--json"))["runs"]) == 3


def test_a_store_that_cannot_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = workbench(tmp_path / "file", "run", "--model", "mlp", "--set", "baseline.mode=none")
    assert result.returncode == 2
    assert "set WORKBENCH_HOME" in result.stderr
    assert "NOT writable" in done(tmp_path / "file", "doctor")


def test_an_import_that_is_refused_names_its_file(store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.zip").touch()
    result = workbench(store, "import", str(tmp_path / "empty.zip"))
    assert result.returncode == 2
    assert f"{tmp_path / 'empty.zip'}: not a readable zip file" in result.stderr


def test_usage_errors_have_the_form_of_all_others(store: Path) -> None:
    refused = workbench(store, "import", "nowhere").stderr
    assert refused == "workbench: invalid value for 'SOURCE': Path 'nowhere' does not exist; see `workbench import --help`\n"


def test_doctor_writes_nothing_and_finds_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where a server's socket would be
    output = done(tmp_path / "none", "doctor")
    assert "0 runs, writable" in output
    assert "fork server  not running" in output
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("family", ["models", "datasets", "strategies", "schedules"])
def test_the_lists_show_every_plugin(store: Path, family: str) -> None:
    from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES

    families = {"models": MODELS, "datasets": DATASETS, "strategies": STRATEGIES, "schedules": SCHEDULES}
    lines = done(store, family).split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == families[family].names()


def test_the_course_is_copied_whole_and_never_over_a_file(tmp_path: Path) -> None:
    course = Path(__file__).parents[2] / "notebooks"
    assert [line.split()[0] for line in done(tmp_path, "notebooks").splitlines()] == sorted(
        p.name for p in course.glob("*.ipynb")
    )
    done(tmp_path, "notebooks", "--to", str(tmp_path / "course"))
    copied = sorted((tmp_path / "course").iterdir())
    files = [*course.glob("*.ipynb"), course / "solutions.py"]
    assert {p.name: p.read_bytes() for p in copied} == {p.name: p.read_bytes() for p in files}
    for path in copied[1:]:
        path.unlink()
    again = workbench(tmp_path, "notebooks", "--to", str(tmp_path / "course"))
    assert (again.returncode, list((tmp_path / "course").iterdir())) == (2, copied[:1])
    assert copied[0].name in again.stderr


@pytest.mark.parametrize(
    ("text", "row", "holds"),
    [
        ("speedup > 1.2", {"speedup": 1.3}, [True]),
        ("speedup > 1.2 and parity_ok == true", {"speedup": 1.2, "parity_ok": True}, [False, True]),
        ("parity_ok == false", {"parity_ok": True}, [False]),
        ("speedup>=1e0", {"speedup": 1.0}, [True]),
        ("speedup != 2", {"speedup": None}, [False]),
        ("final_loss < 5", {"final_loss": float("nan")}, [False]),
        ("parity == 'equal'", {"parity_verdict": "equal"}, [True]),
        ('parity_verdict == equal and parity != "wrong"', {"parity_verdict": "equal per shard"}, [False, True]),
        ('parity == "equal per shard"', {"parity_verdict": "equal per shard"}, [True]),
        ("parity != wrong", {"parity_verdict": None}, [False]),
        ("parity_whole_batch_error < 1e-9", {"parity_whole_batch_error": 0.44}, [False]),
    ],
)
def test_assertions(text: str, row: dict[str, Any], holds: list[bool]) -> None:
    assert [assertion.holds(row) for assertion in parse(text)] == holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "speedup",
        "speedup > fast",
        "speedup > 1 or 2",
        "speed > 1",
        "speedup > 1 and",
        "speedup > nan",
        "parity > 'equal'",
        "parity == 'same'",
        "parity == equal per shard",
    ],
)
def test_an_assertion_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="--assert"):
        parse(text)


@pytest.mark.parametrize("with_what", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_does_not_stop_when_asked_ends_with_its_command_all_the_same(with_what: signal.Signals) -> None:
    deaf = "import os, signal, time; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(300)"
    # A shell starts what runs in the background with SIGINT ignored.
    serving = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    serving += f"from workbench.cli.system import serve; sys.exit(serve([sys.executable, '-c', {deaf!r}], 0.5))"
    with subprocess.Popen([sys.executable, "-c", serving], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout
        server = psutil.Process(int(command.stdout.readline()))
        command.send_signal(with_what)
        assert command.wait() == 0
    assert not server.is_running()
