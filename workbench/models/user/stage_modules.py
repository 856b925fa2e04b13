"""A part of a user's module on one worker: its own code runs, with stand-ins in place of the units of other workers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workbench.errors import SplitError
from workbench.models.blocks_modules import Blocks
from workbench.models.user.dataflow_modules import Origin
from workbench.models.user.outputs_modules import Result
from workbench.models.user.structure_modules import Structure
from workbench.plan.batch_modules import call, num_samples
from workbench.torch_private.dispatch import tree_leaves, tree_unflatten
from workbench.torch_private.modules import ConvertsMore

Surrounding = Callable[[], AbstractContextManager[Any]]
"""Returns the context in which the code of a module runs."""
SURROUNDING: ContextVar[Surrounding] = ContextVar("SURROUNDING", default=nullcontext)
"""That of the forward pass that runs, which recomputation in backward enters, too."""


class _Done(BaseException):
    """Leaves the code of the module after the last unit of a stage; no ``except Exception`` of the user's stops it."""


class _StandIn(nn.Module):
    """A unit of another stage, which has the attributes of the unit and no memory."""


class HeldParameters(nn.Module):
    """Parameters that the code between units reads: a block without a forward pass. Who replaces them here, as FSDP does when it
    gathers them, replaces them in that code, too."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self._readers: list[tuple[str, nn.Module, str]] = []
        for name, parameter in parameters.items():
            self.register_parameter(name, parameter)

    def read_by(self, module: nn.Module, attribute: str, name: str) -> None:
        """Adds an attribute of a module, in the code of a worker or of one of its stages, that is the parameter ``name``."""
        self._readers.append((name, module, attribute))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        for parameter, module, attribute in self.__dict__.get("_readers", ()):
            if parameter == name:
                setattr(module, attribute, value)


class WholeModule(Blocks):
    """A module that cannot be cut, as one block."""

    is_first = is_last = True
    arguments: Mapping[str, Any] = {}
    """As of ``UserBlocks``."""

    def __init__(self, blocks: OrderedDict[str, nn.Module], result: Result) -> None:
        super().__init__(blocks)
        self.result = result
        self.surrounding: Surrounding = nullcontext

    @property
    def code(self) -> nn.Module:
        """The module."""
        return self[0]

    def through(self, call: Callable[[nn.Module, Any], Any], x: Any) -> Any:
        """Returns the output for x without ``call``, since the module takes the samples in another form."""
        return self(x)

    def forward(self, samples: Any) -> Any:
        (root,) = self
        with _within(self.surrounding):
            output = call(root, self.result.inputs(samples), **self.arguments)
        return self.result.of(output, samples, self.training)


class UserBlocks(ConvertsMore, Blocks):
    """Blocks of a user's module that one worker holds.

    The forward pass of consecutive blocks runs the module's own code. A unit before them returns what the stage before has sent
    of its output, or zeros that nothing reads; after the last unit the code is left. The tensors that cross the cut are returned
    as a tuple, a single one alone.
    """

    arguments: Mapping[str, Any] = {}
    """Further arguments of the module in the next forward pass, such as a cache."""

    def __init__(self, blocks: OrderedDict[str, nn.Module], root: nn.Module, structure: Structure, result: Result) -> None:
        super().__init__(blocks)
        self.result = result
        self.surrounding: Surrounding = nullcontext
        names = [block.name for block in structure.blocks]
        held = [names.index(name) for name in blocks]
        self._first, self._last, self.structure = min(held), max(held), structure
        self._arriving = structure.carry(self._first - 1) if self._first else []
        self._leaving = structure.carry(self._last)
        self._received: dict[Origin, Tensor] = {}
        self._captured: dict[Origin, Tensor] = {}
        self._stand_ins: list[nn.Module] = []
        self._aliases: list[tuple[nn.Module, str]] = []
        # In a tuple, since as an attribute it would be a submodule, and its units are registered as blocks.
        self._code = (root if len(held) == len(names) else self._copied(root, held),)
        self._drop_aliases()
        self._let_code_follow()

    @property
    def is_first(self) -> bool:
        """Whether its input is the samples."""
        return self._first == 0

    @property
    def is_last(self) -> bool:
        """Whether its output is that of the module."""
        return self._last + 1 == len(self.structure.blocks)

    @property
    def code(self) -> nn.Module:
        """The module, whose paths lead to the units of the held blocks themselves."""
        return self._code[0]

    def part(self, names: Iterable[str]) -> UserBlocks:
        held = dict(self.named_children())
        return UserBlocks(OrderedDict((name, held[name]) for name in names), self._code[0], self.structure, self.result)

    def through(self, call: Callable[[nn.Module, Any], Any], x: Any) -> Any:
        """Returns the output for x without ``call``, since the code between the blocks calls them."""
        return self(x)

    def _copied(self, root: nn.Module, held: list[int]) -> nn.Module:
        """Returns a copy of the module with the units of the held blocks and the modules between units themselves, and stand-ins
        in place of the other units."""
        structure = self.structure
        inside = {unit for block in held for unit in range(structure.first_unit(block), structure.blocks[block].last_unit + 1)}
        units = {root.get_submodule(path): index for index, path in enumerate(structure.units)}
        around = {module for path in structure.units for module in _around(root, path)}
        of_units = {module for unit in units for module in unit.modules()}
        memo: dict[int, Any] = {id(module): module for module in set(root.modules()) - around - of_units}
        memo |= {id(unit): unit if index in inside else self._stand_in(unit, index) for unit, index in units.items()}
        for module in around:
            memo |= {id(tensor): tensor for tensor in module.parameters(recurse=False)}
        code = copy.deepcopy(root, memo)
        others = [name for index, block in enumerate(structure.blocks) if index not in held for name in block.parameters]
        of_other_units = (name for name, unit in structure.aliases.items() if unit not in inside)
        others += [name for name in of_other_units if root.get_submodule(name.rpartition(".")[0]) in around]
        for name in others:
            path, _, attribute = name.rpartition(".")
            owner = code.get_submodule(path)
            if isinstance(parameter := getattr(owner, attribute), nn.Parameter):
                delattr(owner, attribute)
                setattr(owner, attribute, _placeholder(parameter))
        return code

    def _let_code_follow(self) -> None:
        """Lets the code between the blocks follow what replaces the parameters that it reads."""
        held = [block for block in self.children() if isinstance(block, HeldParameters)]
        names = {parameter: (block, name) for block in held for name, parameter in block.named_parameters()}
        for module in set(self._code[0].modules()).difference(held):
            for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                if parameter in names:
                    names[parameter][0].read_by(module, attribute, names[parameter][1])

    def _drop_aliases(self) -> None:
        """Frees what modules outside of the blocks hold of their parameters and nothing reads there, such as the shared embedding
        of T5, which is called under other names: it would stay behind when a strategy replaces a parameter."""
        of_blocks, read = dict[nn.Parameter, str](), self.structure.blocks_read_outside
        for name, block in self.named_children():
            of_blocks |= dict.fromkeys(block.parameters(), name)
        inside = {module for block in self.children() for module in block.modules()}
        held_alone = {name for block in self.structure.blocks for name in block.parameters}
        for path, module in self._code[0].named_modules():
            for attribute, parameter in list(module.named_parameters(recurse=False)):
                is_alias = module not in inside and f"{path}.{attribute}".lstrip(".") not in held_alone
                if is_alias and parameter in of_blocks and of_blocks[parameter] not in read:
                    setattr(module, attribute, nn.Parameter(_placeholder(parameter), requires_grad=False))
                    self._aliases.append((module, attribute))

    def _stand_in(self, unit: nn.Module, index: int) -> nn.Module:
        """Returns a module of the class and with the attributes of a unit, without memory, which returns ``_output_of``."""
        without_data: dict[int, Any] = {id(tensor): _placeholder(tensor) for tensor in unit.buffers()}
        without_data |= {id(p): nn.Parameter(_placeholder(p), requires_grad=False) for p in unit.parameters()}
        stand_in = copy.deepcopy(unit, without_data)
        kind = type(unit).__mro__[2] if isinstance(unit, _StandIn) else type(unit)
        stand_in.__class__ = type(kind.__name__, (_StandIn, kind), {"forward": lambda _, *args, **kwargs: self._output_of(index)})
        self._stand_ins.append(stand_in)
        return stand_in

    def _output_of(self, unit: int) -> Any:
        """Returns the output of a unit of an earlier stage."""
        structure, leaves = self.structure.flow.structures[unit]
        larger = self.structure.larger.structures[unit][1]
        shorter = leaves if self.structure.shorter is None else self.structure.shorter.structures[unit][1]
        last = self.structure.blocks[self._first - 1].last_unit
        outputs = list(leaves)
        for position, (two, three, fewer) in enumerate(zip(leaves, larger, shorter, strict=True)):
            if isinstance(two, Tensor):
                received = self._received.get(self.structure.latest(Origin(unit, position), last))
                # A copy, since a leaf of the graph may not be written in place.
                outputs[position] = self._zeros(two, three, fewer) if received is None else received.clone()
        return tree_unflatten(outputs, structure)

    def _zeros(self, two: Tensor, three: Tensor, fewer: Tensor) -> Tensor:
        """Returns zeros in the shape of this batch, given that of two samples, of three, and of two with a position less."""
        assert self.samples is not None, "a stage after the first needs the samples for their number"
        like = next(iter(self._received.values()))
        more, longer = num_samples(self.samples) - 2, 0
        if self.structure.shorter is not None:
            longer = tree_leaves(self.samples)[0].shape[1] - self.structure.sequence_length
        shapes = zip(two.shape, three.shape, fewer.shape, strict=True)
        shape = [a + (b - a) * more + (a - c) * longer for a, b, c in shapes]
        return torch.zeros(shape, dtype=like.dtype if two.is_floating_point() else two.dtype, device=like.device)

    def _handing_over(self) -> Iterator[RemovableHandle]:
        """Makes the units hand over what crosses the cut in this forward pass, after the hooks of FSDP."""
        last = self.structure.blocks[self._last].last_unit
        for unit in {last, *(origin.unit for origin in self._leaving)}:
            module = self._code[0].get_submodule(self.structure.units[unit])
            leaves = [origin for origin in self._leaving if origin.unit == unit]
            yield module.register_forward_hook(self._hand_over(leaves, unit == last))

    def _hand_over(self, leaves: list[Origin], is_last: bool) -> Callable[..., None]:
        written = self.structure.flow.written_outside

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            values = tree_leaves(output)
            for origin in leaves:
                value = values[int(origin.leaf)]
                # What the code writes into it afterwards, the code of the next stage writes again.
                self._captured[origin] = value.clone() if origin in written and not is_last else value
            if is_last:
                raise _Done

        return hook

    def forward(self, *inputs: Any) -> Any:
        if self.is_first:
            # A pipeline sets samples of several tensors, and passes only their numbers.
            if not isinstance(inputs[0], Tensor) or isinstance(self.samples, Tensor | NoneType):
                (self.samples,) = inputs
        else:
            self._received = dict(zip(self._arriving, inputs, strict=True))
        handles = [] if self.is_last else list(self._handing_over())
        try:
            with _within(self.surrounding):
                output = call(self._code[0], self.result.inputs(self.samples), **self.arguments)
        except _Done:
            passed = tuple(self._captured[origin] for origin in self._leaving)
            return passed if len(passed) > 1 else passed[0]
        finally:
            self._received, self._captured = {}, {}
            for handle in handles:
                handle.remove()
        if not self.is_last:
            unit = self.structure.units[self.structure.blocks[self._last].last_unit]
            raise SplitError("split", f"the module did not call {unit}, after which it is cut, as it did when it was inspected")
        return self.result.of(output, self.samples, self.training)

    def named_modules(self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True) -> Iterator[Any]:
        """Yields the blocks, then the modules of the code between them, such as a dropout."""
        memo = set() if memo is None else memo
        yield from super().named_modules(memo, prefix, remove_duplicate)
        memo |= {module for stand_in in self._stand_ins for module in stand_in.modules()}
        yield from self._code[0].named_modules(memo, prefix, True)

    def named_parameters(self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True) -> Iterator[Any]:
        """Yields those of the blocks, which are all."""
        seen = set[nn.Parameter]()
        for name, block in self.named_children() if recurse else ():
            for path, parameter in block.named_parameters(f"{prefix}.{name}" if prefix else name, True, remove_duplicate):
                if not (remove_duplicate and parameter in seen):
                    seen.add(parameter)
                    yield path, parameter

    def train(self, mode: bool = True) -> UserBlocks:
        super().train(mode)
        self._code[0].train(mode)  # which the user may have overridden, for batch norms that stay frozen
        return self

    def convert_others(self, convert: Callable[[Tensor], Tensor]) -> None:
        blocks = {module for block in self.children() for module in block.modules()}
        for module in {module for _, module in self.named_modules()} - blocks - {self}:
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, convert(buffer))
        for module, name in self._aliases:
            setattr(module, name, nn.Parameter(_placeholder(getattr(module, name), convert), requires_grad=False))
        for module in (module for stand_in in self._stand_ins for module in stand_in.modules()):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(_placeholder(parameter, convert), requires_grad=False))
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, _placeholder(buffer, convert))


@contextmanager
def _within(surrounding: Surrounding) -> Iterator[None]:
    token = SURROUNDING.set(surrounding)
    try:
        with surrounding():
            yield
    finally:
        SURROUNDING.reset(token)


def _placeholder(tensor: Tensor, convert: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """Returns zeros in the shape, format and place of a tensor, in the memory of one element."""
    return convert(torch.zeros((), dtype=tensor.dtype, device=tensor.device)).expand(tensor.shape)


def _around(root: nn.Module, path: str) -> Iterator[nn.Module]:
    """Yields the modules around a submodule, the root first."""
    parts = path.split(".")
    return (root.get_submodule(".".join(parts[:count])) for count in range(len(parts)))
