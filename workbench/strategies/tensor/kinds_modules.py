"""The kinds of modules that a tensor plan can cut, and along which dims."""

from __future__ import annotations

from torch import Tensor, nn

from workbench.plan.tensor_plan import SlicedModule
from workbench.torch_private.modules import AnyBatchNorm, parameters_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer: ``nn.Linear``, or ``Conv1D`` of Transformers, whose weight is (in, out)."""
    weight = parameters_of(module).get("weight")
    return isinstance(weight, Tensor) and weight.dim() == 2 and (isinstance(module, nn.Linear) or _is_conv1d(module))


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def is_convolution(module: nn.Module) -> bool:
    """Whether it is a convolution, transposed or not, whose weight is a parameter."""
    return isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)) and isinstance(parameters_of(module).get("weight"), Tensor)


def is_layer(module: nn.Module) -> bool:
    """Whether it can be cut by columns and rows: a linear layer, or a convolution of a single group."""
    return is_linear(module) or (is_convolution(module) and getattr(module, "groups", 1) == 1)


def is_by_channel(module: nn.Module) -> bool:
    """Whether it treats its channels, or groups of them, separately: a depthwise or grouped convolution, a norm over the samples
    or over groups of channels, or an activation with a parameter per channel."""
    if isinstance(module, AnyBatchNorm | nn.PReLU):
        weight = parameters_of(module).get("weight")
        return isinstance(weight, Tensor) and weight.numel() > 1
    return isinstance(module, nn.GroupNorm) or (is_convolution(module) and not is_layer(module))


def is_table(module: nn.Module) -> bool:
    """Whether it is an embedding table that can be cut."""
    return (
        isinstance(module, nn.Embedding)
        and isinstance(parameters_of(module).get("weight"), Tensor)
        and module.max_norm is None
        and not module.scale_grad_by_freq
        and not module.sparse
    )


def is_attention(module: nn.Module) -> bool:
    """Whether it is ``nn.MultiheadAttention`` itself, whose forward pass is known."""
    return type(module) is nn.MultiheadAttention and isinstance(parameters_of(module.out_proj).get("weight"), Tensor)


def can_be_cut(module: nn.Module) -> bool:
    """Whether a tensor plan can cut it, alone or with others."""
    return is_layer(module) or is_by_channel(module) or is_table(module) or is_attention(module)


def why_whole(module: nn.Module) -> str:
    """Returns why a module that has weights of several layers stays whole; empty for others."""
    if isinstance(module, nn.MultiheadAttention) and not is_attention(module):
        return "what a class of its own computes with the parameters of nn.MultiheadAttention is not known"
    return "recurrent layers are not cut" if isinstance(module, nn.RNNBase | nn.RNNCellBase) else ""


def styles_for(module: nn.Module) -> list[str]:
    """Returns how a module that can be cut can be cut."""
    if is_table(module):
        return ["vocabulary", "hidden"]
    if is_attention(module):
        return ["heads"]
    if is_by_channel(module):
        return ["channel"]
    return ["column", "row", "vocabulary"] if is_linear(module) else ["column", "row"]


def num_channel_dims(module: nn.Module) -> int:
    """Returns the number of dims of its output after that of the features or channels."""
    return module.weight.dim() - 2 if isinstance(module.weight, Tensor) and is_convolution(module) else 0


def dims_of(module: nn.Module, style: str) -> dict[str, int]:
    """Returns parameter of a module → dim along which it is cut."""
    if style == "heads":
        rows = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
        dims = {**dict.fromkeys(rows, 0), "bias_k": 2, "bias_v": 2}
        return {name: dim for name, dim in dims.items() if getattr(module, name) is not None} | {"out_proj.weight": 1}
    if style in ("vocabulary", "hidden") and isinstance(module, nn.Embedding):
        return {"weight": 0 if style == "vocabulary" else 1}
    bias = {"bias": 0} if parameters_of(module).get("bias") is not None else {}
    if style == "channel":
        return ({"weight": 0} if parameters_of(module).get("weight") is not None else {}) | bias
    outputs = 1 if _is_conv1d(module) or isinstance(module, _TRANSPOSED) else 0
    return {"weight": 1 - outputs} if style == "row" else {"weight": outputs} | bias


def sections_of(module: nn.Module, part: SlicedModule, name: str) -> tuple[int, ...]:
    """Returns the sections along which a parameter of a module that is still whole is cut."""
    if part.style == "heads" and name.startswith("in_proj"):
        return (module.get_parameter(name).shape[0] // 3,) * 3  # query, key and value
    return part.sections


def buffers_of(module: nn.Module, style: str) -> list[str]:
    """Returns the buffers of a module that are cut along dim 0: statistics per channel."""
    return [name for name, buffer in module.named_buffers(recurse=False) if style == "channel" and buffer.dim() == 1]


def size_of(module: nn.Module, style: str) -> int:
    """Returns the number of features, entries, or groups of channels along which a module is cut."""
    if style == "heads":
        heads = module.num_heads
        assert isinstance(heads, int)
        return heads
    if style == "channel":
        groups = getattr(module, "num_groups", getattr(module, "groups", None))
        return groups if isinstance(groups, int) else module.get_parameter("weight").shape[0]
    return module.get_parameter("weight").shape[dims_of(module, style)["weight"]]


def sizes_read(module: nn.Module, style: str) -> list[str]:
    """Returns the integer attributes of a module that are sizes of what is cut."""
    inputs, outputs = ("in_features", "nx", "in_channels"), ("out_features", "nf", "out_channels")
    channels = (*inputs, *outputs, "groups", "num_groups", "num_channels", "num_features", "num_parameters")
    names = {"row": inputs, "column": outputs, "channel": channels}.get(style, ())
    return [name for name in names if isinstance(getattr(module, name, None), int)]
