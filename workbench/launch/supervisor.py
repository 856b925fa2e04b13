"""The supervisor of a run: waits for the devices, starts the workers, monitors them and writes the run's status.

One process per run, started as ``python -m workbench.launch.supervisor RUN_DIRECTORY [TICKET FILE]``, where FILE is the number of
the ticket's open file. Once it has started, no other process writes the status, except that a reader records a run as lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from workbench.errors import DamagedRunError
from workbench.launch.device_queue import Ticket
from workbench.launch.failure import find_cause
from workbench.launch.guard import end_descendants, guard
from workbench.launch.machine_load import NUM_QUIET_WINDOWS, WINDOW_S, MachineLoad
from workbench.launch.place import AWAITED_BASELINE, awaited_devices, take_ticket, unfinished_baselines
from workbench.launch.spawn import WorkerProcess, Workers
from workbench.launch.stacks import is_stopped, place, stack_of
from workbench.store.directory import RunDirectory
from workbench.store.events import Event, FinishedEvent, StepEvent
from workbench.store.processes import this_origin, this_process
from workbench.store.records import RunError
from workbench.store.run_status import RunState, RunStatus

_POLL_S = 0.02
_HEARTBEAT_S = 1.0
_BASELINE_POLL_S = 0.5
"""Time between two looks at the baselines, so that a whole group that waits does not disturb the steps of its baseline."""
_AWAITED_QUIET = "waiting for a quiet machine"
_PLACE_S = 1.0
"""How often a run that waits for a baseline compares its place in the device queue with that of the baseline."""
_ERROR_GRACE_S = 1.0
"""How long the other workers may take to report their errors once one worker has failed."""
_STALL_GRACE_S = 30.0
_WAS_LOST = "meanwhile a reader recorded the run as lost"


class Cancelled(Exception):  # noqa: N818 - not an error
    """The user cancelled the run."""


class Terminated(Exception):  # noqa: N818 - not an error
    """The system ends this process with SIGTERM, as when it shuts down."""


class Supervisor:
    """Takes one run from the state ``queued`` to a terminal state."""

    def __init__(self, run: RunDirectory, ticket: Ticket | None = None) -> None:
        self.directory, self.record, self.ticket = run, run.record(), ticket
        self.num_workers, self.device = self.record.num_workers, self.record.device
        self.status = RunStatus(RunState.QUEUED, supervisor=this_process(), submitted=this_origin())
        self._was_lost = False
        self.events: list[list[Event]] = [[] for _ in range(self.num_workers)]
        self._offsets = [0] * self.num_workers
        self._last_event = self._last_write = time.monotonic()

    def run(self) -> None:
        """Runs until the state is terminal; any exception is recorded as the failure of the supervisor."""
        try:
            if not self._is_claimed():
                return  # a second request, of a client that got no answer to the first
            status = self.directory.status()
            if status.state.is_terminal:
                if status.state is RunState.LOST:
                    self.directory.write_status(replace(status, message="the supervisor started too late"))
                return  # the submission was interrupted, or gave up, while the fork server imported torch
            self._write(self.status)
            self._wait_for_baselines()
            self._wait_for_devices()
            self._run_workers()
        except Cancelled:
            self._write(replace(self.status, state=RunState.CANCELLED, message="cancelled by the user"))
        except Terminated:
            if not self.status.state.is_terminal:
                self._write(replace(self.status, state=RunState.FAILED, message="the system ended the supervisor (SIGTERM)"))
        except Exception as error:  # noqa: BLE001 - recorded, whatever it is
            traceback.print_exc()
            self.directory.write_error(RunError(None, repr(error), traceback=traceback.format_exc()))
            self._write(replace(self.status, state=RunState.FAILED, message=f"the supervisor failed: {error!r}"))
        finally:
            if self.ticket is not None:
                self.ticket.release()

    def _is_claimed(self) -> bool:
        """Whether this supervisor has the run, which it holds by a lock. Another one has its ticket, too."""
        self._claim = self.directory.record_path.open()
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self.ticket is not None:
                self.ticket.close()
            self.ticket = None
            return False
        return True

    def _write(self, status: RunStatus) -> None:
        """Replaces ``status.json``, with a new heartbeat."""
        with contextlib.suppress(DamagedRunError):
            self._was_lost |= self.directory.status().state is RunState.LOST
        if self._was_lost and status.state.is_terminal:
            status = replace(status, message="; ".join(filter(None, (status.message, _WAS_LOST))))
        self.status = replace(status, heartbeat=time.time())
        self._last_write = time.monotonic()
        self.directory.write_status(self.status)

    def _pause(self) -> None:
        if self.directory.cancel_requested():
            raise Cancelled
        if time.monotonic() - self._last_write > _HEARTBEAT_S:
            self._write(self.status)
        time.sleep(_POLL_S)

    def _wait(self, message: str, num_pauses: int = 1) -> None:
        """Pauses, with this message of the status."""
        if self.status.message != message:
            self._write(replace(self.status, message=message))
        for _ in range(num_pauses):
            self._pause()

    def _wait_for_quiet(self) -> None:
        """Waits until other programs have loaded the machine no more than is allowed in several windows in a row."""
        num_quiet, message = 0, _AWAITED_QUIET
        while num_quiet < NUM_QUIET_WINDOWS:
            cores = self._busy_cores(message)
            message = f"{_AWAITED_QUIET}: other programs use {cores:.1f} cores, allowed are {self.record.max_other_load_cores:g}"
            num_quiet = num_quiet + 1 if cores <= self.record.max_other_load_cores else 0

    def _busy_cores(self, message: str) -> float:
        """Returns the cores that all programs keep busy during one window, for which the run waits."""
        load, end = MachineLoad(), time.monotonic() + WINDOW_S
        while time.monotonic() < end:
            self._wait(message)
        return load.cores()

    def _wait_for_baselines(self) -> None:
        checked = time.monotonic()
        while unfinished_baselines(self.directory, self.record):
            if not self.record.waits_for_quiet and time.monotonic() - checked > _PLACE_S:
                self.ticket, checked = take_ticket(self.directory, self.record, self.ticket), time.monotonic()
            self._wait(AWAITED_BASELINE, round(_BASELINE_POLL_S / _POLL_S))

    def _wait_for_devices(self) -> None:
        store = self.directory.path.resolve().parent.parent
        while True:
            if self.record.waits_for_quiet:
                self._wait_for_quiet()  # without the devices: other runs may use them meanwhile
            self.ticket = take_ticket(self.directory, self.record, self.ticket)
            assert self.ticket, "its baselines have ended"
            while ahead := self.ticket.ahead():
                message = awaited_devices(self.device, len(ahead), ahead[0].description(store))
                # The further behind, the less often it looks, so that a long queue does not disturb the run in front.
                self._wait(message, num_pauses=len(ahead))
            if not self.record.waits_for_quiet or self._busy_cores(_AWAITED_QUIET) <= self.record.max_other_load_cores:
                return
            self.ticket.release()
            self.ticket = None

    def _run_workers(self) -> None:
        self._write(replace(self.status, state=RunState.STARTING, message=""))
        workers = Workers(self.directory, self.num_workers)
        self._write(replace(self.status, workers=workers.status(self.device)))
        timeout_s = self.record.timeout_s + _STALL_GRACE_S
        self._last_event = time.monotonic()  # the time in the queue does not count
        try:
            while True:
                codes = workers.poll()
                self._read_events()
                if all(code is not None for code in codes) and all(map(self._has_finished, range(self.num_workers))):
                    return self._finish(workers, codes)
                if any(code is not None and not self._has_finished(rank) for rank, code in enumerate(codes)):
                    self._await_other_errors(workers)
                    return self._fail(workers)
                if time.monotonic() - self._last_event > timeout_s:
                    return self._fail(workers)
                self._pause()
        finally:
            self._end(workers)

    def _read_events(self) -> None:
        for rank in range(self.num_workers):
            new, self._offsets[rank] = self.directory.events(rank, self._offsets[rank])
            if new:
                self._last_event = time.monotonic()
                self.events[rank] += new
        if self.status.state is RunState.STARTING and all(self.events):
            self._write(replace(self.status, state=RunState.RUNNING))
        steps = [event for event in self.events[0][-1:] if isinstance(event, StepEvent)]
        if steps:
            self.status = replace(self.status, step=steps[0].step)

    def _has_finished(self, rank: int) -> bool:
        return any(isinstance(event, FinishedEvent) for event in self.events[rank][-1:])

    def _await_other_errors(self, workers: Workers) -> None:
        deadline = time.monotonic() + _ERROR_GRACE_S
        while time.monotonic() < deadline and None in workers.poll():
            time.sleep(_POLL_S)
        self._read_events()

    def _finish(self, workers: Workers, codes: list[int | None]) -> None:
        from workbench.metrics.summary import summarize

        self._end(workers)  # first: once the state is terminal, no process of the run is left
        self.directory.write_summary(summarize(self.directory, self.events))
        late = [f"worker {rank} exited with code {code}" for rank, code in enumerate(codes) if code]
        message = "; ".join(late) + (" after it finished" if late else "")
        self._write(replace(self.status, state=RunState.FINISHED, message=message))

    def _end(self, workers: Workers) -> None:
        """Ends the workers, and what they started and left behind."""
        workers.end()
        end_descendants()
        for rank in range(self.num_workers):
            self.directory.stack_path(rank).unlink(missing_ok=True)

    def _with_stack(self, cause: RunError, process: WorkerProcess) -> RunError:
        """Returns the cause with what the worker does, if it still runs: it hangs."""
        if process.poll() is not None:
            return cause
        if is_stopped(process.pid):
            return replace(cause, exception=f"{cause.exception}; it is stopped by a signal")
        stack = stack_of(self.directory, process)
        at = place(stack)
        return replace(cause, exception=f"{cause.exception}; it is at {at}", traceback=stack) if at else cause

    def _fail(self, workers: Workers) -> None:
        silent_s = time.monotonic() - self._last_event
        cause = find_cause(workers.processes, self.events, self.record.timeout_s, silent_s)
        assert cause.rank is not None, "the supervisor runs"
        log = self.directory.log_path(cause.rank)
        cause = self._with_stack(cause, workers.processes[cause.rank])
        self._end(workers)
        lines = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
        self.directory.write_error(replace(cause, last_lines=tuple(lines)))
        self._write(replace(self.status, state=RunState.FAILED, message=f"worker {cause.rank}: {cause.exception}"))


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    raise Terminated


if __name__ == "__main__":
    guard()
    signal.signal(signal.SIGTERM, _terminate)
    _, path, *handed_on = sys.argv
    Supervisor(RunDirectory(Path(path)), Ticket.inherited(Path(handed_on[0]), int(handed_on[1])) if handed_on else None).run()
    sys.stdout.flush()
    os._exit(0)  # forked from the server, whose exit handlers must not run here
