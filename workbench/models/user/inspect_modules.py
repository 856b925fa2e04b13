"""Inspects a module on torch's ``meta`` device, or on the CPU if it does not run there, and builds blocks of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.models.blocks_modules import Blocks
from workbench.models.dropout_modules import substitute_dropout
from workbench.models.user.stage_modules import UserBlocks, WholeModule
from workbench.models.user.structure_modules import Structure, structure_of
from workbench.models.user.summary_modules import modules_of_blocks, summary_of_module
from workbench.plan.model_summary import ModelSummary

if TYPE_CHECKING:
    from workbench.data.base import DatasetSummary
    from workbench.models.user.module_model import ModuleModel


def inspected(model: ModuleModel[Any]) -> tuple[Structure | None, ModelSummary]:
    """Returns the structure of a model, None if it cannot be cut, and its summary.

    Raises:
        SpecError: the module does not accept the samples, or its output is not one tensor.
    """
    try:
        with torch.device("meta"):
            root = model.build()
        return _inspected_on(model, root.to("meta"), "meta")
    except Exception:  # noqa: BLE001 - an operation without a meta kernel, or control flow that depends on values
        return _inspected_on(model, model.build(), "cpu")


def _inspected_on(model: ModuleModel[Any], root: nn.Module, device: str) -> tuple[Structure | None, ModelSummary]:
    sample, root = _samples(model.data, device), substitute_dropout(root).train()
    try:
        root(sample(2))
    except Exception as error:
        if device == "meta":
            raise
        raise model.failed_on_samples(error) from error
    try:
        structure = structure_of(root, sample, model.cut_at)
    except SpecError:
        raise
    except Exception:  # noqa: BLE001 - whatever the following of its tensors cannot do, the module still runs as a whole
        structure = None
    if structure is None and model.cut_at:
        raise SpecError("model.cut_at", f"{model.name} cannot be cut anywhere, but got {list(model.cut_at)}; remove it")
    return structure, summary_of_module(model.name, root, structure, sample)


def module_of(made: Any, label: str) -> nn.Module:
    """Returns what the callable returned, if that is a module.

    Raises:
        SpecError: it is not.
    """
    if isinstance(made, type) and issubclass(made, nn.Module):
        raise SpecError("model.name", f"{label} returns the class {made.__name__}, not a module; name the class itself")
    if not isinstance(made, nn.Module):
        raise SpecError("model.name", f"{label} must return an nn.Module, but returned {type(made).__name__}")
    return made


def _samples(data: DatasetSummary, device: str) -> Callable[[int], Tensor]:
    """Returns a function from a number of samples to inputs like those of the dataset."""

    def sample(count: int) -> Tensor:
        shape = (count, *data.input_shape)
        if data.kind == "tokens":
            return torch.randint(data.num_classes, shape, device=device)
        return torch.randn(shape, device=device)

    return sample


def built_blocks(root: nn.Module, structure: Structure | None, names: Sequence[str]) -> Blocks:
    """Returns blocks of a newly built module; the others have no memory afterwards."""
    root = substitute_dropout(root)
    modules = modules_of_blocks(root, structure)
    held = OrderedDict((name, modules[name]) for name in names)
    if structure is None:
        return WholeModule(held)
    return UserBlocks(held, root, structure)
