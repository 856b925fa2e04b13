"""The machine-wide queue for devices: measured runs never disturb each other, whatever store they belong to.

A supervisor takes a ticket, a numbered file that it keeps locked until it ends, and waits until no earlier locked ticket names
one of its devices. When a process dies, the system releases its lock; the ticket is then void, and the next process removes it.
A ticket is a JSON list of devices and of texts ``key=value`` that describe its holder.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return str(os.getuid())


class Ticket:
    """A place in the queue for a set of devices (``cpu``, ``cuda:0``, …)."""

    def __init__(self, devices: list[str], holder: Holder, queue: Path | None = None) -> None:
        queue = queue or queue_directory()
        self.devices, self.queue = devices, queue
        if not queue.exists():
            queue.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):
                queue.chmod(0o1777)
        with self._mutex():
            numbers = [int(path.stem) for path in queue.glob("*.ticket")]
            self.number = max(numbers, default=0) + 1
            self.path = queue / f"{self.number}.ticket"
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            os.fchmod(self._file, 0o644)  # whatever the umask: other users must be able to read the lock
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # One list, since earlier versions of the workbench read all of it as devices.
            os.write(self._file, json.dumps([*devices, *holder.as_texts()]).encode())

    def is_first(self) -> bool:
        """Whether no earlier locked ticket has a device of this one."""
        return self.earlier_holder() is None

    def earlier_holder(self) -> Holder | None:
        """Returns the holder of the earliest locked ticket before this one that has one of its devices; None if there is none."""
        with self._mutex():
            earlier = sorted((p for p in self.queue.glob("*.ticket") if int(p.stem) < self.number), key=lambda p: int(p.stem))
            for path in earlier:
                if set(texts := self._texts_if_locked(path)) & set(self.devices):
                    return Holder.from_texts(texts)
        return None

    def release(self) -> None:
        """Leaves the queue."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    @contextlib.contextmanager
    def _mutex(self) -> Iterator[None]:
        path = self.queue / "mutex"
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

    @staticmethod
    def _texts_if_locked(path: Path) -> list[str]:
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return json.loads(os.read(handle, 65536))
        else:
            with contextlib.suppress(PermissionError):  # another user's; it is void all the same
                path.unlink(missing_ok=True)
            return []
        finally:
            os.close(handle)
