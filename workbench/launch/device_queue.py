"""The machine-wide queue for devices: measured runs never disturb each other, whatever store they belong to.

A run has a ticket, a numbered file that is locked until the run ends, and waits until no earlier locked ticket names one of its
devices. The submission takes the ticket (``place.py`` says when not) and hands it on to the supervisor, so that runs start in
the order of their submission. When a process dies, the system releases its lock; the ticket is then void, and the next process
removes it. A ticket is a JSON list of devices and of texts ``key=value`` that describe its holder.

Every user of the machine may write into the directory, so that nothing in it is waited for but tickets: no lock guards the
directory. A ticket appears locked and complete, by a hard link; its number is the time since the machine started; and it counts
once its process has seen no later one, so that none appears before a ticket that may be first already.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import pwd
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from workbench.errors import RunFailedError


def queue_directory() -> Path:
    """Returns the directory of the tickets, which is the same for every user and store, so not below ``$TMPDIR``. Runs with
    another ``$WORKBENCH_DEVICE_QUEUE`` do not wait for the other runs on the machine."""
    return Path(os.environ.get("WORKBENCH_DEVICE_QUEUE") or "/tmp/workbench-devices")


@functools.cache
def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a user without a name, as in a container
        return str(number)


@dataclass(frozen=True)
class Holder:
    """The holder of a ticket, as other processes on the machine see it."""

    activity: str
    """``run 20261124-101530-dp2-3f9a2c``, ``calibration``"""

    store: str = ""
    """The run's store."""

    user: str = field(default_factory=lambda: _user_name(os.getuid()))
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
    return list(_locked(queue or queue_directory()))


class Ticket:
    """A place in the queue for a set of devices (``cpu``, ``cuda:0``, …).

    Raises:
        RunFailedError: the directory of the queue cannot be used.
    """

    def __init__(self, devices: Sequence[str], holder: Holder, queue: Path | None = None) -> None:
        queue = queue or queue_directory()
        self.devices, self.holder = devices, holder
        new = self.path = _make(queue) / f".{uuid.uuid4().hex}.new"
        try:
            self.file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise _unusable(queue, error) from None
        try:
            os.fchmod(self.file, 0o644)  # whatever the umask: other users must be able to read the lock
            fcntl.flock(self.file, fcntl.LOCK_EX)
            self._write()
            self.path = _linked(new, queue)
        except PermissionError as error:  # of the link: the file system has none
            self.close()
            raise _unusable(queue, error) from None
        except BaseException:  # such as a full disk
            self.close()
            raise
        finally:
            new.unlink()

    @classmethod
    def inherited(cls, path: Path, file: int) -> Ticket:
        """Takes over the ticket of the process that started this one and handed on its open file, and with that the lock."""
        ticket = cls.__new__(cls)
        ticket.path, ticket.file = path, file
        os.set_inheritable(file, False)
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


def _make(queue: Path) -> Path:
    """Creates the directory of the queue, for all users, unless it is there. Returns it."""
    try:
        queue.mkdir(parents=True)
    except FileExistsError:
        if not queue.is_dir():
            raise _unusable(queue, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))) from None
    except OSError as error:
        raise _unusable(queue, error) from None
    else:
        queue.chmod(0o1777)
    return queue


def _unusable(queue: Path, error: OSError) -> RunFailedError:
    owner = ""
    with contextlib.suppress(OSError):
        owner = f" of user {_user_name(queue.lstat().st_uid)}"
    hint = "remove it, or set WORKBENCH_DEVICE_QUEUE to another directory"
    return RunFailedError(f"the device queue {queue}{owner} cannot be used: {error.strerror}; {hint}")


def _linked(new: Path, queue: Path) -> Path:
    """Links a ticket into the queue behind all others. Returns its path."""
    while True:
        number = _now()
        path = queue / f"{number}.ticket"
        try:
            path.hardlink_to(new)
        except FileExistsError:
            continue
        if not any(number < ticket.number <= _now() for ticket in _locked(queue)):
            return path
        path.unlink()  # a ticket with a later number was faster, and may be first already


def _now() -> int:
    """Returns the nanoseconds since the machine started, which are the same for all processes and never step back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns()


def _numbers(queue: Path) -> list[int]:
    """Returns the numbers of the tickets in order. Every user may create files here: other names are skipped."""
    return sorted(int(path.stem) for path in queue.glob("*.ticket") if path.stem.isascii() and path.stem.isdigit())


def _locked(queue: Path, before: int | None = None) -> Iterator[LockedTicket]:
    """Yields the locked tickets in order, those ``before`` a number."""
    for number in _numbers(queue):
        if (before is None or number < before) and (ticket := _read_if_locked(queue, number)):
            yield ticket


def _read_if_locked(queue: Path, number: int) -> LockedTicket | None:
    """Returns a locked ticket, and removes a void one.

    A locked file without the text of a ticket is skipped, not waited for: tickets are complete when they appear, so that none of
    a run looks so, and any program could otherwise stop all runs for as long as it lives.
    """
    path = queue / f"{number}.ticket"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe would wait for its writer
    except OSError:  # it has ended, or is none: everyone may read a ticket
        return None
    try:
        if not stat.S_ISREG((status := os.fstat(handle)).st_mode):
            return None
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(handle, number, _user_name(status.st_uid))
    else:
        # Only who holds its lock removes a ticket, so that the path is not that of another one meanwhile.
        with contextlib.suppress(OSError):  # removed, or another user's; it is void all the same
            if path.lstat().st_ino == status.st_ino:
                path.unlink()
        return None
    finally:
        os.close(handle)


def _read(handle: int, number: int, owner: str) -> LockedTicket | None:
    """Returns the ticket in an open file; None if it is none, also when read again, since it may be being replaced."""
    for _ in range(_NUM_READS):
        with contextlib.suppress(ValueError, RecursionError):
            ticket = LockedTicket.from_json(number, os.pread(handle, _LONGEST, 0))
            return replace(ticket, holder=replace(ticket.holder, user=owner))
        time.sleep(_REREAD_S)
    return None


_NUM_READS, _REREAD_S = 3, 0.001
