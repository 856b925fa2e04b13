"""Supervisors with workers of a few lines that fail in every way, in a store and a queue of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.helpers.run_directory import run_record
from workbench.launch.device_queue import Ticket
from workbench.spec import RunSpec
from workbench.spec.files import dumps
from workbench.store.directory import RunDirectory
from workbench.store.records import Environment

WORKER = """
import json, os, signal, sys, threading, time
from pathlib import Path
from workbench.store.directory import RunDirectory
from workbench.store.tables import write_table

run, rank, lifeline = RunDirectory(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
threading.Thread(target=lambda: (os.read(lifeline, 1), os._exit(1)), daemon=True).start()

def say(event, **values):
    with run.events_path(rank).open("a") as file:
        file.write(json.dumps({"time": time.time(), "rank": rank, "event": event, **values}) + "\\n")

def error(is_communication):
    say("error", step=3, exception="ValueError: mine", traceback="", is_communication=is_communication, operations=["send"])
    sys.exit(1)

say("ready")
fault = os.environ["FAULT"]
print("worker", rank, "was here", flush=True)
if fault == "cancel" or (fault == "hang" and rank == 1):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)
if fault in ("raise", "kill", "leave", "hang") and rank == 0:
    error(is_communication=True)
if fault == "raise":
    time.sleep(0.1)  # its neighbour's complaint comes first
    error(is_communication=False)
if fault == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if fault == "leave":
    sys.exit(0)
step = {"run_id": run.id, "rank": rank, "step": 0, "kind": "timed", "start_s": 0.0, "duration_s": 0.5}
write_table(run.table_path("steps", rank), "steps", [step | {"num_samples": 8, "data_s": 0.0}])
parts = ("step_s", "compute_s", "exposed_communication_s", "idle_s", "optimizer_s", "schedule_s", "other_s")
figures = dict.fromkeys(("parameters", "peak_memory_bytes", *parts), 1)
parts = {"step": 0, **dict.fromkeys(parts, 1)}
say("finished", figures={**figures, "counted_flops": None, "trace_steps": [parts], "communication": []})
sys.exit(3 if fault == "late" and rank == 1 else 0)
"""


SUPERVISOR = """
import functools, sys
from pathlib import Path
from workbench.launch import supervisor
from workbench.store.directory import RunDirectory
supervisor.Workers = functools.partial(supervisor.Workers, module="tiny_worker")
_, path, *ticket = sys.argv
ticket = supervisor.Ticket.inherited(Path(ticket[0]), int(ticket[1])) if ticket else None
supervisor.Supervisor(RunDirectory(Path(path)), ticket).run()
"""


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Supervisors:
    """Starts supervisors with tiny workers, a store and a queue of their own."""

    def __init__(self, path: Path) -> None:
        self.path, self.queue, self.started = path, path / "queue", list[subprocess.Popen[bytes]]()
        (path / "tiny_worker.py").write_text(WORKER)

    def start(self, fault: str, run_id: str = "run-1", **record: Any) -> tuple[RunDirectory, subprocess.Popen[bytes]]:
        return (run := self.new(run_id, **record)), self.supervise(run, fault)

    def new(self, run_id: str, **record: Any) -> RunDirectory:
        here = {"device": "cpu", "num_cores": 2, "threads_per_worker": 1, "timeout_s": 300.0}
        values = {"num_workers": 2, **here, "mesh": {"data": 2}, "expected": {}, **record}
        return RunDirectory.create(self.path, run_id, dumps(RunSpec()), run_record(run_id=run_id, **values), Environment())

    def supervise(self, run: RunDirectory, fault: str, ticket: Ticket | None = None) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(self.path), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", SUPERVISOR, str(run.path), *([str(ticket.path), str(ticket.file)] if ticket else [])]
        environment = {**os.environ, "FAULT": fault, "PYTHONPATH": path}
        process = subprocess.Popen(command, env=environment, pass_fds=[ticket.file] if ticket else [])
        if ticket:
            ticket.close()
        self.started.append(process)
        return process
