"""What the workbench relies on in torch's autograd, modules, dispatch and profiler."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.torch_private.entries import check, first_parameters
from workbench.torch_private import dispatch


@check("autograd.backward_id")
def _(backward_id: Any) -> None:
    seen: list[int | None] = []
    x = torch.ones(2, requires_grad=True)
    x.register_hook(lambda gradient: seen.append(backward_id()))
    for _ in range(2):
        (2 * x).sum().backward()
    assert backward_id() is None
    assert isinstance(seen[0], int) and isinstance(seen[1], int) and seen[0] != seen[1], seen


@check("autograd.after_backward")
def _(after_backward: Any) -> None:
    order: list[str] = []
    x = torch.ones(2, requires_grad=True)
    y = 2 * x
    y.register_hook(lambda gradient: after_backward(lambda: order.append("after")))
    x.register_hook(lambda gradient: order.append("gradient"))
    y.sum().backward()
    assert order == ["gradient", "after"], order


@check("autograd.version_of")
def _(version_of: Any) -> None:
    tensor = torch.zeros(3)
    with torch.no_grad():
        before = version_of(tensor)
        tensor[:1].add_(1)
    assert version_of(tensor) > before


@check("autograd.is_view")
def _(is_view: Any) -> None:
    x = torch.ones(2, 3)
    assert is_view(x.view(6)) and not is_view(x.clone())


@check("modules.AnyBatchNorm")
def _(base: Any) -> None:
    assert issubclass(nn.BatchNorm1d, base) and issubclass(nn.BatchNorm3d, base) and issubclass(nn.SyncBatchNorm, base)
    assert not issubclass(nn.LayerNorm, base) and base(3).num_features == 3


@check("modules.AnyDropout")
def _(base: Any) -> None:
    assert all(issubclass(kind, base) for kind in (nn.Dropout, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout))
    assert not issubclass(nn.Linear, base)


@check("modules.ConvertsMore")
def _(base: Any) -> None:
    class Module(base):
        other = torch.ones(1)

        def convert_others(self, convert: Any) -> None:
            self.other = convert(self.other)

    assert Module().double().other.dtype == torch.float64


@check("modules.parameters_of")
def _(parameters_of: Any) -> None:
    layer = nn.Linear(2, 2, bias=False)
    assert dict(parameters_of(layer)) == {"weight": layer.weight, "bias": None}
    parameters_of(layer)["weight"] = 2 * torch.eye(2)
    assert layer(torch.ones(2)).tolist() == [2, 2]


@check("dispatch.TorchDispatchMode")
def _(base: Any) -> None:
    class Seen(base):
        def __init__(self) -> None:
            super().__init__()
            self.operators: list[Any] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operators.append(function)
            return function(*args, **kwargs or {})

    x = torch.ones(2, requires_grad=True)
    with Seen() as seen:
        (x * x).sum().backward()
    assert {torch.ops.aten.mul.Tensor, torch.ops.aten.sum.default} <= set(seen.operators)


@check("dispatch.FlopCounterDispatchMode")
def _(mode: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with mode(counter), counter.mod_tracker:
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert counter.get_total_flops() == 2 * 2 * 3 * 4
    first_parameters(mode.__torch_dispatch__, "self", "func", "types", "args", "kwargs")
    with counter:
        assert isinstance(counter.mode, mode)


@check("dispatch.FakeTensor")
def _(kind: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert isinstance(torch.empty(2), kind)


@check("dispatch.tree_leaves")
def _(tree_leaves: Any) -> None:
    assert tree_leaves((1, [2, {"a": 3}])) == [1, 2, 3]


@check("dispatch.tree_flatten")
def _(tree_flatten: Any) -> None:
    assert tree_flatten((1, [2, {"a": 3}]))[0] == [1, 2, 3]


@check("dispatch.tree_unflatten")
def _(tree_unflatten: Any) -> None:
    assert tree_unflatten([4, 5, 6], dispatch.tree_flatten((1, [2, {"a": 3}]))[1]) == (4, [5, {"a": 6}])


@check("dispatch.TreeSpec")
def _(spec: Any) -> None:
    assert isinstance(dispatch.tree_flatten((1, [2]))[1], spec)


@check("dispatch.tree_map")
def _(tree_map: Any) -> None:
    assert tree_map(lambda x: x + 1, (1, [2, {"a": 3}])) == (2, [3, {"a": 4}])


def attention(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return q, k, v


@check("dispatch.cpu_attention")
def _(cpu_attention: Any) -> None:
    q, k, v = attention(1, 2, 3, 4)
    values, logarithm = cpu_attention(q, k, v, 0.0, False)
    scores = q @ k.mT / 2
    torch.testing.assert_close(values, scores.softmax(-1) @ v)
    torch.testing.assert_close(logarithm, scores.logsumexp(-1))


@check("dispatch.cpu_attention_backward")
def _(cpu_attention_backward: Any) -> None:
    q, k, v = (x.requires_grad_() for x in attention(1, 2, 3, 4))
    values = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    expected = torch.autograd.grad(values.sum(), (q, k, v))
    logarithm = (q @ k.mT / 2).masked_fill(torch.ones(3, 3, dtype=torch.bool).triu(1), -torch.inf).logsumexp(-1)
    inputs = [x.detach() for x in (torch.ones_like(values), q, k, v, values, logarithm)]
    torch.testing.assert_close(tuple(cpu_attention_backward(*inputs, 0.0, True)), expected)


@check("dispatch.FUSED_ATTENTION")
def _(operators: Any) -> None:
    assert [len(operator._schema.arguments) >= 3 for operator in operators] == [True] * 3


@check("dispatch.FUNCTIONAL_COLLECTIVES")
def _(operators: Any) -> None:
    assert [str(operator._schema.arguments[0].type) for operator in operators] == ["Tensor"] * 4


@check("profiler.raw_events")
def _(raw_events: Any) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        torch.ones(1024)
    changes = [event.nbytes() for event in raw_events(profile.profiler) if event.name() == "[memory]"]
    assert 4096 in changes and -4096 in changes, changes
