"""Measures what each block of a model takes here, in a process of its own, before a run that is to be cut by it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

from workbench.errors import RunFailedError
from workbench.launch.device_queue import Holder, Ticket
from workbench.launch.interpreter import module_command, same_packages
from workbench.spec.files import dumps
from workbench.spec.run_spec import RunSpec

MODULE = "workbench.runtime.block_times"
_POLL_S = 0.02


def block_times(spec: RunSpec, device: str) -> dict[str, float]:
    """Seconds of one microbatch by block. Waits in the devices' queue: it disturbs no run, and none disturbs it.

    Raises:
        RunFailedError: a block failed; with the last line that the process said.
    """
    ticket = Ticket(["cpu" if device == "cpu" else "cuda:0"], Holder("measurement of block times"))
    try:
        while not ticket.is_first():
            time.sleep(_POLL_S)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "spec.toml"
            path.write_text(dumps(spec), encoding="utf-8")
            command = module_command(MODULE, str(path))
            environment = same_packages(OMP_NUM_THREADS=str(spec.launch.threads_per_worker))
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    finally:
        ticket.give_back()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RunFailedError(f'measuring the block times for partition = "time" failed: {last}')
    return json.loads(done.stdout.splitlines()[-1])
