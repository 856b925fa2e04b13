"""Inspects a module on torch's ``meta`` device, or on the CPU if it does not run there, and builds blocks of it."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.messages import listed
from workbench.models.blocks_modules import Blocks
from workbench.models.dropout_modules import substitute_dropout
from workbench.models.mapped_modules import MappedTensors
from workbench.models.user.dataflow_modules import reads_values
from workbench.models.user.decoder_modules import cache_argument
from workbench.models.user.generation_modules import generation_of
from workbench.models.user.kept_modules import kept_tensors
from workbench.models.user.loss_modules import reduction_of_module
from workbench.models.user.outputs_modules import Result, main_output, returned_loss
from workbench.models.user.positions_modules import CheckedPositions
from workbench.models.user.samples_modules import Samples
from workbench.models.user.stage_modules import UserBlocks, WholeModule
from workbench.models.user.state_modules import Calls
from workbench.models.user.structure_modules import Structure, UncutError, structure_of, with_positions
from workbench.models.user.summary_modules import modules_of_blocks, summary_of_module
from workbench.plan.batch_modules import call
from workbench.plan.kept_tensors import KeptTensors
from workbench.plan.model_summary import ModelSummary

if TYPE_CHECKING:
    from workbench.models.user.module_model import ModuleModel

_MOST_PARAMETERS = 50_000_000
"""Number of parameters up to which a pass on the CPU takes seconds."""


def inspected(model: ModuleModel[Any]) -> tuple[Structure | None, ModelSummary]:
    """Returns the structure of a model, None if it cannot be cut, and its summary: found on the CPU, or, of a large model, on
    torch's ``meta`` device if it runs there.

    Raises:
        SpecError: the module does not accept the samples, or its output is not one tensor.
    """
    with _same_random_numbers():
        large = _large(model)
        if large is None:
            return _inspected_on(model, model.build(), "cpu")
        try:
            return _inspected_on(model, large, "meta")
        except SpecError as error:
            if error.field != "model.loss":  # which may only fail on this device
                raise
            return _inspected_on(model, model.build(), "cpu")
        except Exception:  # noqa: BLE001 - an operation without a meta kernel, or control flow that depends on values
            return _inspected_on(model, model.build(), "cpu")


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Lets every process draw the same weights and samples: of a module that branches on values, all must find the same."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def _large(model: ModuleModel[Any]) -> nn.Module | None:
    """Returns a large model on the meta device; None for a small one, and one that cannot be built there."""
    try:
        with torch.device("meta"):
            root = model.build().to("meta")
    except SpecError:
        raise
    except Exception:  # noqa: BLE001 - whatever reads values while it is built
        return None
    return root if sum(parameter.numel() for parameter in root.parameters()) > _MOST_PARAMETERS else None


def _inspected_on(model: ModuleModel[Any], root: nn.Module, device: str) -> tuple[Structure | None, ModelSummary]:
    samples, root = Samples(model.data, device), substitute_dropout(root).train()
    length = model.data.input_shape[0] if model.data.kind == "tokens" else 0
    calls = Calls(root, samples.inputs(2))
    try:
        with CheckedPositions(model.name, root, length):
            output = call(root, calls.inputs())
    except SpecError:
        raise
    except Exception as error:
        if device == "meta":
            raise
        raise model.failed_on_samples(error) from error
    calls.add(output)
    has_loss = model.loss_function is not None or returned_loss(output) is not None
    if not has_loss:
        _check_targets(model)
    result = Result(model.loss_function, has_loss)

    def run(count: int) -> Any:
        batch = samples.inputs(count), samples.targets(count)
        return result.of(call(root, batch[0]), batch, trains=True)

    structure, why_whole = None, ""
    try:
        structure = structure_of(root, run, model.cut_at)
    except SpecError:
        raise
    except UncutError as error:
        why_whole = str(error)
    except Exception as error:
        if device == "meta":
            raise
        why_whole = f"its code cannot be followed ({type(error).__name__})"
    if structure is not None and length > 1 and (model.has_context or (model.generates and cache_argument(root))):
        shorter = samples.inputs(2)[:, : length - 1]
        # A module that does not accept it is refused by the trial of its sequence.
        with suppress(Exception) if model.has_context else nullcontext():
            structure = with_positions(structure, root, lambda: main_output(call(root, shorter)), length)
    if structure is None and model.cut_at:
        raise SpecError(
            "model.cut_at", f"{model.name} cannot be cut anywhere ({why_whole}), but got {list(model.cut_at)}; remove it"
        )
    summary = summary_of_module(model.name, root, structure, samples, result)
    inputs = calls.inputs()
    follows = device == "cpu" and reads_values(root, inputs, lambda: calls.add(call(root, inputs)))
    summary = replace(summary, why_whole=why_whole, reads_values=follows, state=calls.state)
    is_small = summary.num_parameters <= _MOST_PARAMETERS
    built = root
    if device == "meta" and (is_small or has_loss):
        with _mapped_if(not is_small):
            built = model.build()
    if model.generates:
        summary = replace(summary, generation=generation_of(root, structure, model.data, result, is_tried=is_small))
    if is_small:
        summary = replace(summary, kept=_kept(model, built, structure, result))
    if not has_loss:
        return structure, summary
    with _mapped_if(not is_small):
        return structure, replace(summary, loss_reduction=reduction_of_module(built, Samples(model.data, "cpu"), result))


def _mapped_if(is_large: bool) -> AbstractContextManager[Any]:
    """Returns a context in which the tensors of a large model are in files."""
    return MappedTensors() if is_large else nullcontext()


def _check_targets(model: ModuleModel[Any]) -> None:
    """Checks that the default loss suits the targets.

    Raises:
        SpecError: it does not.
    """
    targets = model.data.targets
    if model.data.has_structured_targets and (len(targets) != 1 or targets[0].dtype != "int64"):
        found = f"are {listed([f'{t.path} ({t.dtype})' for t in targets])}" if targets else "are missing"
        raise SpecError(
            "model.loss",
            f"{model.name} returns no loss, and the targets of the dataset {found}; name a function of (outputs, targets) that"
            " returns the loss, as PATH.py:CALLABLE or package.module:CALLABLE",
        )


def _kept(
    model: ModuleModel[Any], root: nn.Module, structure: Structure | None, result: Result
) -> tuple[KeptTensors, ...] | None:
    """Returns what the forward pass and the loss keep on the CPU, where kernels save what they save in a run; None if the module
    does not run on random samples."""
    root, samples = substitute_dropout(root).train(), Samples(model.data, "cpu")

    def loss(batch: Any) -> Tensor:
        returned = call(root, batch[0])
        return result.of(returned, batch, trains=True)[1] if result.has_loss else model.loss(main_output(returned), batch[1])

    try:
        return kept_tensors(root, structure, lambda count: (samples.inputs(count), samples.targets(count)), loss)
    except Exception:  # noqa: BLE001 - or it takes another path than on the meta device
        return None


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


def built_blocks(model: ModuleModel[Any], structure: Structure | None, names: Sequence[str]) -> Blocks:
    """Returns blocks of a model, newly built; the others have no memory afterwards."""
    with _mapped_if(model.summary().num_parameters > _MOST_PARAMETERS):  # a worker keeps its own part
        root = substitute_dropout(model.build())
    modules = modules_of_blocks(root, structure)
    held = OrderedDict((name, modules[name]) for name in names)
    last = Result(model.loss_function, model.summary().loss_reduction is not None)
    return WholeModule(held, last) if structure is None else UserBlocks(held, root, structure, last)
