"""The machine-wide queue for devices: measured runs never disturb each other, whatever store they belong to.

An owner takes a ticket, a numbered file that it keeps locked while it lives, and waits until no earlier live ticket names
one of its devices. A dead owner's lock is gone, so its ticket is void and the next to look removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

QUEUE = Path("/tmp/workbench-devices")  # the same for every user and store, so not $TMPDIR


class Ticket:
    """A place in the queue for a set of devices (``cpu``, ``cuda:0``, …)."""

    def __init__(self, devices: list[str], queue: Path = QUEUE) -> None:
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
            os.fchmod(self._file, 0o644)  # whatever the umask: other users must see that it is held
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.write(self._file, json.dumps(devices).encode())

    def is_first(self) -> bool:
        """Whether no earlier live ticket shares a device with this one."""
        with self._mutex():
            earlier = [p for p in self.queue.glob("*.ticket") if int(p.stem) < self.number]
            return not any(set(self._devices_if_alive(path)) & set(self.devices) for path in earlier)

    def give_back(self) -> None:
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
    def _devices_if_alive(path: Path) -> list[str]:
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return json.loads(os.read(handle, 65536))  # type: ignore[no-any-return]
        else:
            with contextlib.suppress(PermissionError):  # another user's; it is void all the same
                path.unlink(missing_ok=True)
            return []
        finally:
            os.close(handle)
