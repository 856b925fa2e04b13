"""A signal ends a process after it has cleaned up."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_an_interrupt_first_and_then_ends_the_process(number: signal.Signals) -> None:
    code = """if True:
        import time
        from workbench.launch.termination import terminated_as_interrupted
        with terminated_as_interrupted():
            try:
                with terminated_as_interrupted():  # as submit within run
                    print("ready", flush=True)
                    time.sleep(3600)
            except KeyboardInterrupt:
                print("cleaned up", flush=True)
                raise
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as script:
        assert script.stdout
        assert script.stdout.readline() == "ready\n"
        script.send_signal(number)
        assert script.stdout.read() == "cleaned up\n"
    assert script.returncode == -number
