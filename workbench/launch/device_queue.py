"""The machine-wide queue for devices: measured runs never disturb each other, whatever store they belong to.

A run has a ticket, a numbered file that is locked until the run ends, and waits until no earlier locked ticket names one of its
devices. The submission takes the ticket (``place.py`` says when not) and hands it on to the supervisor, so that runs start in
the order of their submission. When a process dies, the system releases its lock; the ticket is then void, and the next process
removes it. A ticket is a JSON list of devices and of texts ``key=value`` that describe its holder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


def queue_directory() -> Path:
    """Returns the directory of the tickets, which is the same for every user and store, so not below ``$TMPDIR``. Runs with
    another ``$WORKBENCH_DEVICE_QUEUE`` do not wait for the other runs on the machine."""
    return Path(os.environ.get("WORKBENCH_DEVICE_QUEUE") or "/tmp/workbench-devices")


@dataclass(frozen=True)
class Holder:
    """The holder of a ticket, as other processes on the machine see it."""

    activity: str
    """``run 20261124-101530-dp2-3f9a2c``, ``calibration``"""

    store: str = ""
    """The run's store."""

    user: str = field(default_factory=lambda: _user())
    pid: int = field(default_factory=os.getpid)

    def as_texts(self) -> list[str]:
        """``["activity=calibration", …]``"""
        return [f"{key}={value}" for key, value in asdict(self).items()]

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Holder:
        """Parses the holder from a ticket; tickets of earlier versions have none."""
        values = dict(text.split("=", 1) for text in texts if "=" in text)
        pid = int(values.get("pid", 0))
        return cls(values.get("activity", "another run"), values.get("store", ""), values.get("user", ""), pid)

    def description(self, store: Path) -> str:
        """``run 20261124-101530-dp2-3f9a2c of user ada (store /home/ada/runs)``; without the store if it is ``store``."""
        user = f" of user {self.user}" if self.user else ""
        return f"{self.activity}{user}" + (f" (store {self.store})" if self.store not in ("", str(store)) else "")

    def is_run(self, run_id: str, store: Path) -> bool:
        """Whether this is a run of a store, which is given by its resolved path."""
        return (self.activity, self.store) == (f"run {run_id}", str(store))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return str(os.getuid())


@dataclass(frozen=True)
class LockedTicket:
    """A ticket in the queue, as any process reads it."""

    number: int
    devices: frozenset[str]
    holder: Holder

    @classmethod
    def from_json(cls, number: int, text: bytes) -> LockedTicket:
        """Parses the text of a ticket.

        Raises:
            ValueError: It is none.
        """
        texts = json.loads(text)
        if not isinstance(texts, list) or not all(isinstance(part, str) for part in texts):
            raise ValueError("a ticket is a list of texts")
        return cls(number, frozenset(part for part in texts if "=" not in part), Holder.from_texts(texts))


def locked_tickets(queue: Path | None = None) -> list[LockedTicket]:
    """Returns the tickets in the queue, first to last; void ones are removed. The first that names a device holds it."""
    queue = queue or queue_directory()
    if not queue.exists():
        return []
    with _mutex(queue):
        return list(_locked(queue))


class Ticket:
    """A place in the queue for a set of devices (``cpu``, ``cuda:0``, …)."""

    def __init__(self, devices: Sequence[str], holder: Holder, queue: Path | None = None) -> None:
        queue = queue or queue_directory()
        self.devices, self.holder = devices, holder
        if not queue.exists():
            queue.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):
                queue.chmod(0o1777)
        with _mutex(queue):
            self.path = queue / f"{max(_numbers(queue), default=0) + 1}.ticket"
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                os.fchmod(self.file, 0o644)  # whatever the umask: other users must be able to read the lock
                fcntl.flock(self.file, fcntl.LOCK_EX)
                self._write()
            except BaseException:  # such as a full disk: a locked ticket without a text would be left
                self.release()
                raise

    @classmethod
    def inherited(cls, path: Path, file: int) -> Ticket:
        """Takes over the ticket of the process that started this one and handed on its open file, and with that the lock."""
        ticket = cls.__new__(cls)
        ticket.path, ticket.file = path, file
        os.set_inheritable(file, False)
        with _mutex(path.parent):
            texts = json.loads(os.pread(file, _LONGEST, 0))
            ticket.devices = [text for text in texts if "=" not in text]
            ticket.holder = replace(Holder.from_texts(texts), pid=os.getpid())
            ticket._write()
        return ticket

    @property
    def number(self) -> int:
        """Its number, which orders the queue."""
        return int(self.path.stem)

    def _write(self) -> None:
        # One list, since earlier versions of the workbench read all of it as devices.
        text = json.dumps([*self.devices, *self.holder.as_texts()]).encode()
        if (num_written := os.pwrite(self.file, text, 0)) < len(text):
            raise OSError(errno.ENOSPC, f"only {num_written} of {len(text)} bytes were written", str(self.path))
        os.ftruncate(self.file, len(text))  # last, so that what cannot be written leaves the text that was there

    def is_first(self) -> bool:
        """Whether no earlier locked ticket has a device of this one."""
        return not self.ahead()

    def ahead(self) -> list[Holder]:
        """Returns the holders of the earlier locked tickets that have one of its devices, first to last."""
        with _mutex(self.path.parent):
            earlier = _locked(self.path.parent, before=self.number)
            return [ticket.holder for ticket in earlier if ticket.devices & set(self.devices)]

    def release(self) -> None:
        """Leaves the queue."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leaves the ticket to the process that it was handed on to; void if there is none."""
        os.close(self.file)


_LONGEST = 65536
"""Bytes of a ticket."""


@contextlib.contextmanager
def _mutex(queue: Path) -> Iterator[None]:
    path = queue / "mutex"
    try:
        # Reading is enough for a lock; Linux refuses O_CREAT on another user's file in a sticky directory.
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        os.fchmod(handle, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _numbers(queue: Path) -> list[int]:
    """Returns the numbers of the tickets in order. Every user may create files here: other names are skipped."""
    return sorted(int(path.stem) for path in queue.glob("*.ticket") if path.stem.isascii() and path.stem.isdigit())


def _locked(queue: Path, before: int | None = None) -> Iterator[LockedTicket]:
    """Yields the locked tickets in order, those ``before`` a number; the mutex is held."""
    for number in _numbers(queue):
        if (before is None or number < before) and (ticket := _read_if_locked(queue, number)):
            yield ticket


def _read_if_locked(queue: Path, number: int) -> LockedTicket | None:
    """Returns a locked ticket, and removes a void one.

    A locked file without the text of a ticket is skipped, not waited for: tickets are written under the mutex, so that none of a
    run looks so, and any program could otherwise stop all runs for as long as it lives.
    """
    path = queue / f"{number}.ticket"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    except (FileNotFoundError, PermissionError):  # everyone may read a ticket
        return None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return LockedTicket.from_json(number, os.read(handle, _LONGEST))
        except (ValueError, RecursionError):
            return None
    else:
        with contextlib.suppress(PermissionError):  # another user's; it is void all the same
            path.unlink(missing_ok=True)
        return None
    finally:
        os.close(handle)
