"""Every private name of torch that the workbench uses behaves as the workbench relies on, and is used through one place."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from workbench.testing.workers import run_in_workers

ROOT = Path(__file__).parents[1]
PLACE = ROOT / "workbench" / "torch_private"
FIELDS = ("Private", "Upstream", "Checked", "Reason")
PLAIN_TORCH = {"scripts", "course"}
"""Folders of scripts and notebooks in plain torch that users copy, which cannot import the workbench."""


@dataclass(frozen=True)
class Entry:
    """A public name of the place and what its docstring says."""

    module: str
    name: str
    fields: dict[str, str]

    @property
    def private_names(self) -> list[str]:
        return [name.strip() for name in self.fields.get("Private", "").split(",")]

    def load(self) -> Any:
        return getattr(importlib.import_module(f"workbench.torch_private.{self.module}"), self.name)

    def users(self) -> list[str]:
        """Files of the package that import it."""
        wanted = re.compile(rf"from workbench\.torch_private\.{self.module} import (\([^)]*\b|[^\n]*\b){self.name}\b")
        files = {path: path.read_text(encoding="utf-8") for path in sorted(PLACE.parent.rglob("*.py"))}
        return [str(path.relative_to(ROOT)) for path, text in files.items() if wanted.search(text)]


def entries() -> dict[str, Entry]:
    found = {}
    for path in sorted(PLACE.glob("[!_]*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                name, text = statement.name, ast.get_docstring(statement) or ""
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                is_documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                name, text = ast.unparse(target), inspect.cleandoc(following.value.value) if is_documented else ""
            else:
                continue
            lines = re.findall(rf"^({'|'.join(FIELDS)}): (.*(?:\n +.*)*)", text, re.MULTILINE)
            found[f"{path.stem}.{name}"] = Entry(path.stem, name, {key: " ".join(value.split()) for key, value in lines})
    return found


ENTRIES = entries()
CHECKS: dict[str, Callable[[Any], None]] = {}


def check(*names: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Registers the check of an entry, which gets what the entry stands for."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS.update(dict.fromkeys(names, function))
        return function

    return register


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_behaves_as_relied_upon(name: str) -> None:
    entry = ENTRIES[name]
    try:
        CHECKS[name](entry.load())
    except Exception as error:  # noqa: BLE001 - whatever it is, the message names the entry
        pytest.fail(
            f"torch {torch.__version__} does not have {', '.join(entry.private_names)} as workbench.torch_private.{name} expects:"
            f" {type(error).__name__}: {error}\nused by {', '.join(entry.users())}\ncompare {entry.fields.get('Upstream')}"
        )


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_is_documented_and_used(name: str) -> None:
    entry = ENTRIES[name]
    assert tuple(entry.fields) == FIELDS
    assert all(private.startswith("torch.") for private in entry.private_names)
    assert re.fullmatch(r"https://github\.com/pytorch/pytorch/(blob/v[\d.]+/\S+|issues/\d+|pull/\d+)", entry.fields["Upstream"])
    assert re.fullmatch(r"torch \d+\.\d+(, \d+\.\d+)*", entry.fields["Checked"])
    assert entry.users(), "nothing uses it: remove it"


def test_every_check_has_an_entry() -> None:
    assert set(CHECKS) == set(ENTRIES)


# ---- what is relied upon ----


def first_parameters(function: Any, *expected: str) -> None:
    assert tuple(inspect.signature(function).parameters)[: len(expected)] == expected


def in_one_worker(function: Callable[..., Any]) -> Any:
    return run_in_workers(1, function)[0]


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


@check("distributed.ALL_GATHER_INTO_TENSOR", "distributed.REDUCE_SCATTER_TENSOR")
def _(name: Any) -> None:
    assert callable(getattr(dist.ProcessGroup, name)) and callable(getattr(dist.ProcessGroupGloo, name))


@check("distributed.ProcessGroup")
def _(group: Any) -> None:
    for name in ("_set_group_name", "_start_coalescing", "_end_coalescing"):
        assert callable(getattr(dist.ProcessGroup, name))
    assert issubclass(group, dist.ProcessGroup)


@check("distributed.Backend", "distributed.start_coalescing", "distributed.end_coalescing")
def _(entry: Any) -> None:
    for name in ("_start_coalescing", "_end_coalescing"):
        assert callable(getattr(dist.Backend, name, None) or getattr(dist.ProcessGroupGloo, name))


def batch(rank: int, recorder: Any, control: Any) -> tuple[list[float], list[str]]:
    """A send to oneself through the manager on a group that notes what torch calls."""
    from workbench.torch_private.distributed import coalescing_manager

    calls: list[str] = []

    class Group:
        def _start_coalescing(self, device: torch.device) -> None:
            calls.append(f"start on {device}")

        def _end_coalescing(self, device: torch.device) -> str:
            calls.append(f"end on {device}")
            return "work"

    with coalescing_manager(Group(), torch.device("cpu"), async_ops=True) as manager:
        calls.append("operations")
    return manager.works, calls


@check("distributed.coalescing_manager")
def _(manager: Any) -> None:
    first_parameters(manager, "group", "device", "async_ops")
    assert in_one_worker(batch) == (["work"], ["start on cpu", "operations", "end on cpu"])


@check("distributed.check_p2p_batch")
def _(check_p2p_batch: Any) -> None:
    with pytest.raises(ValueError, match="P2POp"):
        check_p2p_batch([1])


@check("distributed.gloo_options")
def _(gloo_options: Any) -> None:
    options = gloo_options([dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")], timedelta(seconds=7))
    assert options._timeout == timedelta(seconds=7) and len(options._devices) == 1
    group = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, options)  # type: ignore[attr-defined]  # torch's stub lacks it
    group.allreduce([torch.ones(1)]).wait()  # type: ignore[attr-defined]  # torch's stub lacks it


@check("distributed.nccl_options")
def _(nccl_options: Any) -> None:
    if dist.is_nccl_available():
        assert nccl_options(timedelta(seconds=7))._timeout == timedelta(seconds=7)


def async_tensor(rank: int, recorder: Any, control: Any) -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate

    from workbench.torch_private.distributed import AsyncCollectiveTensor, all_to_all_single_autograd, wait_tensor

    mesh = init_device_mesh("cpu", (2,))
    partial = DTensor.from_local(torch.ones(2), mesh, [Partial()])
    tensor: Any = partial.redistribute(placements=[Replicate()], async_op=True).to_local()
    x = torch.ones(2, requires_grad=True)
    exchanged = wait_tensor(all_to_all_single_autograd((rank + 1) * x, [1, 1], [1, 1], mesh.get_group()))
    exchanged.sum().backward()
    assert x.grad is not None
    is_async = isinstance(tensor, AsyncCollectiveTensor)
    return [is_async, tensor.wait().tolist() if is_async else None, exchanged.tolist(), x.grad.tolist()]


@check("distributed.AsyncCollectiveTensor")
def _(kind: Any) -> None:
    assert callable(kind.wait)
    assert [result[:2] for result in run_in_workers(2, async_tensor)] == [[True, [2, 2]]] * 2


@check("distributed.all_to_all_single_autograd", "distributed.wait_tensor")
def _(entry: Any) -> None:
    assert [result[2:] for result in run_in_workers(2, async_tensor)] == [[[1, 2], [1, 1]], [[1, 2], [2, 2]]]


def meshes(rank: int, recorder: Any, control: Any) -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard

    from workbench.torch_private.distributed import flattened, unflattened
    from workbench.torch_private.dtensor import local_shape_and_offset

    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("a", "b"))
    together = flattened(mesh["a", "b"], "a+b")
    apart = unflattened(mesh["a"], (1, 2), ("a_outer", "a_inner"))
    assert together.get_group().size() == 2 and apart["a_inner"].get_group().size() == 2
    shape, offset = local_shape_and_offset((3, 2), mesh["a"], [Shard(0)])
    return [together.mesh_dim_names, apart.mesh_dim_names, tuple(apart.mesh.shape), tuple(shape), tuple(offset)]


@check("distributed.flattened", "distributed.unflattened", "dtensor.local_shape_and_offset")
def _(entry: Any) -> None:
    first, second = run_in_workers(2, meshes)
    assert first[:3] == second[:3] == [("a+b",), ("a_outer", "a_inner"), (1, 2)]
    assert (first[3:], second[3:]) == ([(2, 2), (0, 0)], [(1, 2), (2, 0)])


def ignored_by_ddp(rank: int, recorder: Any, control: Any) -> list[bool]:
    from torch.nn.parallel import DistributedDataParallel

    from workbench.torch_private.distributed import leave_out_of_ddp

    layer = nn.Linear(2, 2)
    leave_out_of_ddp(layer, {"bias"})
    replica = DistributedDataParallel(layer)
    replica(torch.full((1, 2), 1.0 + rank)).sum().backward()
    return [layer.weight.grad.tolist() == [[1.5, 1.5]] * 2, recorder.payload_bytes]


@check("distributed.leave_out_of_ddp")
def _(entry: Any) -> None:
    (weight_is_mean, num_bytes), _ = run_in_workers(2, ignored_by_ddp)
    assert weight_is_mean and isinstance(num_bytes, int)


def divided_optimizer(rank: int, recorder: Any, control: Any) -> list[Any]:
    from workbench.torch_private.zero import ZeroRedundancyOptimizer

    calls: list[str] = []

    class Divided(ZeroRedundancyOptimizer):
        def divide_parameters(self) -> list[list[dict[str, Any]]]:
            calls.append("divide")
            return [[{**group} for group in self.param_groups]]

        def broadcast_from(self, rank: int) -> list[Any]:
            calls.append(f"broadcast {rank}")
            return []

    parameter = nn.Parameter(torch.ones(2))
    optimizer = Divided([parameter], torch.optim.SGD, lr=1.0)
    parameter.grad = torch.ones(2)
    optimizer.step()
    return [calls, parameter.tolist()]


@check("zero.ZeroRedundancyOptimizer")
def _(optimizer: Any) -> None:
    calls, parameter = in_one_worker(divided_optimizer)
    assert set(calls) == {"divide", "broadcast 0"} and parameter == [0, 0], (calls, parameter)


def replicated(rank: int, recorder: Any, control: Any) -> list[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    from workbench.torch_private.fsdp import replicate

    mesh = init_device_mesh("cpu", (2,))
    layers = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    for parameter in layers.parameters():
        nn.init.ones_(parameter)
    replicate([layers[0]], mesh=mesh, ignored_params={layers[1].weight})
    replicate(layers, mesh=mesh, ignored_params={layers[1].weight})
    layers(torch.full((1, 2), 1.0 + rank)).sum().backward()
    gradients = [parameter.grad for parameter in layers.parameters()]
    return [getattr(gradient, "full_tensor", lambda g=gradient: g)().tolist() for gradient in gradients]


@check("fsdp.replicate")
def _(replicate: Any) -> None:
    first, second = run_in_workers(2, replicated)
    assert first[0] == second[0] == [[3, 3], [3, 3]], "the mean over two workers"
    assert (first[1], second[1]) == ([[2, 2], [2, 2]], [[4, 4], [4, 4]]), "each worker's own"


def sharded(rank: int, recorder: Any, control: Any) -> bool:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from workbench.torch_private.dispatch import TorchDispatchMode
    from workbench.torch_private.fsdp import CHUNK_CAT

    class Seen(TorchDispatchMode):
        gradients: list[Any] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is CHUNK_CAT:
                self.gradients += args[0]
            return function(*args, **kwargs or {})

    layer = nn.Linear(2, 4)
    fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    loss = layer(torch.ones(1, 2)).sum()
    with Seen() as seen:
        loss.backward()
    return [tuple(gradient.shape) for gradient in seen.gradients] == [(4, 2), (4,)]


@check("fsdp.CHUNK_CAT")
def _(operator: Any) -> None:
    assert run_in_workers(2, sharded) == [True, True], "FSDP2 does not hand it the whole gradients first"


def scheduled(rank: int, recorder: Any, control: Any) -> list[Any]:
    from workbench.torch_private.pipelining import PipelineStage, order_of, schedule_of_actions

    received: list[int] = []

    class Stage(PipelineStage):
        def received_activations(self, microbatch: int) -> tuple[torch.Tensor, ...]:
            received.append(microbatch)
            return super().received_activations(microbatch)

    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    stage = Stage(
        layer,
        rank,
        2,
        torch.device("cpu"),
        input_args=torch.empty(1, 1, requires_grad=rank > 0),
        output_args=layer(torch.empty(1, 1)),
    )
    actions = {0: ["0F0", "0F1", "0B0", "0B1"], 1: ["1F0", "1B0", "1F1", "1B1"]}
    schedule = schedule_of_actions([stage], 2, lambda outputs, targets: (outputs - targets).sum(), actions)
    x, losses = torch.tensor([[1.0], [2.0]]), []
    schedule.step(*([x] if rank == 0 else []), **({} if rank == 0 else {"target": 0 * x, "losses": losses}))
    order = [[str(action) for action in order_of(schedule)[worker]] for worker in range(2)]
    return [received, [loss.item() for loss in losses], order == [actions[0], actions[1]]]


@check("pipelining.PipelineStage", "pipelining.schedule_of_actions")
def _(entry: Any) -> None:
    (_, _, is_first_in_order), (received, losses, is_second_in_order) = run_in_workers(2, scheduled)
    assert received == [0, 1] and losses == [1, 2] and is_first_in_order and is_second_in_order


@check("pipelining.order_of")
def _(order_of: Any) -> None:
    from types import SimpleNamespace

    from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe

    stage: Any = SimpleNamespace(num_stages=2, group_size=2, group_rank=0, submod=nn.Module(), stage_index=0, is_last=False)
    for kind in (ScheduleGPipe, Schedule1F1B):
        order = order_of(kind(stage, 2, loss_fn=lambda outputs, targets: None))
        actions = [(action.computation_type.value, action.microbatch_index) for action in order[0] if action is not None]
        assert {("F", 0), ("F", 1), ("B", 0), ("B", 1)} <= set(actions), (kind.__name__, actions)


def gloo_scopes(rank: int, recorder: Any, control: Any) -> list[Any]:
    from workbench.torch_private.profiler import start_profiling_user_scopes, stop_profiling

    start_profiling_user_scopes()
    dist.all_reduce(torch.ones(6) + 1)
    return [(e.name(), e.shapes(), e.start_ns() <= e.end_ns()) for e in stop_profiling() if not e.name().startswith("[")]


@check("profiler.start_profiling_user_scopes", "profiler.stop_profiling")
def _(entry: Any) -> None:
    for spans in run_in_workers(2, gloo_scopes):
        assert ("gloo:all_reduce", [[6]], True) in spans, spans
        assert not any(name.startswith("aten::") for name, _, _ in spans), "operations of torch are recorded too"


@check("profiler.raw_events")
def _(raw_events: Any) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        torch.ones(1024)
    changes = [event.nbytes() for event in raw_events(profile.profiler) if event.name() == "[memory]"]
    assert 4096 in changes and -4096 in changes, changes


# ---- nothing else uses private names ----


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def modules_elsewhere() -> dict[str, ast.Module]:
    package = PLACE.parent
    paths = {str(path.relative_to(package)): path for path in sorted(package.rglob("*.py")) if PLACE not in path.parents}
    return {name: ast.parse(p.read_text(encoding="utf-8")) for name, p in paths.items() if PLAIN_TORCH.isdisjoint(p.parts)}


def private_uses(tree: ast.Module) -> Iterator[str]:
    """Private names of torch: imported; as an attribute of anything but ``self`` that neither this file defines nor belongs to
    an import of something else; as the text of a known name, or a method of that name."""
    known = {name.rpartition(".")[2] for entry in ENTRIES.values() for name in entry.private_names}
    known = {name for name in known if is_private(name)}
    nodes = list(ast.walk(tree))
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {node: [getattr(node, "module", None) or alias.name for alias in node.names] for node in imports}
    of_torch = [node for node in imports if any(name.split(".")[0] == "torch" for name in imported[node])]
    others = {a.asname or a.name.split(".")[0] for node in imports if node not in of_torch for a in node.names}
    methods = {part for node in nodes if isinstance(node, ast.ClassDef) for part in node.body}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) and is_self(n.value)}
    for node in of_torch:
        for alias in node.names:
            name = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            if any(map(is_private, name.split("."))):
                yield f"line {node.lineno}: {name}"
    for node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_self(node.value):
            root = ast.unparse(node).split(".")[0].split("[")[0].split("(")[0]
            if node.attr in known or (of_torch and node.attr not in defined and root not in others):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value in known or (re.fullmatch(r"torch(\.\w+)+", node.value) and "._" in node.value):
                yield f"line {node.lineno}: {node.value!r}"
        elif isinstance(node, ast.FunctionDef) and node.name in known and node in methods:
            yield f"line {node.lineno}: def {node.name}"


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def overrides(tree: ast.Module, module: Any) -> Iterator[str]:
    """Private attributes of classes of torch that a class of this module replaces."""
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        written = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        written |= {ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign)}
        for base in getattr(module, node.name).__mro__[1:]:
            if base.__module__.split(".")[0] == "torch":
                yield from (f"{node.name}.{name} of {base.__name__}" for name in written & set(vars(base)) if is_private(name))


@pytest.mark.parametrize(
    "text",
    [
        "from torch.distributed import _functional_collectives",
        "import torch.distributed._tools.mem_tracker",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "import torch\ntorch._C._current_graph_task_id()",
        "from torch import nn\nnn.Linear(1, 1)._parameters",
        "def f(mesh):\n    return mesh._flatten('a')",
        "class Group:\n    def _start_coalescing(self): ...",
        "METHODS = ('_allgather_base',)",
        "PRELOADED = ('torch.distributed._tools.mem_tracker',)",
    ],
)
def test_rule_finds(text: str) -> None:
    assert list(private_uses(ast.parse(text)))


def test_private_names_are_used_through_one_place() -> None:
    found = [f"workbench/{name}, {use}" for name, tree in modules_elsewhere().items() for use in private_uses(tree)]
    assert found == [], "give each an entry in workbench/torch_private, with a check in this file"


def test_no_class_replaces_private_attributes_of_torch() -> None:
    found = []
    for name, tree in modules_elsewhere().items():
        sources = [getattr(node, "module", None) or node.names[0].name for node in tree.body if hasattr(node, "names")]
        if any(source.split(".")[0] == "torch" for source in sources):
            module = importlib.import_module("workbench." + name.removesuffix(".py").replace("/", "."))
            found += [f"workbench/{name}: {what}" for what in overrides(tree, module)]
    assert found == [], "let the class derive from one in workbench/torch_private that gives it a public name"
