"""The environment of a run (machine and versions), and the key by which a baseline is reused."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from workbench.code_parts import CODE_PARTS
from workbench.errors import UsageError
from workbench.registry import DATASETS, MODELS
from workbench.spec.run_spec import RunSpec
from workbench.spec.work import of_one_worker
from workbench.store.json_record import plain
from workbench.store.records import Environment


@functools.cache
def environment() -> Environment:
    """Returns the versions and the machine, without importing torch."""
    return Environment(
        workbench_version=version("workbench"),
        torch_version=version("torch"),
        python_version=platform.python_version(),
        platform=platform.platform(),
        machine=platform.node(),
        cpu=_cpu_name(),
        num_cores=num_cores(),
    )


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def max_other_load_cores(spec: RunSpec) -> float:
    """Returns the load of other programs from which on a run of the spec counts as disturbed, in cores:
    ``$WORKBENCH_MAX_OTHER_LOAD_CORES``, for machines that are never quiet, or ``measure.max_other_load_cores``.

    Raises:
        UsageError: the variable is no finite number from 0.
    """
    text = os.environ.get("WORKBENCH_MAX_OTHER_LOAD_CORES")
    if not text:
        return spec.measure.max_other_load_cores
    try:
        cores = float(text)
    except ValueError:
        cores = math.nan
    if not (math.isfinite(cores) and cores >= 0):
        raise UsageError(f"WORKBENCH_MAX_OTHER_LOAD_CORES must be a finite number of cores from 0, but is {text!r}")
    return cores


def baseline_key(spec: RunSpec) -> str:
    """Returns a key that is equal for runs on one worker with the same model and code, data, training options, device, threads,
    environment and memory budget."""
    table = spec.as_dict()
    del table["launch"]["fork_server"], table["launch"]["wait_for_quiet"]  # how and when processes start changes no figure
    for part in CODE_PARTS:
        table[part.section].pop(part.folder_key, None)  # where the user's code lies; what it is, its hash in files says
    table["model"] = of_one_worker(table["model"])
    parts = [table[part] for part in ("mode", "model", "dataset", "train", "inference", "launch")]
    parts += [_source(MODELS.get(spec.model.name)), _source(DATASETS.get(spec.dataset.name))]
    parts += [spec.measure.memory_budget_bytes] if spec.measure.memory_budget_bytes is not None else []
    parts += [spec.files] if spec.files else []
    return hashlib.sha256(json.dumps([parts, plain(environment())], sort_keys=True).encode()).hexdigest()


def _source(plugin: type) -> str:
    """Returns the digest of a plugin's file and of the torch modules beside it, so that an edited model has another key."""
    file = Path(str(sys.modules[plugin.__module__].__file__))
    files = [file, *sorted(file.parent.glob("*_modules.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
