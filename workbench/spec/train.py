"""Options of training: steps, batch, optimizer, learning rate and precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from workbench.messages import listed
from workbench.registry import is_source
from workbench.spec.options import AppliesIf, Choices, NoCost, Options, OwnCode

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp64": 8}
_Rate = Annotated[float, Field(ge=0, lt=1)]
_TRAINING = AppliesIf("mode", ("train",))
_ADAM = AppliesIf("optimizer", ("adam", "adamw"))
_DECAYS = AppliesIf("lr_schedule", ("linear", "cosine"))


@dataclass(frozen=True)
class OptimizerSource:
    """A user's own optimizer, ``train={"optimizer": …}``: the values of the keys that name it."""

    optimizer: str
    optimizer_folder: str = ""
    optimizer_options: dict[str, Any] = field(default_factory=dict)


class Train(Options):
    """Training options; equal in all splits that are compared."""

    num_steps: Annotated[PositiveInt, NoCost] = 20
    """Number of timed steps. Warm-up, trace and memory steps are additional."""

    num_warmup_steps: Annotated[NonNegativeInt, NoCost] = 3
    """Number of steps before the timed steps; they are excluded from all figures."""

    global_batch_size: PositiveInt = 16
    """Number of samples per step over all workers."""

    optimizer: Annotated[str, Choices(OPTIMIZERS), _TRAINING] = "adamw"
    """Optimizer: SGD without momentum (sgd), SGD with momentum 0.9 (momentum), Adam or AdamW, with torch's defaults. Or a
    callable that returns an optimizer of named parameters: PATH.py:CALLABLE or package.module:CALLABLE, such as
    torch.optim:RMSprop."""

    optimizer_options: Annotated[dict[str, JsonValue], OwnCode] = {}
    """Keyword arguments of such a callable. learning_rate is its argument lr, if it takes one and this has none."""

    optimizer_folder: Annotated[str, NoCost, OwnCode] = ""
    """Folder from which PATH.py starts; by default the current directory, in a recorded spec the run's copy of the code."""

    learning_rate: Annotated[PositiveFloat, NoCost, _TRAINING] = 1e-3
    """Base learning rate; lr_schedule scales it."""

    weight_decay: Annotated[NonNegativeFloat | None, _TRAINING] = None
    """Weight decay: decoupled for adamw, an L2 penalty otherwise. The default is torch's: 0.01 for adamw, else 0."""

    decay_norms_and_biases: Annotated[bool, _TRAINING] = True
    """Whether weight decay also applies to norms and biases: parameters with fewer than two dims or named bias."""

    momentum: Annotated[_Rate | None, AppliesIf("optimizer", ("sgd", "momentum")), _TRAINING] = None
    """Momentum of SGD; the default is 0.9 for the optimizer momentum and 0 for sgd."""

    betas: Annotated[tuple[_Rate, _Rate] | None, NoCost, _ADAM, _TRAINING] = None
    """Decay rates of Adam's two moments, such as [0.9, 0.95]; the default is [0.9, 0.999]."""

    epsilon: Annotated[PositiveFloat | None, NoCost, _ADAM, _TRAINING] = None
    """Term added to Adam's denominator for numerical stability; the default is 1e-8."""

    lr_schedule: Annotated[Literal["constant", "linear", "cosine"], NoCost, _TRAINING] = "constant"
    """Learning rate after the warm-up: constant, or decayed linearly or with a cosine to min_lr_ratio × learning_rate."""

    num_lr_warmup_steps: Annotated[NonNegativeInt, NoCost, _TRAINING] = 0
    """Number of steps at the start of the run over which the learning rate rises linearly, whether timed or not."""

    num_lr_decay_steps: Annotated[PositiveInt | None, NoCost, _DECAYS, _TRAINING] = None
    """Number of steps after the learning rate warm-up over which it decays; by default until the last timed step."""

    min_lr_ratio: Annotated[float, Field(ge=0, le=1), NoCost, _DECAYS, _TRAINING] = 0.0
    """Final learning rate of the decay, as a fraction of learning_rate."""

    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Dtype of parameters, activations, gradients and optimizer state."""

    mixed_precision: Annotated[Literal["none", "bf16"], _TRAINING] = "none"
    """Dtype of the forward and backward computation, which uses copies of the fp32 parameters. Gradients are accumulated and
    reduced, and parameters updated, in fp32."""

    max_gradient_norm: Annotated[PositiveFloat | None, _TRAINING] = None
    """Maximum norm of the gradients, computed over all parameters of all workers; by default, gradients are not clipped."""

    checkpointing: Annotated[Literal["none", "full", "selective"], _TRAINING] = "none"
    """Activation checkpointing: recompute no activations in the backward pass (none), all inside each block (full), or all inside
    each block except the outputs of matrix products (selective)."""

    compile: bool = False
    """Whether to compile each block with torch.compile."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1), NoCost] = 0
    """Random seed of the initial parameters and of the sample order."""

    @model_validator(mode="before")
    @classmethod
    def _unpack_source(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(source := values.get("optimizer"), OptimizerSource):
            return {**values, **vars(source)}
        return values

    @field_validator("optimizer")
    @classmethod
    def _is_optimizer(cls, name: str) -> str:
        if name not in OPTIMIZERS and not is_source(name):
            own = "a callable of your own as PATH.py:CALLABLE"
            raise ValueError(f"must be {listed([*map(repr, OPTIMIZERS), own], 'or')}")
        return name

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of a parameter, a gradient or the optimizer's state."""
        return _ELEMENT_BYTES[self.precision]

    @property
    def compute_precision(self) -> str:
        """Number format of activations and of the parameters in computation."""
        return self.precision if self.mixed_precision == "none" else self.mixed_precision

    @property
    def compute_bytes(self) -> int:
        """Bytes of one element of an activation, or of a parameter in computation."""
        return _ELEMENT_BYTES[self.compute_precision]
