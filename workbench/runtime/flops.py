"""Floating-point operations of a step as torch counts them, per kernel: 2 per multiply-add, matrix products only."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count

from workbench.torch_private.dispatch import FakeTensor, FlopCounterDispatchMode, cpu_attention, cpu_attention_backward

aten = torch.ops.aten


class CountedFlops(FlopCounterMode):
    """Counts as torch does, and also the kernels that torch (2.13) does not know on CPU: fused attention, counted over the full
    square as on GPU, and recurrent layers."""

    def __init__(self) -> None:
        super().__init__(
            display=False,
            custom_mapping={
                cpu_attention: _attention,
                cpu_attention_backward: _attention_backward,
                aten.mkldnn_rnn_layer: _recurrent,
                aten.mkldnn_rnn_layer_backward: _recurrent_backward,
            },
        )
        self.mod_tracker = _NoModuleTracker()  # type: ignore[assignment]

    def __enter__(self) -> CountedFlops:
        self.flop_counts.clear()
        self.mode = _LocalFlopCounterMode(self)
        self.mode.__enter__()
        return self


class _LocalFlopCounterMode(FlopCounterDispatchMode):
    """Counts operations on local tensors, not those on whole DTensors, which DTensor runs without data to infer shapes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        if any(isinstance(arg, FakeTensor) or getattr(arg, "is_meta", False) for arg in args):
            return func(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


class _NoModuleTracker:
    """Replaces torch's ModuleTracker, whose hooks fail if a schedule splits backward (torch 2.13); only the total is counted."""

    parents = ("Global",)

    def __enter__(self) -> _NoModuleTracker:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Returns the FLOPs of the scores and of the values weighted by them; shapes (batch, heads, positions, head_dim)."""
    batch, heads, queries, head_dim = q
    return 4 * batch * heads * queries * int(k[2]) * head_dim


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Returns the FLOPs of five products: the scores are recomputed (Dao et al. 2022)."""
    return sdpa_backward_flop_count(gradient, q, k, v)


def _recurrent(x: Any, weight: Any, recurrent: Any, *_: Any, **__: Any) -> int:
    """Returns the FLOPs of both products of each step and sample; x is (steps, batch, features), weights (gates, features)."""
    return 2 * int(x[0]) * int(x[1]) * int(weight[0]) * (int(weight[1]) + int(recurrent[1]))


def _recurrent_backward(x: Any, weight: Any, recurrent: Any, *_: Any, **__: Any) -> int:
    """Returns twice the FLOPs of forward: the gradients of inputs and of weights each take as many."""
    return 2 * _recurrent(x, weight, recurrent)
