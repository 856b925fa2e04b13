"""The structure of a user's module: its blocks, where it may be cut, and what crosses each cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from types import NoneType
from typing import Any

from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.messages import listed
from workbench.models.user.dataflow_modules import INSIDE, LOSS, OUTPUT, Dataflow, Origin, differentiable, follow
from workbench.models.user.units_modules import find_units
from workbench.torch_private.dispatch import TreeSpec

WHOLE = "model"
"""Name of the only block of a module that cannot be cut."""
ROOT = "root"
"""Name of the block of the parameters that the module itself holds."""


@dataclass(frozen=True)
class UserBlock:
    """A unit with parameters and the units without that follow it, or parameters that the code between units reads."""

    name: str
    """Path of the unit, or of the module of the parameters, with ``/`` for ``.``, which names of modules cannot contain."""

    path: str
    """Path of the unit, or of the module of the parameters."""

    last_unit: int
    """Index of the last unit of this block and those before it."""

    parameters: tuple[str, ...] = ()
    """Names of the parameters that no unit holds; empty for a unit."""


@dataclass(frozen=True)
class Structure:
    """A module that may be cut."""

    units: tuple[str, ...]
    blocks: tuple[UserBlock, ...]
    flow: Dataflow
    """Of a batch of two samples."""

    larger: Dataflow
    """Of a batch of three samples."""

    owners: dict[str, int]
    """Parameter → index of the unit that holds it; −1 for none."""

    aliases: dict[str, int]
    """Other name of a parameter, in a module outside of the units → index of the unit that holds it."""

    differentiable: frozenset[Origin]
    """Outputs of units that have a gradient."""

    first_trained: int
    """Index of the first block with a parameter that requires a gradient."""

    shorter: Dataflow | None = None
    """Of a batch of two samples with one position less than ``sequence_length``, if the module generates with a cache or its
    sequence is split."""

    sequence_length: int = 0
    """Number of positions of a sample, if it does."""

    allowed: frozenset[str] | None = None
    """Paths of the only blocks after which it may be cut; None for all that are found."""

    def first_unit(self, block: int) -> int:
        """Returns the index of the first unit of a block, by the index of the block."""
        return self.blocks[block - 1].last_unit + 1 if block else 0

    def carry(self, block: int) -> list[Origin]:
        """Returns the tensors that cross a cut after a block, by its index: outputs of units before that are read after."""
        last = self.blocks[block].last_unit
        crossing = (o for o, readers in self.flow.readers.items() if 0 <= o.unit <= last and any(r > last for r in readers))
        return sorted({self.latest(origin, last) for origin in crossing}, key=lambda origin: (origin.unit, str(origin.leaf)))

    def latest(self, origin: Origin, last: int) -> Origin:
        """Returns the output of the last unit up to ``last`` that is the same tensor."""
        while (same := self.flow.same.get(origin)) is not None and same.unit <= last:
            origin = same
        return origin

    def _has_gradient(self, origin: Origin, last: int) -> bool:
        """Whether a tensor that crosses the cut after unit ``last`` gets a gradient there: something after it reads the tensor,
        other than the main output beside a loss."""
        after = {r for o, readers in self.flow.readers.items() if self.latest(o, last) == origin for r in readers if r > last}
        return origin in self.differentiable and after != {OUTPUT}

    def shape(self, origin: Origin) -> tuple[int, ...] | None:
        """Returns the shape per sample of a tensor that can cross a cut: of floating point, with the batch as dim 0, and not
        written both by units and between them; None for another."""
        if origin.leaf == INSIDE or origin in self.flow.written_inside & self.flow.written_outside:
            return None
        two, three = (flow.structures[origin.unit][1][int(origin.leaf)] for flow in (self.flow, self.larger))
        is_batched = two.dim() and tuple(two.shape) == (2, *three.shape[1:]) and len(three) == 3
        return tuple(two.shape[1:]) if is_batched and two.is_floating_point() else None

    def has_positions(self, origin: Origin) -> bool:
        """Whether dim 1 of a tensor that crosses a cut, and no other, is the positions."""
        if self.shorter is None:
            return False
        longer, shorter = (flow.structures[origin.unit][1][int(origin.leaf)].shape for flow in (self.flow, self.shorter))
        return longer[1:2] == (self.sequence_length,) and tuple(shorter) == (longer[0], longer[1] - 1, *longer[2:])

    def alias(self, block: UserBlock) -> str:
        """Returns the name under which a module outside of the units has a parameter of a block, too, which the code between the
        units reads; empty if none has."""
        is_read = not block.parameters and block.name in self.blocks_read_outside
        return next((name for name, unit in self.aliases.items() if is_read and self.units[unit] == block.path), "")

    @cached_property
    def _holders(self) -> dict[str, int]:
        """Parameter → index of the unit that holds it under any name; −1 for none."""
        return {**self.owners, **self.aliases}

    @property
    def blocks_read_outside(self) -> set[str]:
        """Names of the blocks with a parameter that the code between the units reads."""
        read = {str(origin.leaf) for origin in self.flow.readers if origin.unit < 0}
        units = {self.units[owner] for name, owner in self._holders.items() if name in read and owner >= 0}
        return {block.name for block in self.blocks if block.parameters or block.path in units}

    @cached_property
    def cut_points(self) -> frozenset[int]:
        """Indices of the blocks after which the module may be cut: what crosses is batched, all of it has a gradient if a
        parameter before is trained, else none of it, and no parameter is read on both sides."""
        ends = range(len(self.blocks) - 1)
        return frozenset(index for index in ends if not self.blocks[index].parameters and not self.problem_after(index))

    def problem_after(self, index: int) -> str:
        """Returns why the module cannot be cut after a block, a clause; empty if it can."""
        block, crossing = self.blocks[index], self.carry(index)
        if self._path_varies:
            return "its code calls other layers, or reads other tensors, for another number of samples"
        if self.allowed is not None and block.path not in self.allowed:
            return "model.cut_at does not name it"
        if block.last_unit >= self._first_unknown:
            return f"what {self.units[self._first_unknown]} returns decides what the code does"
        if name := next((name for name, (low, high) in self._spans.items() if low <= block.last_unit < high), ""):
            return f"its code reads {name} on both sides"
        has_gradients = {self._has_gradient(origin, block.last_unit) for origin in crossing}
        if has_gradients != {index >= self.first_trained}:
            return "of what crosses, some tensors have a gradient and others none" if crossing else "nothing crosses"
        if unsuited := next((origin for origin in crossing if self.shape(origin) is None), None):
            what = "no tensor of floating point with the samples as dim 0, or is written in place"
            return f"what {self.units[unsuited.unit]} hands on is {what}"
        return ""

    @cached_property
    def _path_varies(self) -> bool:
        return self.flow.readers != self.larger.readers or len(self.flow.structures) != len(self.larger.structures)

    @cached_property
    def _first_unknown(self) -> int:
        """Index of the first unit from which on the code of a later stage would not know the values on which it depends."""
        outputs = zip(self.flow.structures, self.larger.structures, strict=True)
        varying = [unit for unit, (two, three) in enumerate(outputs) if _varies(two, three)]
        return min([*varying, *(origin.unit for origin in self.flow.branched_on if origin.unit >= 0)], default=LOSS)

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        """Parameter that the code between the units reads → first and last position at which it is read."""
        spans = {}
        for origin, readers in self.flow.readers.items():
            if origin.unit < 0:
                owner = self._holders[str(origin.leaf)]
                positions = readers if owner < 0 else {*readers, owner}
                spans[str(origin.leaf)] = min(positions), max(positions)
        return spans


class UncutError(Exception):
    """A module cannot be cut anywhere; the message is a clause with the reason."""


def with_positions(structure: Structure, root: nn.Module, run: Callable[[], Any], sequence_length: int) -> Structure:
    """Returns the structure with what depends on the number of positions.

    Args:
        run: calls the module with two samples of one position less than ``sequence_length``.
    """
    return replace(structure, shorter=follow(root, structure.units, run), sequence_length=sequence_length)


def _varies(two: tuple[TreeSpec, list[Any]], three: tuple[TreeSpec, list[Any]]) -> bool:
    """Whether the output of a unit has another structure, or other values than tensors, for other samples: another stage cannot
    know them. A value that is no number, text, bool or None may be anything."""
    if two[0] != three[0]:
        return True
    values = [pair for pair in zip(two[1], three[1], strict=True) if not isinstance(pair[0], Tensor)]
    return any(not isinstance(one, int | float | str | NoneType) or one != other for one, other in values)


def structure_of(root: nn.Module, run: Callable[[int], Any], cut_at: Sequence[str] = ()) -> Structure:
    """Returns the structure of a module.

    Args:
        run: given a number of samples, calls the module; returns the main output, with the loss if the module has one.
        cut_at: paths of the modules after which alone it may be cut; by default all that are found.

    Raises:
        SpecError: it cannot be cut after one of ``cut_at``.
        UncutError: it cannot be cut anywhere.
    """
    two, three = partial(run, 2), partial(run, 3)
    units = find_units(root, two)
    owners = _owners(root, units)
    if len(set(owners.values()) - {-1}) < 2:
        raise UncutError("fewer than two of its submodules have parameters of their own and are called once")
    held = set(owners.values())
    without = [path for index, path in enumerate(units) if index not in held]
    probed = follow(root, [path for path in units if path not in without], two, without)
    if independent := [path for path in without if not any(origin.unit >= 0 for origin in probed.origins[path])]:
        # Every stage can compute them itself, such as the angles of rotary position embeddings.
        units = [path for path in units if path not in independent]
        owners = _owners(root, units)
    flow, larger = follow(root, units, two), follow(root, units, three)
    blocks = tuple(_blocks(units, owners, _orphans(owners, root), flow))
    trains = (any(root.get_parameter(name).requires_grad for name in _parameters(root, block)) for block in blocks)
    first_trained = next((index for index, is_trained in enumerate(trains) if is_trained), len(blocks))
    gradients = differentiable(root, units, two)
    structure = Structure(tuple(units), blocks, flow, larger, owners, _aliases(root, owners), gradients, first_trained)
    if not structure.cut_points:
        ends = [index for index, block in enumerate(structure.blocks[:-1]) if not block.parameters]
        reasons = Counter(structure.problem_after(index) for index in ends)
        raise UncutError(reasons.most_common(1)[0][0] if reasons else "its code reads all parameters outside of its layers")
    possible = [structure.blocks[index].path for index in sorted(structure.cut_points)]
    if unknown := next((path for path in cut_at if path not in possible), None):
        raise SpecError(
            "model.cut_at", f"the model cannot be cut after {unknown!r}; it can be cut after {listed(possible, 'or')}"
        )
    return replace(structure, allowed=frozenset(cut_at)) if cut_at else structure


def _parameters(root: nn.Module, block: UserBlock) -> Iterator[str]:
    """Yields the names of the parameters of a block."""
    yield from block.parameters or (f"{block.path}.{name}" for name, _ in root.get_submodule(block.path).named_parameters())


def _owners(root: nn.Module, units: Sequence[str]) -> dict[str, int]:
    """Returns the index of the unit that holds each parameter; −1 for none."""
    owners = {name: -1 for name, _ in root.named_parameters(remove_duplicate=False)}
    for index, path in enumerate(units):
        owners |= {name: index for name in owners if name.startswith(f"{path}.")}
    return owners


def _aliases(root: nn.Module, owners: dict[str, int]) -> dict[str, int]:
    """Returns the parameters that no unit holds under this name, but one does under another."""
    units = {root.get_parameter(name): owner for name, owner in owners.items() if owner >= 0}
    outside = {name: root.get_parameter(name) for name, owner in owners.items() if owner < 0}
    return {name: units[parameter] for name, parameter in outside.items() if parameter in units}


def _orphans(owners: dict[str, int], root: nn.Module) -> list[str]:
    """Returns the parameters that no unit holds under any of their names."""
    held = {root.get_parameter(name) for name, owner in owners.items() if owner >= 0}
    return [name for name, parameter in root.named_parameters() if parameter not in held]


def _blocks(units: Sequence[str], owners: dict[str, int], orphans: Sequence[str], flow: Dataflow) -> list[UserBlock]:
    """Returns the blocks: one per unit with parameters, and one per module whose own parameters no unit holds, before the first
    unit that reads one of them."""
    starts = sorted(set(owners.values()) - {-1})
    ends = [end - 1 for end in starts[1:]] + [len(units) - 1]
    blocks = [UserBlock(units[start].replace(".", "/"), units[start], end) for start, end in zip(starts, ends, strict=True)]
    modules: dict[str, list[str]] = {}
    for name in orphans:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    for path, names in modules.items():
        first = min((min(flow.readers.get(Origin(-1, name), {LOSS})) for name in names), default=LOSS)
        position = next(
            (i for i, block in enumerate(blocks) if block.last_unit >= first and not block.parameters), len(blocks) - 1
        )
        before = blocks[position - 1].last_unit if position else -1
        blocks.insert(position, UserBlock(path.replace(".", "/") or ROOT, path, before, tuple(names)))
    return blocks
