"""The spec: everything that decides a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from workbench.errors import SpecError
from workbench.registry import DATASETS, MODELS, Family
from workbench.spec.link import Link
from workbench.spec.options import DatasetOptions, ModelOptions, Options, PluginOptions, spec_error
from workbench.spec.split import Split

DEFAULT_MODEL = "transformer"


_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp64": 8}


class Train(Options):
    """How the model is trained. The same in every split that is compared."""

    num_steps: PositiveInt = 20
    """Timed steps; warm-up, trace and memory steps are extra."""

    num_warmup_steps: NonNegativeInt = 3
    """Steps before the timed ones; they count for nothing."""

    global_batch_size: PositiveInt = 16
    """Samples per step over all workers."""

    optimizer: Literal["sgd", "momentum", "adam", "adamw"] = "adamw"
    """SGD without momentum or with 0.9 of it, Adam or AdamW; the options below default to torch's."""

    learning_rate: PositiveFloat = 1e-3
    """Learning rate, which the schedule multiplies."""

    weight_decay: NonNegativeFloat | None = None
    """Weight decay, decoupled with adamw and an L2 penalty with the others; by default torch's, 0.01 for adamw, else 0."""

    decay_norms_and_biases: bool = True
    """Whether weight decay also applies to norms and biases: parameters of fewer than two dims, or called bias."""

    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Momentum of SGD; by default 0.9 for the optimizer momentum and 0 for sgd."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] | None = None
    """Decay rates of Adam's two moments, such as [0.9, 0.95]; by default 0.9 and 0.999."""

    epsilon: PositiveFloat | None = None
    """What Adam adds to the denominator; by default 1e-8."""

    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate changes after its warm-up: not at all, or to min_lr_ratio of it by a line or half a cosine."""

    num_lr_warmup_steps: NonNegativeInt = 0
    """First steps of the run over which the learning rate rises linearly, whether they are timed or not."""

    num_lr_decay_steps: PositiveInt | None = None
    """Steps after the rise over which a linear or cosine schedule decays; by default up to the last timed step."""

    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Learning rate at the end of the decay, as a fraction of learning_rate."""

    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
    """Number format of parameters, activations, gradients and optimizer state."""

    mixed_precision: Literal["none", "bf16"] = "none"
    """Number format that blocks compute in, with copies of fp32 parameters; gradients are accumulated and reduced, and
    parameters updated, in fp32."""

    max_gradient_norm: PositiveFloat | None = None
    """Gradients are scaled down to this norm, taken over all of them on all workers; by default they are not."""

    checkpointing: Literal["none", "full", "selective"] = "none"
    """Activations that backward computes again instead of keeping: none, those inside each block (full), or those inside
    that are cheap, all but the outputs of matrix products (selective)."""

    compile: bool = False
    """Whether each block is compiled (torch.compile)."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Decides initial parameters and the order of samples."""

    @property
    def element_bytes(self) -> int:
        """Bytes of one element of a parameter, a gradient or the optimizer's state."""
        return _ELEMENT_BYTES[self.precision]

    @property
    def compute_precision(self) -> str:
        """Number format of activations, and of the parameters that they are computed with."""
        return self.precision if self.mixed_precision == "none" else self.mixed_precision

    @property
    def compute_bytes(self) -> int:
        """Bytes of one element of an activation, or of a parameter as it is computed with."""
        return _ELEMENT_BYTES[self.compute_precision]


class Inference(Options):
    """What an inference run computes of each sample; nothing else is run than forward passes."""

    prompt_length: PositiveInt = 16
    """Tokens of each sample that are given before others are generated; of no meaning where none are."""

    num_new_tokens: NonNegativeInt = 0
    """Tokens generated after the prompt, the likeliest each time, with a cache of keys and values. 0: one plain forward
    pass over whole samples."""

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Forward passes of a generation, as (positions of a sample in each, how many): the prompt, then each new token but
        the last, which nothing follows."""
        return [(self.prompt_length, 1), (1, self.num_new_tokens - 1)]


_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _in_bytes(given: Any) -> Any:
    """``"64MiB"`` → 67108864; what has no unit stays as it is.

    Raises:
        ValueError: a text that is neither.
    """
    unit = _UNITS.get(given[-3:]) if isinstance(given, str) else None
    number = given[:-3].strip() if unit else ""
    if unit and number.replace(".", "", 1).isdecimal():
        return int(float(number) * unit)
    if isinstance(given, str) and not given.isdecimal():
        raise ValueError(
            f"{given!r} is no number of bytes; allowed: a whole number, or one with {', '.join(_UNITS)}, such as 64MiB"
        )
    return given


class Measure(Options):
    """What is recorded beside the timed steps."""

    num_trace_steps: NonNegativeInt = 3
    """Steps on which every communication and computation is recorded with its times; 0: figures that stand on them are empty."""

    num_memory_steps: NonNegativeInt = 1
    """Steps on which every tensor alive is tracked; never the trace steps. 0: figures that stand on them are empty."""

    torch_profiler: bool = False
    """One more step, after all others, whose trace by torch.profiler each worker writes into the run's directory."""

    memory_budget_bytes: Annotated[PositiveInt, BeforeValidator(_in_bytes)] | None = None
    """What a worker may have alive at once, also "64MiB" or "2GiB"; a run that takes more fails, as on a device of that size.
    By default no limit. The parity check, before, is not subject to it."""

    parity: bool = True
    """Before the run, check on a copy that the split computes what one worker computes. Off for models too large for one."""

    num_parity_steps: PositiveInt = 2
    """SGD steps that the parity check takes."""

    parity_precision: Literal["fp32", "bf16", "fp64"] = "fp64"
    """Number format of the parity check; bf16 checks train.mixed_precision too, both sides mixed, and the others do not."""

    peak_flops_per_s: PositiveFloat | None = None
    """What the data sheet says one worker's device computes at most, beside what `workbench calibrate` measured."""


class Baseline(Options):
    """The run on one worker that this one is compared with."""

    mode: str = "auto"
    """``auto`` (run once, reused while it matches), ``none``, or a run's id."""


class Launch(Options):
    """Where and how the workers run."""

    launcher: Literal["local"] = "local"
    """``local``: processes on this machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` and ``cpu``: CPU processes. ``cuda``: one GPU per worker, which has not been tested on hardware."""

    threads_per_worker: PositiveInt = 1
    """Threads that each worker computes with on CPU."""

    timeout_s: PositiveFloat = 300.0
    """A worker that waits longer than this for another has hung; the run then fails and names who was waited for."""


def _plugin(family: Family, base: type[PluginOptions]) -> BeforeValidator:
    """Turns ``"name"`` or ``{"name": …, option: …}`` into the plugin's own options."""

    def resolve(given: Any) -> PluginOptions:
        if isinstance(given, base):
            return given
        if isinstance(given, str):
            given = {"name": given}
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            raise SpecError(f"{family.kind}.name", f"give the {family.kind}'s name; allowed: {', '.join(family.names())}")
        plugin = family.get(given["name"], f"{family.kind}.name")
        try:
            return plugin.Options.model_validate(given)  # type: ignore[no-any-return]
        except ValidationError as error:
            raise spec_error(error, family.kind) from None

    return BeforeValidator(resolve)


class RunSpec(Options):
    """Everything that decides a run; every part has a default.

    ``RunSpec(model="mlp", split={"data": 2}, train={"num_steps": 5})``

    Raises:
        SpecError: a key is unknown or a value is not allowed; one sentence with the key's path.
    """

    schema_version: Literal[1] = 1
    """Version of this format."""

    name: str = ""
    """A label; the run's id is generated."""

    mode: Literal["train", "inference"] = "train"
    """What is run: ``train`` (forward, backward, optimizer) or ``inference`` (forward only)."""

    model: Annotated[SerializeAsAny[ModelOptions], _plugin(MODELS, ModelOptions)]
    """The model and its options."""

    dataset: Annotated[SerializeAsAny[DatasetOptions], _plugin(DATASETS, DatasetOptions)]
    """The dataset and its options; by default the one that the model or its preset names."""

    split: Split = Field(default_factory=Split)
    """The strategies that the work is split by; none is one worker."""

    train: Train = Field(default_factory=Train)
    inference: Inference = Field(default_factory=Inference)
    measure: Measure = Field(default_factory=Measure)
    baseline: Baseline = Field(default_factory=Baseline)
    launch: Launch = Field(default_factory=Launch)
    link: Link = Field(default_factory=Link)
    files: dict[str, str] | None = None
    """SHA-256 of the files that options name, by the option's path, such as dataset.path. Filled in when a run is submitted: a
    recorded spec runs on the same contents alone."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise spec_error(error) from None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_model_and_dataset(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = {"model": DEFAULT_MODEL, **values}
        if isinstance(values["model"], dict):
            values["model"] = {"name": DEFAULT_MODEL, **values["model"]}
        given = values.get("dataset", {})
        if isinstance(given, dict) and "name" not in given:
            model = values["model"]
            if not isinstance(model, dict):
                model = {"name": getattr(model, "name", model), "preset": getattr(model, "preset", None)}
            plugin = MODELS.get(model["name"], "model.name")
            preset = plugin.Options.presets.get(str(model.get("preset")))
            default = preset.dataset if preset else plugin.default_dataset
            values["dataset"] = {**({"name": default} if isinstance(default, str) else default), **given}
        return values

    def __repr__(self) -> str:
        from workbench.spec.markup import spec_text

        return spec_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from workbench.spec.markup import spec_html

        return spec_html(self)

    @property
    def samples_per_replica(self) -> int:
        """Samples of a step that one replica of the model computes."""
        return self.train.global_batch_size // self.split.num_replicas

    @property
    def generates(self) -> bool:
        """Whether a step generates tokens."""
        return self.mode == "inference" and self.inference.num_new_tokens > 0

    def replace(self, **values: Any) -> RunSpec:
        """A copy with these parts (as in the constructor) in place of its own."""
        return RunSpec(**{**self.as_dict(), **values})

    def as_dict(self) -> dict[str, Any]:
        """Plain values with all defaults filled in, as the file has them."""
        return self.model_dump(mode="json", exclude_none=True)
