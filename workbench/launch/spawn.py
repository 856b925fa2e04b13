"""Starts the workers of a run by module name and ends them; a forked owner forks, a plain one spawns."""

from __future__ import annotations

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.launch.interpreter import module_command, same_packages

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
    """As subprocess has it: negative is the signal that killed it."""
    ended_by_us: bool = False

    def poll(self) -> int | None:
        """Its exit code, or None while it lives."""
        if self.exit_code is None:
            if self.popen is not None:
                self.exit_code = self.popen.poll()
            elif (waited := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.exit_code = os.waitstatus_to_exitcode(waited[1])
        return self.exit_code


class Workers:
    """All workers of a run; they hold the read end of a pipe and die when the owner, who holds the other, does."""

    def __init__(self, run: RunDirectory, num_workers: int, module: str = MODULE) -> None:
        self.module = module
        lifeline, self._owner_end = os.pipe()
        # Workers meet at a port that listens before any of them lives, so nobody has to try again; rank 0 answers there.
        rendezvous = socket.create_server(("127.0.0.1", 0), backlog=num_workers)
        inherited = (lifeline, rendezvous.fileno())
        # The fork server has torch in memory: forking shares it, and a start takes milliseconds instead of seconds.
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
            os.close(self._owner_end)
            log = os.open(run.log_path(rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = [self.module, str(run.path), str(rank), *map(str, inherited)]
            runpy.run_module(self.module, run_name="__main__", alter_sys=True)
        finally:
            os._exit(1)

    def poll(self) -> list[int | None]:
        """Exit codes in order of rank."""
        return [process.poll() for process in self.processes]

    def end(self, grace_s: float = 1.0) -> None:
        """Ends all that still live: SIGTERM, after ``grace_s`` SIGKILL; returns when none is left."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes:
                if process.poll() is None:
                    process.ended_by_us = True
                    os.kill(process.pid, sign)
            deadline = time.monotonic() + grace_s
            while time.monotonic() < deadline and None in self.poll():
                time.sleep(0.01)

    def status(self, device: str) -> list[dict[str, Any]]:
        """As ``status.json`` has them."""
        return [
            {"rank": p.rank, "pid": p.pid, "device": device if device == "cpu" else f"{device}:{p.rank}"} for p in self.processes
        ]
