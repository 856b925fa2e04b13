"""Process groups, collectives, meshes and DDP."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import _functional_collectives, distributed_c10d
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

ALL_GATHER_INTO_TENSOR = "_allgather_base"
"""The method of process groups that gathers into one tensor.

Private: torch.distributed.ProcessGroup._allgather_base
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_C/_distributed_c10d.pyi
Checked: torch 2.11, 2.12, 2.13
Reason: a process group that records operations overrides what torch calls, and torch calls this one.
"""

REDUCE_SCATTER_TENSOR = "_reduce_scatter_base"
"""The method of process groups that reduces and scatters one tensor.

Private: torch.distributed.ProcessGroup._reduce_scatter_base
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_C/_distributed_c10d.pyi
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``ALL_GATHER_INTO_TENSOR``.
"""


class ProcessGroup(dist.ProcessGroup):
    """A process group in Python whose name and batches of sends and recvs a subclass handles, under public names.

    Private: torch.distributed.ProcessGroup._set_group_name, torch.distributed.ProcessGroup._start_coalescing,
        torch.distributed.ProcessGroup._end_coalescing
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/distributed_c10d.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: as for ``ALL_GATHER_INTO_TENSOR``.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # torch's stub lacks this overload

    def set_group_name(self, name: str) -> None:
        """Receives the name that torch gives to the group."""
        raise NotImplementedError

    def start_coalescing(self) -> None:
        """Begins a batch."""
        raise NotImplementedError

    def end_coalescing(self) -> dist.Work:
        """Ends the batch, and returns one work for all of it."""
        raise NotImplementedError

    def _set_group_name(self, name: str) -> None:
        self.set_group_name(name)

    def _start_coalescing(self, device: torch.device) -> None:
        self.start_coalescing()

    def _end_coalescing(self, device: torch.device) -> dist.Work:
        return self.end_coalescing()


class Backend:
    """Stands for a backend of torch in tests: what ``start_coalescing`` and ``end_coalescing`` call, under public names.

    Private: torch.distributed.Backend._start_coalescing, torch.distributed.Backend._end_coalescing
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/distributed/c10d/Backend.hpp
    Checked: torch 2.11, 2.12, 2.13
    Reason: as for ``start_coalescing``.
    """

    def start_coalescing(self) -> None:
        """Begins a batch."""
        raise NotImplementedError

    def end_coalescing(self) -> Any:
        """Ends the batch, and returns its work, or None if it was empty."""
        raise NotImplementedError

    def _start_coalescing(self) -> None:
        self.start_coalescing()

    def _end_coalescing(self) -> Any:
        return self.end_coalescing()


def start_coalescing(backend: Any) -> None:
    """Begins a batch of sends and recvs on a backend, such as ``ProcessGroupNCCL``.

    Private: torch.distributed.Backend._start_coalescing
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/distributed/c10d/Backend.hpp
    Checked: torch 2.11, 2.12, 2.13
    Reason: ``batch_isend_irecv`` coalesces on torch's own class of process group alone.
    """
    backend._start_coalescing()


def end_coalescing(backend: Any) -> Any:
    """Ends a batch; returns its work, or None if it was empty.

    Private: torch.distributed.Backend._end_coalescing
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/distributed/c10d/Backend.hpp
    Checked: torch 2.11, 2.12, 2.13
    Reason: as for ``start_coalescing``.
    """
    return backend._end_coalescing()


coalescing_manager: Any = distributed_c10d._coalescing_manager
"""(group, device, async_ops) → a context whose sends and recvs run as one batch; its ``works`` wait for them.

Private: torch.distributed.distributed_c10d._coalescing_manager
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/distributed_c10d.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``start_coalescing``.
"""

check_p2p_batch: Any = distributed_c10d._check_p2p_op_list
"""Rejects a list that is no batch of sends and recvs of one group.

Private: torch.distributed.distributed_c10d._check_p2p_op_list
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/distributed_c10d.py
Checked: torch 2.11, 2.12, 2.13
Reason: the workbench's ``batch_isend_irecv`` rejects what torch's does, with the same words.
"""


def gloo_options(devices: list[Any], timeout: timedelta) -> Any:
    """Returns options of ``ProcessGroupGloo``: the network interfaces to use, and its timeout.

    Private: torch.distributed.ProcessGroupGloo._Options, torch.distributed.ProcessGroupGloo._Options._devices,
        torch.distributed.ProcessGroupGloo._Options._timeout
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/csrc/distributed/c10d/init.cpp
    Checked: torch 2.11, 2.12, 2.13
    Reason: the public constructor chooses the interface by the name of the host, which laptops off their network cannot resolve.
    """
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # torch's stub lacks it
    options._devices, options._timeout = devices, timeout
    return options


def nccl_options(timeout: timedelta) -> Any:
    """Returns options of ``ProcessGroupNCCL``.

    Private: torch.distributed.ProcessGroupNCCL.Options._timeout
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_C/_distributed_c10d.pyi
    Checked: torch 2.11, 2.12, 2.13
    Reason: options have no public timeout.
    """
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return options


AsyncCollectiveTensor = _functional_collectives.AsyncCollectiveTensor
"""The result of a functional collective that nobody has waited for yet.

Private: torch.distributed._functional_collectives.AsyncCollectiveTensor
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/_functional_collectives.py
Checked: torch 2.11, 2.12, 2.13
Reason: DTensor hands it to modules; the class has no public name.
"""

all_to_all_single_autograd = _functional_collectives.all_to_all_single_autograd
"""(x, received, sent, group) → rows of x exchanged between workers; its backward pass exchanges the gradient.

Private: torch.distributed._functional_collectives.all_to_all_single_autograd
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/_functional_collectives.py
Checked: torch 2.11, 2.12, 2.13
Reason: ``torch.distributed.all_to_all_single`` has no backward pass, that of ``torch.distributed.nn`` is no operator, so that
    selective checkpointing could not keep its result.
"""

wait_tensor = _functional_collectives.wait_tensor
"""Waits for the result of a functional collective.

Private: torch.distributed._functional_collectives.wait_tensor
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/_functional_collectives.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``all_to_all_single_autograd``.
"""


def flattened(mesh: DeviceMesh, name: str) -> DeviceMesh:
    """Returns a mesh of one dim called ``name`` with the workers of ``mesh``.

    Private: torch.distributed.device_mesh.DeviceMesh._flatten
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/device_mesh.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: no public method joins dims of a mesh.
    """
    return mesh._flatten(name)


def unflattened(mesh: DeviceMesh, sizes: tuple[int, ...], names: tuple[str, ...]) -> DeviceMesh:
    """Returns a mesh of one dim, divided into dims of these sizes and names.

    Private: torch.distributed.device_mesh.DeviceMesh._unflatten
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/device_mesh.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: no public method divides a dim of a mesh.
    """
    return mesh._unflatten(0, sizes, names)


def leave_out_of_ddp(module: nn.Module, names: Iterable[str]) -> None:
    """Tells DDP, before it wraps ``module``, which parameters to leave alone.

    Private: torch.nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/nn/parallel/distributed.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: DDP has no public option for it.
    """
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
