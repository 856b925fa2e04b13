"""A disk that is full, or only readable, is answered in a sentence; reading needs no space, and neither does making some."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.run_directory import new_run
from workbench.store.run_status import RunState, RunStatus

SCRIPT = """
mount -t tmpfs -o size=1M tmpfs "$1" && cp -r "$2/." "$1" || exit 9
dd if=/dev/zero of="$1/filler" bs=4k 2> /dev/null
export WORKBENCH_HOME="$1"
workbench() { echo "$ $*"; "$PYTHON" -m workbench.cli.main "$@" 2>&1 | tail -n 1; echo "${PIPESTATUS[0]}"; }
workbench ls
workbench label run-1 --name new
workbench rm run-1 --purge
mount -o remount,ro "$1"
workbench label run-2 --name new
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system of its own")
def test_commands_on_a_disk_without_space_answer_in_a_sentence(tmp_path: Path) -> None:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system allows no new mount namespaces")
    store, disk = tmp_path / "store", tmp_path / "disk"
    disk.mkdir()
    for run_id in ("run-1", "run-2"):
        new_run(store, run_id).write_status(RunStatus(RunState.FINISHED))
    command = [*unshare, "env", f"PYTHON={sys.executable}", "bash", "-c", SCRIPT, "bash", str(disk), str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (_, row, listed), label, rm, read_only = (part.splitlines() for part in done.stdout.split("$ ")[1:])
    assert row.startswith("run-")
    assert listed == "0"
    assert label[1:] == [f"workbench: cannot write to the store {disk}: No space left on device", "1"]
    assert rm[1:] == ["run-1 deleted", "0"]
    assert re.match(rf"workbench: cannot write {disk}/runs/run-2/\S+: Read-only file system$", read_only[1])
    assert read_only[2] == "1"
