"""Measures the time of each block of a model, in a separate process, before a run with ``partition = "time"``."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

from workbench.errors import RunFailedError
from workbench.interpreter import module_command, same_packages
from workbench.launch.device_queue import Holder, Ticket
from workbench.spec.files import dumps
from workbench.spec.run_spec import RunSpec

MODULE = "workbench.runtime.block_times"
_POLL_S = 0.02


def block_times(spec: RunSpec, device: str) -> dict[str, float]:
    """Returns the seconds that each block takes for one microbatch. Waits in the device queue, so that no run disturbs it.

    Raises:
        RunFailedError: a block failed; the message includes the last line of output.
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
            result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    finally:
        ticket.release()
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise RunFailedError(f'measuring the block times for partition = "time" failed: {last}')
    return json.loads(result.stdout.splitlines()[-1])
