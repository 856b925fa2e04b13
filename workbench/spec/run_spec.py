"""The spec: everything that determines a run."""

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
from workbench.spec.options import AppliesIf, DatasetOptions, ModelOptions, NoCost, Options, PluginOptions, spec_error
from workbench.spec.split import Split
from workbench.spec.units import DURATION, FLOP_RATE, SIZE

DEFAULT_MODEL = "transformer"


_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp64": 8}


_Rate = Annotated[float, Field(ge=0, lt=1)]
_TRAINING = AppliesIf("mode", ("train",))
_INFERENCE = AppliesIf("mode", ("inference",))
_ADAM = AppliesIf("optimizer", ("adam", "adamw"))
_DECAYS = AppliesIf("lr_schedule", ("linear", "cosine"))


class Train(Options):
    """Training options; equal in all splits that are compared."""

    num_steps: Annotated[PositiveInt, NoCost] = 20
    """Number of timed steps. Warm-up, trace and memory steps are additional."""

    num_warmup_steps: Annotated[NonNegativeInt, NoCost] = 3
    """Number of steps before the timed steps; they are excluded from all figures."""

    global_batch_size: PositiveInt = 16
    """Number of samples per step over all workers."""

    optimizer: Annotated[Literal["sgd", "momentum", "adam", "adamw"], _TRAINING] = "adamw"
    """Optimizer: SGD without momentum (sgd), SGD with momentum 0.9 (momentum), Adam or AdamW. The defaults are torch's."""

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


class Inference(Options):
    """Inference options; such a run has only forward passes."""

    prompt_length: Annotated[PositiveInt, AppliesIf("num_new_tokens"), _INFERENCE] = 16
    """Number of tokens in the prompt, taken from each sample; only used if num_new_tokens > 0."""

    num_new_tokens: Annotated[NonNegativeInt, _INFERENCE] = 0
    """Number of tokens generated after the prompt by greedy decoding with a key/value cache. 0: one forward pass over whole
    samples without generation."""

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Forward passes of a generation, as (positions per sample, number of passes): the prompt, then each new token except the
        last."""
        return [(self.prompt_length, 1), (1, self.num_new_tokens - 1)]


class Measure(Options):
    """Options of the measurements besides the timed steps."""

    num_trace_steps: NonNegativeInt = 3
    """Number of steps that record the times of all communication and computation; 0 leaves the figures that need them empty."""

    num_memory_steps: NonNegativeInt = 1
    """Number of steps, separate from trace steps, that track all tensors; 0 leaves the figures that need them empty."""

    torch_profiler: bool = False
    """Whether to run one additional step under torch.profiler; each worker writes its trace to the run directory."""

    memory_budget_bytes: Annotated[PositiveInt, SIZE] | None = None
    """Memory limit per worker in bytes, or a size such as "64MiB" or "2GiB". A run that exceeds it fails, as on a device of that
    size. By default unlimited. It does not apply to the parity check."""

    parity: bool = True
    """Whether to check that the split computes what one worker computes. Disable if the model is too large for one worker."""

    num_parity_steps: Annotated[PositiveInt, AppliesIf("parity")] = 2
    """Number of SGD steps of the parity check."""

    parity_precision: Annotated[Literal["fp32", "bf16", "fp64"], AppliesIf("parity")] = "fp64"
    """Dtype of the parity check. Only bf16 also checks train.mixed_precision, with both sides in mixed precision."""

    max_other_load_cores: NonNegativeFloat = 0.2
    """Load of other programs during the timed steps, in cores, from which on the times count as disturbed."""

    max_calibration_age_days: PositiveFloat = 30.0
    """Age in days from which on a calibration of this machine counts as stale. Older ones mark utilisation."""

    peak_flops_per_s: Annotated[PositiveFloat, FLOP_RATE, Field(title="Peak FLOP/s of one device")] | None = None
    """Peak FLOP/s of one worker's device according to its data sheet, such as "19.5TFLOP/s"; reported next to the calibrated
    peak."""


class Baseline(Options):
    """The run on one worker that the run is compared with."""

    mode: str = "auto"
    """Baseline run: ``auto`` (run once and reused for matching specs), ``none`` or the id of a run."""


class Launch(Options):
    """Where and how the workers run."""

    launcher: Literal["local"] = "local"
    """Launcher that starts the workers. ``local``: processes on this machine."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the workers. ``auto`` and ``cpu``: CPU. ``cuda``: one GPU per worker, not tested on hardware."""

    fork_server: bool = True
    """Whether a resident process that has torch imported starts the run by forking; slower without. Linux only."""

    wait_for_quiet: bool = False
    """Whether the run starts only once other programs load the machine less than measure.max_other_load_cores."""

    threads_per_worker: PositiveInt = 1
    """Number of CPU threads per worker."""

    timeout_s: Annotated[PositiveFloat, DURATION] = 300.0
    """Timeout of communication in seconds, or with a unit such as "5min". If a worker waits longer for another, the run fails and
    names the missing worker."""


def _plugin(family: Family, base: type[PluginOptions]) -> BeforeValidator:
    """Converts ``"name"`` or ``{"name": …, option: …}`` to the options of the plugin."""

    def resolve(value: Any) -> PluginOptions:
        if isinstance(value, base):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise SpecError(f"{family.kind}.name", f"requires the name of a {family.kind}; allowed: {', '.join(family.names())}")
        plugin = family.get(value["name"], f"{family.kind}.name")
        try:
            return plugin.Options.model_validate(value)
        except ValidationError as error:
            raise spec_error(error, family.kind) from None

    return BeforeValidator(resolve)


class RunSpec(Options):
    """Everything that determines a run; every part has a default.

    ``RunSpec(model="mlp", split={"data": 2}, train={"num_steps": 5})``

    Raises:
        SpecError: a key is unknown or a value is not allowed; one sentence with the path of the key.
    """

    schema_version: Literal[1] = 1
    """Version of the spec format."""

    name: str = ""
    """Display name of the run; the run id is generated."""

    mode: Literal["train", "inference"] = "train"
    """Mode: ``train`` (forward, backward and optimizer step) or ``inference`` (forward only)."""

    model: Annotated[SerializeAsAny[ModelOptions], _plugin(MODELS, ModelOptions)]
    """The model and its options."""

    dataset: Annotated[SerializeAsAny[DatasetOptions], _plugin(DATASETS, DatasetOptions)]
    """The dataset and its options; the default is the dataset of the model or its preset."""

    split: Split = Field(default_factory=Split)
    """The strategies and their options; without strategies, the run has one worker."""

    train: Train = Field(default_factory=Train)
    inference: Inference = Field(default_factory=Inference)
    measure: Measure = Field(default_factory=Measure)
    baseline: Baseline = Field(default_factory=Baseline)
    launch: Launch = Field(default_factory=Launch)
    link: Link = Field(default_factory=Link)
    files: dict[str, str] | None = None
    """SHA-256 of the files that options name, by the option's path, such as dataset.path. Filled in when a run is submitted;
    a recorded spec only runs on the same contents."""

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
        dataset = values.get("dataset", {})
        if isinstance(dataset, dict) and "name" not in dataset:
            model = values["model"]
            if not isinstance(model, dict):
                model = {"name": getattr(model, "name", model), "preset": getattr(model, "preset", None)}
            plugin = MODELS.get(model["name"], "model.name")
            preset = plugin.Options.presets.get(str(model.get("preset")))
            default = preset.dataset if preset else plugin.default_dataset
            if not default:
                raise SpecError("dataset.name", f"{model['name']} has no default dataset; name one, such as digits or synthetic")
            values["dataset"] = {**({"name": default} if isinstance(default, str) else default), **dataset}
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
        """Number of samples per step of one replica of the model."""
        return self.train.global_batch_size // self.split.num_replicas

    @property
    def generates(self) -> bool:
        """Whether a step generates tokens."""
        return self.mode == "inference" and self.inference.num_new_tokens > 0

    def replace(self, **values: Any) -> RunSpec:
        """Returns a copy with these parts replaced, given as in the constructor."""
        return RunSpec(**{**self.as_dict(), **values})

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values with all defaults filled in, as in a file."""
        return self.model_dump(mode="json", exclude_none=True)
