"""The backward pass that is running, and views."""

from __future__ import annotations

from collections.abc import Callable

import torch


def backward_id() -> int | None:
    """Returns the id of the backward pass that runs in this thread, or None outside of one.

    Private: torch._C._current_graph_task_id
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/autograd/graph.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: no public function tells whether code runs in a backward pass, where activation checkpointing computes again.
    """
    task = torch._C._current_graph_task_id()
    return None if task == -1 else task


def after_backward(callback: Callable[[], None]) -> None:
    """Calls ``callback`` once the running backward pass has computed all gradients, before it returns.

    Private: torch.autograd.Variable._execution_engine.queue_callback
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/fsdp/_fully_shard/_fsdp_state.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: public hooks belong to tensors, nodes or modules, not to the end of a backward pass; DDP and FSDP queue theirs so too.
    """
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def version_of(tensor: torch.Tensor) -> int:
    """Returns how often a tensor, or another of the same storage, was written in place.

    Private: torch.Tensor._version
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_C/__init__.pyi.in
    Checked: torch 2.11, 2.12, 2.13
    Reason: no public attribute shows in-place writes.
    """
    return tensor._version


def is_view(tensor: torch.Tensor) -> bool:
    """Returns whether ``tensor`` is a view, which cannot be detached in place.

    Private: torch.Tensor._is_view
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/pipelining/stage.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: the public API does not tell views from other tensors.
    """
    return tensor._is_view()
