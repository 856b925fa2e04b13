"""Emulated links beside a kernel that shapes real ones: all-reduces of two workers over a veth pair that tbf slows to 1 Gbit/s.

``python benchmarks/namespaces.py`` needs root, iproute2 and a kernel with veth and tbf, and takes the namespaces away again. It
prints for each payload the median milliseconds, from the last worker's entry to the last one's end, of plain gloo between two
network namespaces, of the workbench's emulation of a link with the same bandwidth and the latency that the veth pair shows, and
of the model.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from workbench.plan.link_model import route
from workbench.plan.mesh import Mesh
from workbench.runtime.link_emulation import emulate_links
from workbench.runtime.tracing.recorder import Recorder
from workbench.spec.link import Link
from workbench.testing.workers import run_in_workers

SIZES = [2**10, 2**18, 2**20, 2**22, 2**24]
NUM_REPETITIONS = 12
NAMESPACES, ADDRESSES, PORT = ("workbench0", "workbench1"), ("10.222.0.1", "10.222.0.2"), 29655
BITS_PER_S = 1e9
PAYLOAD_SHARE = 1448 / 1514
"""Of each full Ethernet frame that tbf counts, TCP's payload."""
MESH = Mesh({"data": 2})
TIMEOUT = timedelta(seconds=60)

Times = list[list[tuple[float, float]]]


def main() -> None:
    """Measures both and prints."""
    with namespaces():
        workers = [json.loads(text) for text in in_namespaces()]
    shaped = durations(workers)
    # Two messages' latency is what the smallest payload takes at best.
    link = Link(latency_s=durations(workers, min)[0] / 2, bandwidth_bytes_per_s=BITS_PER_S / 8 * PAYLOAD_SHARE)
    emulated = durations(run_in_workers(2, emulated_times, link))
    way = route(link, MESH, "data", (0, 1))
    print(f"link: {link.label} (the bandwidth is 1 Gbit/s without headers)")
    print(f"{'payload':>10} {'shaped ms':>10} {'emulated ms':>12} {'model ms':>9} {'emulated / shaped':>18}")
    for size, real, ours in zip(SIZES, shaped, emulated, strict=True):
        model = way.duration_s("all_reduce", 2, size)
        print(f"{size // 1024:>6} KiB {real * 1e3:>10.2f} {ours * 1e3:>12.2f} {model * 1e3:>9.2f} {ours / real:>18.3f}")


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    """Two network namespaces joined by a veth pair, each end of which sends at the shaped rate."""
    first, second = NAMESPACES
    try:
        for name in NAMESPACES:
            ip(f"netns add {name}")
        ip(f"link add veth0 netns {first} type veth peer name veth1 netns {second}")
        for index, name in enumerate(NAMESPACES):
            ip(f"-n {name} address add {ADDRESSES[index]}/24 dev veth{index}")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} link set veth{index} up")
            shaping = f"qdisc add dev veth{index} root tbf rate {BITS_PER_S:.0f}bit burst 128kb limit 4mb"
            subprocess.run(["tc", "-n", name, *shaping.split()], check=True)
        yield
    finally:
        for name in NAMESPACES:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def ip(command: str) -> None:
    """Runs iproute2."""
    subprocess.run(["ip", *command.split()], check=True)


def in_namespaces() -> list[str]:
    """What a worker in each namespace prints."""
    workers = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, __file__, str(rank)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for rank, name in enumerate(NAMESPACES)
    ]
    return [worker.communicate(timeout=300)[0].splitlines()[-1] for worker in workers]


def shaped_worker(rank: int) -> None:
    """Plain gloo over the veth pair, without the workbench."""
    torch.set_num_threads(1)
    store = dist.TCPStore(ADDRESSES[0], PORT, 2, is_master=rank == 0, timeout=TIMEOUT)
    options = dist.ProcessGroupGloo._Options()
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=ADDRESSES[rank])]
    options._timeout = TIMEOUT
    group = dist.ProcessGroupGloo(store, rank, 2, options)
    print(json.dumps(times(lambda tensor: group.allreduce([tensor]).wait(), lambda: group.barrier().wait())), flush=True)
    group.barrier().wait()
    os._exit(0)


def emulated_times(rank: int, recorder: Recorder, control: Any, link: Link) -> Times:
    """The same through the workbench's process group, over loopback."""
    recorder.emulated_links = emulate_links(link, MESH, recorder.axes, rank, control)
    return times(lambda tensor: dist.all_reduce(tensor), lambda: dist.barrier(group=control))


def times(all_reduce: Callable[[torch.Tensor], Any], barrier: Callable[[], Any]) -> Times:
    """When this worker entered and left each all-reduce, by size."""
    found: Times = []
    for size in SIZES:
        tensor, of_size = torch.zeros(size // 4), []
        for _ in range(NUM_REPETITIONS):
            barrier()
            entered = time.perf_counter()
            all_reduce(tensor)
            of_size.append((entered, time.perf_counter()))
        found.append(of_size[2:])
    return found


def durations(workers: list[Times], middle: Callable[..., float] = median) -> list[float]:
    """Median (or other) seconds by size; both workers' clock is the machine's."""
    return [
        middle(max(left for _, left in each) - max(entered for entered, _ in each) for each in zip(*of_size, strict=True))
        for of_size in zip(*workers, strict=True)
    ]


if __name__ == "__main__":
    shaped_worker(int(sys.argv[1])) if len(sys.argv) > 1 else main()
