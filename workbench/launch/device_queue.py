"""The machine-wide queue for devices: measured runs never disturb each other, whatever store they belong to.

A run has a ticket, a numbered file that is locked until the run ends, and waits until no earlier locked ticket names one of its
devices. The submission takes the ticket (``place.py`` says when not) and hands it on to the supervisor, so that runs start in
the order of their submission. When a process dies, the system releases its lock; the ticket is then void, and the next process
removes it. A ticket is a JSON list of devices and of texts ``key=value`` that describe its holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
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
class Place:
    """A locked ticket, as any process reads it."""

    number: int
    devices: frozenset[str]
    holder: Holder


def places(queue: Path | None = None) -> list[Place]:
    """Returns the places in the queue, first to last; void tickets are removed. The first that names a device holds it."""
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
            number = max((int(path.stem) for path in queue.glob("*.ticket")), default=0) + 1
            self.path = queue / f"{number}.ticket"
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            os.fchmod(self.file, 0o644)  # whatever the umask: other users must be able to read the lock
            fcntl.flock(self.file, fcntl.LOCK_EX)
            self._write()

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
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, json.dumps([*self.devices, *self.holder.as_texts()]).encode(), 0)

    def is_first(self) -> bool:
        """Whether no earlier locked ticket has a device of this one."""
        return not self.ahead()

    def ahead(self) -> list[Holder]:
        """Returns the holders of the earlier locked tickets that have one of its devices, first to last."""
        with _mutex(self.path.parent):
            earlier = _locked(self.path.parent, before=self.number)
            return [place.holder for place in earlier if place.devices & set(self.devices)]

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


def _locked(queue: Path, before: int | None = None) -> Iterator[Place]:
    """Yields the places of locked tickets in order, those ``before`` a number; the mutex is held."""
    numbers = sorted(int(path.stem) for path in queue.glob("*.ticket"))
    for number in numbers:
        if (before is None or number < before) and (texts := _texts_if_locked(queue / f"{number}.ticket")):
            devices = frozenset(text for text in texts if "=" not in text)
            yield Place(number, devices, Holder.from_texts(texts))


def _texts_if_locked(path: Path) -> list[str]:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return json.loads(os.read(handle, _LONGEST))
    else:
        with contextlib.suppress(PermissionError):  # another user's; it is void all the same
            path.unlink(missing_ok=True)
        return []
    finally:
        os.close(handle)
