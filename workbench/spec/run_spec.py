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
from workbench.spec.options import AppliesIf, DatasetOptions, ModelOptions, Options, PluginOptions, spec_error
from workbench.spec.split import Split
from workbench.spec.train import Train
from workbench.spec.units import DURATION, FLOP_RATE, SIZE

DEFAULT_MODEL = "transformer"


_INFERENCE = AppliesIf("mode", ("inference",))


class Inference(Options):
    """Inference options; such a run has only forward passes."""

    prompt_length: Annotated[PositiveInt, AppliesIf("num_new_tokens"), _INFERENCE] = 16
    """Number of tokens in the prompt, taken from each sample; only used if num_new_tokens > 0."""

    num_new_tokens: Annotated[NonNegativeInt, _INFERENCE] = 0
    """Number of tokens generated after the prompt by greedy decoding with a key/value cache. 0: one forward pass over whole
    samples without generation."""

    @property
    def num_cached(self) -> int:
        """Number of positions whose keys and values a cache holds at the end: the prompt and each new token except the last."""
        return self.prompt_length + self.num_new_tokens - 1


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
                such_as = "text" if str(model["name"]).startswith("hf:") else "digits"
                raise SpecError(
                    "dataset.name", f"{model['name']} has no default dataset; name one, such as {such_as} or synthetic"
                )
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
