"""Start until every worker has finished its first all-reduce: fork server warm and cold, against torchrun.

``python benchmarks/start.py`` prints medians over repetitions, in seconds and as a share of torchrun's time just before, for 2
and for 4 workers. Cold is the first run, which starts the fork server; warm is a run that finds it with all its imports done.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPETITIONS = 5
# It leaves by os._exit: gloo aborts in its teardown now and then, and torchrun then kills the other workers.
SCRIPT = """
import os, sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
with open(f"{sys.argv[1]}/{dist.get_rank()}", "w") as file:
    file.write(str(time.time()))
os._exit(0)
"""


def torchrun(num_workers: int) -> float:
    """Seconds of ``torchrun --standalone`` for a script that does the same."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "script.py"
        script.write_text(SCRIPT)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_workers}"]
        start = time.time()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, str(script), directory], check=True, env=environment, stderr=subprocess.DEVNULL)
        return max(float((Path(directory) / str(rank)).read_text()) for rank in range(num_workers)) - start


def workbench_start(num_workers: int, cold: bool) -> float:
    """Seconds from ``submit`` to the last worker's first all-reduce."""
    import workbench as wb
    from workbench.launch.start import socket_path

    if cold:
        stop_server(str(socket_path()))
    spec = wb.RunSpec(
        model={"name": "mlp", "num_layers": 4},
        split={"data": num_workers},
        baseline={"mode": "none"},
        train={"num_steps": 1},
        measure={"parity": False},
    )
    start = time.time()
    run = wb.submit(spec)
    run.wait()
    return max(run.directory.events(rank)[0][0]["time"] for rank in range(num_workers)) - start


def stop_server(socket: str) -> None:
    """Ends the fork server of this socket, if it runs."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if socket in (process.info["cmdline"] or []):
            process.send_signal(signal.SIGKILL)
            process.wait()


def compare(num_workers: int, cold: bool) -> tuple[float, float, float]:
    """Medians: torchrun's seconds, ours, and the share of the two, taken pair by pair."""
    pairs = []
    for _ in range(REPETITIONS):
        pairs.append((torchrun(num_workers), workbench_start(num_workers, cold)))
    return (
        statistics.median(theirs for theirs, _ in pairs),
        statistics.median(ours for _, ours in pairs),
        statistics.median(ours / theirs for theirs, ours in pairs),
    )


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as store:
        os.environ["WORKBENCH_HOME"] = store
        os.environ["TMPDIR"] = tempfile.tempdir = store  # a fork server of its own: it is ended for each cold start
        print(f"{'workers':>7} {'':>5} {'torchrun':>9} {'workbench':>9} {'share':>6} {'wanted':>7}")
        for num_workers in (2, 4):
            for name, cold, limit in (("cold", True, 1 / 2), ("warm", False, 1 / 20)):
                theirs, ours, share = compare(num_workers, cold)
                print(f"{num_workers:>7} {name:>5} {theirs:>9.2f} {ours:>9.3f} {share:>6.3f} {limit:>7.2f}", flush=True)
        from workbench.launch.start import socket_path

        stop_server(str(socket_path()))


if __name__ == "__main__":
    main()
