"""Modes that see every operation, what they see, and the private operators among it."""

from __future__ import annotations

import torch
from torch._subclasses import fake_tensor
from torch.utils import _python_dispatch, _pytree, flop_counter

TorchDispatchMode = _python_dispatch.TorchDispatchMode
"""Base class of modes whose ``__torch_dispatch__`` receives every operation.

Private: torch.utils._python_dispatch.TorchDispatchMode
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/_python_dispatch.py
Checked: torch 2.11, 2.12, 2.13
Reason: torch documents it under this name alone.
"""

FlopCounterDispatchMode = flop_counter._FlopCounterMode
"""The mode that counts for ``FlopCounterMode``, its attribute ``mode``.

Private: torch.utils.flop_counter._FlopCounterMode
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/flop_counter.py
Checked: torch 2.11, 2.12, 2.13
Reason: the public counter cannot leave out operations, such as those on a whole DTensor.
"""

FakeTensor = fake_tensor.FakeTensor
"""Tensors without data, with which DTensor learns shapes.

Private: torch._subclasses.fake_tensor.FakeTensor
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/_subclasses/fake_tensor.py
Checked: torch 2.11, 2.12, 2.13
Reason: the class has no public name.
"""

tree_leaves = _pytree.tree_leaves
"""Returns the values in nested tuples, lists and dicts.

Private: torch.utils._pytree.tree_leaves
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/_pytree.py
Checked: torch 2.11, 2.12, 2.13
Reason: torch has no public module for nested values, and knows the containers that users register with this one.
"""

tree_map = _pytree.tree_map
"""Applies a function to the values in nested tuples, lists and dicts.

Private: torch.utils._pytree.tree_map
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/_pytree.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``tree_leaves``.
"""

tree_flatten = _pytree.tree_flatten
"""Returns the values in nested tuples, lists and dicts, and the structure.

Private: torch.utils._pytree.tree_flatten
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/_pytree.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``tree_leaves``.
"""

tree_unflatten = _pytree.tree_unflatten
"""Returns values in the structure of ``tree_flatten``.

Private: torch.utils._pytree.tree_unflatten
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/_pytree.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``tree_leaves``.
"""

TreeSpec = _pytree.TreeSpec
"""The structure that ``tree_flatten`` returns.

Private: torch.utils._pytree.TreeSpec
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/utils/_pytree.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``tree_leaves``.
"""

cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Fused attention on CPU: (q, k, v, dropout, is causal) → values and the logarithm of the softmax's denominator.

Private: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/native_functions.yaml
Checked: torch 2.11, 2.12, 2.13
Reason: ``scaled_dot_product_attention`` does not return the denominator, with which parts of attention are combined.
"""

cpu_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
"""Its backward pass: (gradient, q, k, v, values, logarithm, dropout, is causal) → gradients of q, k and v.

Private: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/native_functions.yaml
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``cpu_attention``.
"""

FUSED_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
)
"""The operators of fused attention.

Private: torch.ops.aten._scaled_dot_product_flash_attention, torch.ops.aten._scaled_dot_product_efficient_attention
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/aten/src/ATen/native/native_functions.yaml
Checked: torch 2.11, 2.12, 2.13
Reason: a policy of selective checkpointing is given these operators, not the public function that calls them.
"""

FUNCTIONAL_COLLECTIVES = (
    torch.ops._c10d_functional.all_reduce.default,
    torch.ops._c10d_functional.all_gather_into_tensor.default,
    torch.ops._c10d_functional.reduce_scatter_tensor.default,
    torch.ops._c10d_functional.all_to_all_single.default,
)
"""The operators of collectives that return new tensors, as DTensor issues them.

Private: torch.ops._c10d_functional
Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/_functional_collectives.py
Checked: torch 2.11, 2.12, 2.13
Reason: as for ``FUSED_ATTENTION``.
"""
