"""The owner of a run, a process of its own: waits for the devices, starts the workers, watches them, alone writes the
run's status. ``python -m workbench.launch.supervisor RUN_DIRECTORY``."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from workbench.launch.device_queue import Holder, Ticket
from workbench.launch.failure import find_cause
from workbench.launch.spawn import Workers
from workbench.store.directory import TERMINAL, RunDirectory

_POLL_S = 0.02
_HEARTBEAT_S = 1.0
_LAST_WORDS_S = 1.0
"""How long the others may take to say what they saw once one worker has failed."""
_STALL_GRACE_S = 30.0


class Cancelled(Exception):  # noqa: N818 - not an error
    """The user asked for the end of the run."""


class Owner:
    """Takes one run from queued to its end."""

    def __init__(self, run: RunDirectory) -> None:
        self.run, self.record = run, run.record()
        self.num_workers, self.device = self.record["num_workers"], self.record["device"]
        import psutil

        owner = {"pid": os.getpid(), "create_time": psutil.Process().create_time()}
        self.status: dict[str, Any] = {
            "state": "queued",
            "owner": owner,
            "workers": [],
            "step": None,
            "message": "",
        }
        self.events: list[list[dict[str, Any]]] = [[] for _ in range(self.num_workers)]
        self._offsets = [0] * self.num_workers
        self._last_event = self._last_write = time.monotonic()

    def live(self) -> None:
        """The run's whole life."""
        self.say()
        ticket = None
        try:
            self._wait_for_baselines()
            devices = ["cpu"] if self.device == "cpu" else [f"cuda:{i}" for i in range(self.num_workers)]
            store = self.run.path.resolve().parent.parent
            ticket = Ticket(devices, Holder(f"run {self.run.id}", str(store)))
            while holder := ticket.held_by():
                message = f"waiting for {', '.join(devices)}: held by {holder.description(store)}"
                if message != self.status["message"]:
                    self.say(message=message)
                self._pause()
            self._run_workers()
        except Cancelled:
            self.say(state="cancelled", message="cancelled by the user")
        except Exception as error:  # noqa: BLE001 - whatever happens, the record says so
            traceback.print_exc()
            self.run.write_error({"exception": repr(error), "traceback": traceback.format_exc(), "rank": None, "step": None})
            self.say(state="failed", message=f"the supervisor failed: {error!r}")
        finally:
            if ticket is not None:
                ticket.give_back()

    def say(self, **changes: Any) -> None:
        """Writes the status."""
        self.status.update(changes, heartbeat=time.time())
        self._last_write = time.monotonic()
        self.run.write_status(self.status)

    def _pause(self) -> None:
        if self.run.cancel_requested():
            raise Cancelled
        if time.monotonic() - self._last_write > _HEARTBEAT_S:
            self.say()
        time.sleep(_POLL_S)

    def _wait_for_baselines(self) -> None:
        for key in ("baseline_run_id", "same_cores_baseline_run_id"):
            other = self.record.get(key)
            if not other or other == self.run.id:
                continue
            self.status["message"] = f"waiting for baseline {other}"
            from workbench.store.listing import state_of

            while state_of(RunDirectory(self.run.path.parent / other)) not in TERMINAL:
                self._pause()

    def _run_workers(self) -> None:
        self.say(state="starting", message="")
        workers = Workers(self.run, self.num_workers)
        self.say(workers=workers.status(self.device))
        timeout_s = self.record["timeout_s"] + _STALL_GRACE_S
        self._last_event = time.monotonic()  # however long the run was queued
        try:
            while True:
                codes = workers.poll()
                self._read_events()
                if all(code is not None for code in codes) and all(map(self._has_finished, range(self.num_workers))):
                    return self._finish(codes)
                if any(code is not None and not self._has_finished(rank) for rank, code in enumerate(codes)):
                    self._let_the_others_speak(workers)
                    return self._fail(workers)
                if time.monotonic() - self._last_event > timeout_s:
                    return self._fail(workers)
                self._pause()
        finally:
            workers.end()

    def _read_events(self) -> None:
        for rank in range(self.num_workers):
            new, self._offsets[rank] = self.run.events(rank, self._offsets[rank])
            if new:
                self._last_event = time.monotonic()
                self.events[rank] += new
        if self.status["state"] == "starting" and all(self.events):
            self.say(state="running")
        steps = [event for event in self.events[0][-1:] if event["event"] == "step"]
        if steps and steps[0]["step"] != self.status["step"]:
            self.status["step"] = steps[0]["step"]

    def _has_finished(self, rank: int) -> bool:
        return any(event["event"] == "finished" for event in self.events[rank][-1:])

    def _let_the_others_speak(self, workers: Workers) -> None:
        deadline = time.monotonic() + _LAST_WORDS_S
        while time.monotonic() < deadline and None in workers.poll():
            time.sleep(_POLL_S)
        self._read_events()

    def _finish(self, codes: list[int | None]) -> None:
        from workbench.metrics.summary import summarize

        self.run.write_summary(summarize(self.run, self.events))
        late = [f"worker {rank} exited with code {code}" for rank, code in enumerate(codes) if code]
        self.say(state="finished", message="; ".join(late) + (" after it finished" if late else ""))

    def _fail(self, workers: Workers) -> None:
        blame = find_cause(workers.processes, self.events)
        workers.end()  # first: a reader of the final state may rely on nothing being left
        log = self.run.log_path(blame.rank)
        lines = log.read_text(errors="replace").splitlines()[-20:] if log.exists() else []
        self.run.write_error({**blame.as_dict(), "last_lines": lines})
        self.say(state="failed", message=f"worker {blame.rank}: {blame.exception}")


if __name__ == "__main__":
    Owner(RunDirectory(Path(sys.argv[1]))).live()
    sys.stdout.flush()
    os._exit(0)  # forked from the server: nothing of its exit handlers is ours
