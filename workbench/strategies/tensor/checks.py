"""Checks of tensor slicing: the configurations that it does not support, each with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import gcd
from typing import TYPE_CHECKING, Any

from workbench.errors import SplitError
from workbench.messages import listed, unknown_name
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.tensor_plan import ModuleSlices
from workbench.strategies.tensor.base import Slicing
from workbench.strategies.tensor.slicings import REPLICATED, cut_dims, slicing_of, slicings_of

if TYPE_CHECKING:
    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.tensor import TensorOptions


def _sizes(groups: Sequence[ModuleSlices]) -> str:
    """Returns the numbers of workers with which all groups of a plan are cut; if there are none, that with which most are, and
    what then stays whole."""
    common = gcd(*(group.units for group in groups))
    if common > 1:
        return f"a divisor of {common}, with which all modules of its plan are cut"
    sizes = sorted({divisor for group in groups for divisor in range(2, group.units + 1) if group.units % divisor == 0})
    most = max(sizes, key=lambda size: sum(group.units % size == 0 for group in groups))
    whole = [module.path for group in groups if group.units % most for module in group.modules]
    return f"{most}, with which {listed(whole)} stay{'s' * (len(whole) == 1)} whole"


def check_tensor(o: TensorOptions, model: ModelSummary, spec: RunSpec) -> None:
    """Rejects a configuration that tensor slicing does not support.

    Raises:
        SplitError: the message includes the numbers.
    """
    dims = {group.kind: [*slicing_of(group).dims, REPLICATED] for group in model.groups}
    for kind, dim in o.cut.items():
        if kind not in dims:
            raise SplitError("split.tensor.cut", unknown_name("kind of layers", kind, sorted(dims)))
        if dim not in dims[kind]:
            raise SplitError(f"split.tensor.cut.{kind}", unknown_name("dim", dim, dims[kind]))
    slicings = slicings_of(model, o)
    if not slicings:
        if groups := [group for group in model.groups if isinstance(group, ModuleSlices)]:
            raise SplitError(
                "split.tensor.size", f"{model.name} has no module that can be cut into {o.size} parts; use {_sizes(groups)}"
            )
        raise SplitError("split.tensor", f"{model.name} has no layers to slice, or all of them are set to none")
    _check_slicings(slicings)
    other_kinds = sorted({s.group.kind for s in slicings if not isinstance(s.group, ColumnRowPair | ModuleSlices)})
    if any(isinstance(s.group, ModuleSlices) for s in slicings):
        _check_modules(o, model, spec)
    if spec.train.checkpointing != "none" and other_kinds:
        raise SplitError(
            "train.checkpointing",
            f"would repeat the communication of sliced {other_kinds[0]} layers in the backward pass; use none",
        )
    if spec.train.mixed_precision != "none" and any(s.group.kind == "convolution" and s.dim == "rows" for s in slicings):
        raise SplitError(
            "train.mixed_precision",
            "bf16 is incompatible with convolutions cut by rows, whose gradients are summed in bf16 instead of fp32; use"
            " none, or cut convolutions by channels",
        )
    if spec.mode == "train":
        _check_gradients(o, model, spec, slicings)
    if o.sequence_parallel:
        _check_sequence(o, model, spec)
    if o.parallel_loss and not any(s.group.kind == "head" and s.dim == "vocabulary" for s in slicings):
        has_head = any(group.kind == "head" for group in model.groups)
        cause = "its head is not cut by vocabulary" if has_head else "it has no such head"
        raise SplitError(
            "split.tensor.parallel_loss",
            f"{model.name} does not support parallel_loss, which requires a head cut by vocabulary: {cause}",
        )
    cut = cut_dims(model, o)
    for tie in model.ties:
        if cut.get(tie.parameter) != cut.get(tie.source):
            raise SplitError("split.tensor.cut", f"{tie.parameter} is tied to {tie.source}; cut both in the same way")
    unsupported = [s.dim for s in slicings if not s.keeps_block_shapes]
    if unsupported and {"layer", "pipeline"} & {name for name, _ in spec.split.items()}:
        raise SplitError(
            "split.tensor.cut",
            f"{unsupported[0]} leaves activations sliced between blocks, but stages require full activations",
        )


def _check_modules(o: TensorOptions, model: ModelSummary, spec: RunSpec) -> None:
    """Rejects what the own code of a user's module cannot do between slices."""
    if spec.train.compile:
        raise SplitError("train.compile", "does not support modules of your own model that are sliced; set it to false")
    for option, needs in (("sequence_parallel", "layers that are known to lie"), ("parallel_loss", "a known head")):
        if getattr(o, option):
            known = "between the cut ones" if option == "sequence_parallel" else "whose output only the loss reads"
            raise SplitError(
                f"split.tensor.{option}", f"needs {needs} {known}, but {model.name} is a module of your own; omit it"
            )


def _check_gradients(o: TensorOptions, model: ModelSummary, spec: RunSpec, slicings: list[Slicing[Any]]) -> None:
    unsupported = next((p.name for p in model.parameters if not p.has_gradient), None)
    other_kinds = [s.group.kind for s in slicings if not isinstance(s.group, ColumnRowPair | ModuleSlices)]
    is_by_formula = any(not isinstance(s.group, ModuleSlices) for s in slicings)
    with_options = {
        "sequence_parallel": o.sequence_parallel,
        f"checkpointing = {spec.train.checkpointing}": spec.train.checkpointing != "none" and is_by_formula,
        f"sliced {other_kinds[0] if other_kinds else ''} layers": bool(other_kinds),
    }
    cause = next((name for name, is_set in with_options.items() if is_set), None)
    if unsupported is not None and cause is not None:
        raise SplitError(
            "split.tensor",
            f"{cause} does not support frozen or unused parameters, such as {unsupported} of {model.name};"
            " use none, or data, layer or pipeline",
        )


def _check_sequence(o: TensorOptions, model: ModelSummary, spec: RunSpec) -> None:
    field, size = "split.tensor.sequence_parallel", o.size
    if model.sequence_length is None:
        raise SplitError(
            field,
            f"{model.name} cannot be split along the sequence, which requires layers between the cut ones to treat each"
            " position separately (no router statistics or class token); use the model transformer",
        )
    for group in model.groups:
        first, dim = slicing_of(group).dims[0], o.cut.get(group.kind, slicing_of(group).dims[0])
        if dim != first:
            raise SplitError(
                field, f"requires {group.kind} cut by {first}, but got {dim}: only {first} gathers and scatters the sequence"
            )
    length = model.sequence_length // {name: o.size for name, o in spec.split.items()}.get("context", 1)
    if length % size:
        of = "" if length == model.sequence_length else " per worker of the context axis"
        raise SplitError(
            field,
            f"{length} positions{of} are not divisible by {size} workers (remainder {length % size}); use a divisor of {length}",
        )


def _check_slicings(slicings: Iterable[Slicing[Any]]) -> None:
    """Checks each slicing.

    Raises:
        SplitError: layers cannot be cut; the message has the numbers of the first kind, and names the other kinds.
    """
    errors: dict[str, SplitError] = {}
    for slicing in slicings:
        try:
            slicing.check()
        except SplitError as error:
            errors.setdefault(slicing.group.kind, error)
    if errors:
        _, *other_kinds = errors
        first = next(iter(errors.values()))
        others_text = f"; the same applies to {listed(other_kinds)}" if other_kinds else ""
        raise SplitError(first.field, first.message + others_text)
