"""Starts worker processes for a test case, with a time limit, and ends them all."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import workbench

LIMIT_S = 240.0
"""Of a worker that says nothing, preloading included; below the time limit of a test, so that the failure names the worker."""
_PACKAGE = Path(workbench.__path__[0])
PRELOADED = (
    "workbench.testing.workers",
    "workbench.testing.cases",
    "workbench.testing.preloaded",
    "torch.distributed.tensor.parallel",
    "torch.distributed.pipelining",
    "torch.distributed.fsdp",
    "workbench.torch_private.fsdp",
    "torch.utils.flop_counter",
    "torch.utils.serialization",
    "numpy.ma",
    *(
        ".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts)
        for path in sorted({*_PACKAGE.rglob("*_modules.py"), *(_PACKAGE / "strategies").rglob("[!_]*.py")})
        if path.parent.name != "scripts"  # scripts of lessons, which torchrun starts
    ),
)
"""Modules loaded before the fork, so that a worker starts in milliseconds and imports nothing: late imports (every plugin,
``numpy.ma``) took half the time of a small case. Names that this torch lacks are skipped."""


def run_in_workers(
    num_workers: int, function: Callable[..., Any], *args: Any, make_group: Callable[..., Any] | None = None
) -> list[Any]:
    """Runs ``function(rank, recorder, control, *args)`` in each of ``num_workers`` processes and returns the results by rank.

    Args:
        make_group: ``make_group(store, rank, size, timeout)`` returns the process group that a run's groups use, by default gloo;
            such as ``workbench.testing.nccl_double.NCCLDouble``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    pipes = [context.Pipe(duplex=False) for _ in range(num_workers)]
    with tempfile.TemporaryDirectory() as directory:
        rendezvous, plugins = str(Path(directory) / "rendezvous"), os.environ.get("WORKBENCH_PLUGINS", "")
        processes = [
            context.Process(
                target=_worker, args=(rank, num_workers, rendezvous, plugins, pipes[rank][1], function, args, make_group)
            )
            for rank in range(num_workers)
        ]
        try:
            for process in processes:
                process.start()
            for _, sender in pipes:
                sender.close()  # so that the pipe closes when the worker dies
            results = []
            for rank, (receiver, _) in enumerate(pipes):
                assert receiver.poll(LIMIT_S), f"worker {rank} said nothing for {LIMIT_S} s"
                try:
                    ok, value = receiver.recv()
                except EOFError:
                    ok, value = False, "it died"
                assert ok, f"worker {rank} failed:\n{value}"
                results.append(value)
            return results
        finally:
            for process in processes:
                process.kill()
                process.join()


def _worker(
    rank: int,
    num_workers: int,
    rendezvous: str,
    plugins: str,
    pipe: Any,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    make_group: Callable[..., Any] | None,
) -> None:
    import torch
    import torch.distributed as dist

    from workbench import registry
    from workbench.runtime.tracing.process_group import control_group, register_backend
    from workbench.runtime.tracing.recorder import Recorder

    if os.environ.get("WORKBENCH_PLUGINS", "") != plugins:  # the fork server has the value of its own start
        os.environ["WORKBENCH_PLUGINS"] = plugins
        registry._load.cache_clear()
    gc.freeze()  # preloaded objects: the memory tracker collects garbage, which took a third of a small case
    try:
        torch.set_num_threads(1)
        recorder, timeout = Recorder(), timedelta(seconds=LIMIT_S)
        backend = register_backend(recorder, "cpu", make_group)
        store = dist.FileStore(rendezvous, num_workers)  # type: ignore[attr-defined]  # torch's stub lacks it
        dist.init_process_group(backend, store=store, rank=rank, world_size=num_workers, timeout=timeout)
        control = control_group(timeout)
        pipe.send((True, function(rank, recorder, control, *args)))
        dist.barrier(group=control)
    except BaseException:  # noqa: BLE001 - sent to the test
        pipe.send((False, traceback.format_exc()))
    sys.stdout.flush()
    os._exit(0)  # gloo's teardown at exit occasionally aborts (torch 2.13)
