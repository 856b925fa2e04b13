"""A user's own model: a callable that returns an ``nn.Module``, named in the spec and left as it is."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import JsonValue, field_validator

from workbench.errors import SpecError
from workbench.models.user.module_model import ModuleModel
from workbench.plan.model_summary import ModelSummary, with_experts
from workbench.sources.config_source import check_classes, model_source
from workbench.sources.failure import failure_text
from workbench.sources.live import callable_source
from workbench.sources.source import Source, built
from workbench.spec.options import ModelOptions, NoCost, OfSplit, OwnCode

if TYPE_CHECKING:
    from torch import nn

    from workbench.data.base import DatasetSummary
    from workbench.models.user.inspection import Found, Purpose
    from workbench.models.user.outputs_modules import LossFunction
    from workbench.plan.expert_split import ExpertSplit
    from workbench.sources.inspection import Inspection


class UserModelOptions(ModelOptions):
    """Options of a user's model."""

    name: str
    """Callable that returns the model: PATH.py:CALLABLE or package.module:CALLABLE; or a config of Transformers:
    hf:PATH/config.json, or hf:TYPE for the default of a model type."""

    options: dict[str, JsonValue] = {}
    """Keyword arguments of the callable, or fields of the config."""

    loss: Annotated[str, OwnCode] = ""
    """Callable of (outputs, targets) that returns the loss, PATH.py:CALLABLE or package.module:CALLABLE, beside the model's; by
    default what the model returns as ``loss``, or else the cross-entropy or mean squared error."""

    cut_at: Annotated[tuple[str, ...], OfSplit] = ()
    """Paths of the modules after which the model may be cut; by default found."""

    tensor_plan: Annotated[dict[str, Literal["column", "row", "channel", "heads", "vocabulary", "hidden", "none"]], OfSplit] = {}
    """Path of modules, in which * is any name → how tensor slicing cuts them; others are cut as found."""

    mixtures: Annotated[tuple[str, ...], OfSplit] = ()
    """Paths of mixtures of experts, in which * is any name, whose experts may be divided over workers; by default recognised."""

    folder: Annotated[str, NoCost, OwnCode] = ""
    """Folder from which PATH.py starts; by default the current directory, in a recorded spec the run's copy of the code."""

    @field_validator("name")
    @classmethod
    def _is_source(cls, name: str) -> str:
        model_source(name, "model.name")
        return name

    @field_validator("loss")
    @classmethod
    def _is_source_of_loss(cls, loss: str) -> str:
        if loss:
            callable_source(loss, "model.loss")
        return loss

    @property
    def loss_source(self) -> Source | None:
        """The callable that returns the loss.

        Raises:
            SpecError: its file is in another folder than the model's.
        """
        if not self.loss:
            return None
        source = callable_source(self.loss, "model.loss", self.folder)
        places = [each.folder if each.path else None for each in (self.source, source)]
        if places[0] != places[1]:
            where = f"a file in {places[0]}" if places[0] else "package.module:CALLABLE, as is model.name"
            raise SpecError("model.loss", f"must be {where}, but got {self.loss!r}; import it there")
        return source

    @property
    def source(self) -> Source:
        """The callable."""
        return model_source(self.name, "model.name", self.folder)


class UserModel(ModuleModel[UserModelOptions]):
    """A model from a user's own code. Its summary is found by building it once, in a process of its own."""

    Options = UserModelOptions
    default_dataset = ""

    is_sliced: bool = False
    """Whether a strategy slices layers, so that a tensor plan is looked for."""

    has_experts: bool = False
    """Whether a strategy divides experts, so that mixtures are looked for."""

    def __init__(self, options: UserModelOptions, data: DatasetSummary) -> None:
        super().__init__(options, data)
        self.name = options.source.label  # type: ignore[misc]  # each has its own

    @cached_property
    def inspection(self) -> Inspection[Found]:
        """What was found in the model, and its code.

        Raises:
            SpecError: it cannot be built or used.
        """
        from workbench.models.user.inspection import inspect

        return inspect(self.options, self.data, purpose=self.purpose)

    @property
    def purpose(self) -> Purpose:
        """What the run does with it, as far as the inspection depends on it."""
        from workbench.models.user.inspection import Purpose

        return Purpose(self.is_sliced, self.has_context, self.generates, self.has_experts)

    def summary(self) -> ModelSummary:
        summary, plan, sequence = self.found.summary, self.found.tensor_plan, self.found.sequence
        if plan is not None:
            summary = replace(summary, groups=plan.groups)
        if self.has_experts and self.found.experts is not None:
            summary = with_experts(summary, self.found.experts)
        if sequence is None or not self.has_context:
            return summary
        length = None if sequence.refusal else self.data.input_shape[0]
        blocks = [b if b.crossing is None or b.name in sequence.cuts else replace(b, crossing=()) for b in summary.blocks]
        return replace(summary, blocks=tuple(blocks), sequence=sequence, sequence_length=length, kept=None)

    @property
    def found(self) -> Found:
        """What is known of it without building it.

        Raises:
            SpecError: it cannot be built or used.
        """
        found = self.inspection.found
        assert found is not None, "a refused model raises"
        return found

    def experts_found(self) -> ExpertSplit | None:
        """Returns which of its mixtures of experts can be divided over workers, for ``workbench inspect``.

        Raises:
            SpecError: it cannot be built or used.
        """
        from workbench.models.user.inspection import inspect

        found = inspect(self.options, self.data, purpose=replace(self.purpose, has_experts=True)).found
        return None if found is None else found.experts

    @property
    def cut_at(self) -> tuple[str, ...]:
        return self.options.cut_at

    @cached_property
    def loss_function(self) -> LossFunction | None:
        source = self.options.loss_source
        if source is None:
            return None
        from workbench.models.user.loss_modules import checked_loss

        return checked_loss(source.load(), source)

    @property
    def takes_targets(self) -> bool:
        return bool(self.options.loss)

    def build(self) -> nn.Module:
        from workbench.models.user.inspect_modules import module_of

        source = self.options.source
        module = module_of(built(source, self.options.options, "model.options"), source.label)
        check_classes(module, self.data)
        return module

    def failed_on_samples(self, error: Exception) -> SpecError:
        source = self.options.source
        doing = f"the forward pass of {source.label} over two samples of {self.data.kind}"
        return SpecError(source.field, failure_text(error, doing, source.folder, source.path))
