"""Processes in records: whether one of them has ended is known on the same machine and in the same pid namespace alone."""

from __future__ import annotations

import functools
import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

from workbench.store.json_record import Record

_MACHINE_IDS = ("/etc/machine-id", "/var/lib/dbus/machine-id")


@dataclass(frozen=True)
class Origin(Record):
    """Where and when a process wrote a record. A field is empty where the system does not say."""

    host: str = ""
    machine_id: str = ""
    """Id of the installed system, machine-id(5). Copies of an image may share it: with the host it is that of one machine."""
    boot_id: str = ""
    """Id of the machine's uptime."""
    pid_namespace: str = ""
    """Processes of other namespaces, such as those of containers, cannot be seen by their number."""
    uptime_s: float = 0.0
    """Seconds since the machine started, which no change of the clock moves."""

    @property
    def has_restarted(self) -> bool:
        """Whether this machine is that of the record, and has been restarted since."""
        here = this_origin()
        is_same = bool(self.machine_id) and (self.machine_id, self.host) == (here.machine_id, here.host)
        return is_same and bool(self.boot_id and here.boot_id) and self.boot_id != here.boot_id

    @property
    def age_s(self) -> float | None:
        """Seconds since the record was written; None if it is another machine's, or of another uptime."""
        here = this_origin()
        return here.uptime_s - self.uptime_s if self.boot_id and self.boot_id == here.boot_id else None


def this_origin() -> Origin:
    """Returns the origin of what this process writes now."""
    return Origin(*_place(), _uptime_s())


@functools.cache
def _place() -> tuple[str, str, str, str]:
    texts = map(_read, _MACHINE_IDS)
    try:
        pid_namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        pid_namespace = ""
    return platform.node(), next(filter(None, texts), ""), _read("/proc/sys/kernel/random/boot_id"), pid_namespace


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True)
class ProcessIdentity(Record):
    """A process, told from a later one with the same number."""

    pid: int
    create_time: float
    """Seconds since 1970, as psutil reports it, which moves with the clock."""
    start_ticks: int | None = None
    """Clock ticks from the machine's start to that of the process, starttime of proc_pid_stat(5); None on other systems."""
    origin: Origin = field(default_factory=Origin)

    def has_ended(self) -> bool | None:
        """Whether the process has ended; None if this cannot be known here."""
        here = this_origin()
        if self.origin.has_restarted:
            return True
        if self.origin.boot_id and (self.origin.boot_id, self.origin.pid_namespace) != (here.boot_id, here.pid_namespace):
            return None
        if not self.origin.boot_id and self.origin.host not in ("", here.host):
            return None  # the system has no ids, or earlier versions of the workbench wrote the record
        runs = self._runs()
        return None if runs is None else not runs

    def _runs(self) -> bool | None:
        import psutil

        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            if not _read(f"/proc/{self.pid}/stat"):
                return None  # /proc hides it
        try:
            process = psutil.Process(self.pid)
            same_start = _start_ticks(self.pid) == self.start_ticks
            is_same = same_start if self.start_ticks is not None else process.create_time() == self.create_time
            # A killed process stays a zombie while the process that started it runs and does not wait for it.
            return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False


def this_process() -> ProcessIdentity:
    """Returns the identity of this process."""
    import psutil

    return ProcessIdentity(os.getpid(), psutil.Process().create_time(), _start_ticks(os.getpid()), this_origin())


def _start_ticks(pid: int) -> int | None:
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name in parentheses may hold anything
    return int(fields[19]) if len(fields) > 19 else None  # field 22, where the one after the name is 3
