"""The processes of a run that goes on."""

from __future__ import annotations


def own_memory_mib(pid: int) -> float | None:
    """Memory that is this process's alone; what forked workers share, torch above all, is not counted."""
    import psutil

    try:
        return float(psutil.Process(pid).memory_full_info().uss) / 2**20
    except psutil.Error:
        return None
