"""Starts the workers of a run by module name and ends them: by fork in a forked supervisor, else as new processes."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.interpreter import module_command, same_packages
from workbench.store.run_status import WorkerStatus

if TYPE_CHECKING:
    from workbench.store.directory import RunDirectory

MODULE = "workbench.runtime.worker"


@dataclass
class WorkerProcess:
    """One started worker."""

    rank: int
    pid: int
    popen: subprocess.Popen[bytes] | None
    exit_code: int | None = None
    """As in ``subprocess``: a negative value is the signal that killed the process."""
    ended_by_supervisor: bool = False

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs."""
        if self.exit_code is None:
            if self.popen is not None:
                self.exit_code = self.popen.poll()
            elif (result := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.exit_code = os.waitstatus_to_exitcode(result[1])
        return self.exit_code


class Workers:
    """All workers of a run. They hold the read end of a pipe and exit when the supervisor, which holds the write end, ends."""

    def __init__(self, run: RunDirectory, num_workers: int, module: str = MODULE) -> None:
        self.module = module
        lifeline, self._write_end = os.pipe()
        # Workers rendezvous on a port that is open before they start, so that no connection has to be retried; rank 0 serves it.
        rendezvous = socket.create_server(("127.0.0.1", 0), backlog=num_workers)
        inherited = (lifeline, rendezvous.fileno())
        # A process forked from the fork server has torch imported: forking takes milliseconds, spawning seconds.
        start = self._fork if "torch" in sys.modules else self._spawn
        self.processes = [start(run, rank, inherited) for rank in range(num_workers)]
        os.close(lifeline)
        rendezvous.close()

    def _spawn(self, run: RunDirectory, rank: int, inherited: tuple[int, ...]) -> WorkerProcess:
        command = module_command(self.module, str(run.path), str(rank), *map(str, inherited))
        with run.log_path(rank).open("wb") as log:
            popen = subprocess.Popen(
                command,
                env=same_packages(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
            )
        return WorkerProcess(rank, popen.pid, popen)

    def _fork(self, run: RunDirectory, rank: int, inherited: tuple[int, ...]) -> WorkerProcess:
        sys.stdout.flush()
        sys.stderr.flush()
        if pid := os.fork():
            return WorkerProcess(rank, pid, None)
        try:
            os.close(self._write_end)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the supervisor's would raise its exception here
            log = os.open(run.log_path(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = [self.module, str(run.path), str(rank), *map(str, inherited)]
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)
        finally:
            os._exit(1)

    def poll(self) -> list[int | None]:
        """Returns the exit codes in order of rank."""
        return [process.poll() for process in self.processes]

    def end(self, grace_s: float = 1.0) -> None:
        """Ends all workers that still run, with SIGTERM and after ``grace_s`` with SIGKILL; returns when none is left."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes:
                if process.poll() is None:
                    process.ended_by_supervisor = True
                    os.kill(process.pid, signal_number)
            deadline = time.monotonic() + grace_s
            while time.monotonic() < deadline and None in self.poll():
                time.sleep(0.01)

    def status(self, device: str) -> tuple[WorkerStatus, ...]:
        """The workers as recorded in ``status.json``."""
        names = (device if device == "cpu" else f"{device}:{process.rank}" for process in self.processes)
        return tuple(WorkerStatus(p.rank, p.pid, name) for p, name in zip(self.processes, names, strict=True))
