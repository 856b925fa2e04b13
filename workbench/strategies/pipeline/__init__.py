"""Pipeline parallelism: stages on different workers work at the same time on different microbatches."""

from __future__ import annotations

from collections import Counter, OrderedDict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PositiveInt, SerializeAsAny, ValidationError, model_validator

from workbench.errors import SplitError
from workbench.registry import SCHEDULES, unknown
from workbench.spec.options import Options, ReadsFile, spec_error
from workbench.strategies.base import Limiting, strategy
from workbench.strategies.pipeline.stages import StagedOptions, StagedStrategy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.model_summary import ModelSummary
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.pipeline.schedules.base import Schedule
    from workbench.strategies.worker_model import WorkerModel


class PipelineOptions(StagedOptions):
    schedule: Annotated[str, SCHEDULES] = "1f1b"
    """Schedule of the microbatches; `workbench schedules` lists the schedules."""

    num_microbatches: PositiveInt = 4
    """Number of microbatches, equal parts of the batch (or of the sequence, if the schedule cuts that). More microbatches reduce
    the bubble, (p−1)/(m+p−1) of the time for p stages and m microbatches."""

    stages_per_worker: PositiveInt | None = None
    """Number of stages per worker; the default is the schedule's own, one or two."""

    schedule_file: Annotated[str, ReadsFile] = ""
    """File of the schedule `csv`, with one row per worker that lists its actions in order, such as 0F0,0F1,0B0,0B1."""

    actions: tuple[str, ...] = ()
    """Rows of schedule_file, stored so that the recorded spec runs again without the file."""

    schedule_options: SerializeAsAny[Options] | None = None
    """Table of the options of the schedule, which can also be given next to those of the pipeline. `workbench schedules` lists
    them."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_schedule_options(cls, values: Any) -> Any:
        """Options of the schedule, given in their table or beside the pipeline's own, become an object of its class."""
        if not isinstance(values, dict):
            return values
        name = values.get("schedule", cls.model_fields["schedule"].default)
        plugin = SCHEDULES.get(name, "split.pipeline.schedule").Options
        table, where = values.get("schedule_options"), "split.pipeline.schedule_options"
        if isinstance(table, Options):
            table = dict(table) if isinstance(table, plugin) else {}  # of the schedule before, where another one is chosen
        if not isinstance(table, dict | None):
            raise SplitError(where, f"must be a table of options of the schedule, but got {table!r}")
        table = dict(table or {})
        given = {key: value for key, value in values.items() if key not in cls.model_fields}
        allowed = [*cls.model_fields, *plugin.model_fields]
        for key in given:
            if key not in plugin.model_fields:
                raise SplitError(f"split.pipeline.{key}", unknown("key", key, allowed))
        for key in table:
            if key not in plugin.model_fields:
                raise SplitError(f"{where}.{key}", unknown(f"option of {name}", key, list(plugin.model_fields)))
        try:
            own = plugin.model_validate({**table, **given}) if plugin.model_fields else None
        except ValidationError as error:
            raise spec_error(error, "split.pipeline") from None
        return {**{key: value for key, value in values.items() if key in cls.model_fields}, "schedule_options": own}

    @model_validator(mode="before")
    @classmethod
    def _read_schedule_file(cls, values: Any) -> Any:
        """A file that is named replaces the rows; what is kept are the rows alone."""
        if not isinstance(values, dict) or not values.get("schedule_file"):
            return values
        path = Path(str(values["schedule_file"]))
        try:
            rows = path.read_text(encoding="utf-8").rstrip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise SplitError("split.pipeline.schedule_file", f"cannot read {path} ({reason})") from None
        return {**values, "schedule_file": "", "actions": rows}


@strategy("pipeline")
class PipelineStrategy(StagedStrategy[PipelineOptions]):
    """Pipeline parallelism: places stages of consecutive blocks on different workers and feeds them with microbatches
    (torch.distributed.pipelining).

    A generation takes turns over the microbatches, whatever the schedule (``generation.py``).
    """

    Options = PipelineOptions
    lessons = ("lesson.md",)
    lesson_order = 2

    @property
    def schedule(self) -> Schedule:
        """The schedule for this many stages and microbatches."""
        plugin = SCHEDULES.get(self.options.schedule, "split.pipeline.schedule")
        return plugin(self.options)

    @property
    def label(self) -> str:
        o = self.options
        label = f"pp{o.size}-{o.schedule}-m{o.num_microbatches}"
        label += "" if o.stages_per_worker is None else f"-v{o.stages_per_worker}"
        fields = type(o.schedule_options).model_fields if o.schedule_options is not None else {}
        own = {key: getattr(o.schedule_options, key) for key, field in fields.items()}
        return label + "".join(f"-{key}{value}" for key, value in own.items() if value != fields[key].default)

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        if (limit, axis) != ("bubble", self.axis):
            return super().advice(limit, axis, spec)
        smaller = (
            " or a schedule with a smaller bubble (zbv_zero_bubble), if it saves more than its extra work costs"
            if spec.mode == "train" and self.num_microbatches > 1
            else ""
        )
        return f"Try more microbatches than {self.num_microbatches}{smaller}."

    @property
    def num_microbatches(self) -> int:
        return self.options.num_microbatches

    @property
    def cut_dim(self) -> int:
        return self.schedule.cut_dim

    @property
    def worker_of_stage(self) -> list[int]:
        return self.schedule.worker_of_stage()

    @property
    def action_rows(self) -> list[str]:
        from workbench.strategies.pipeline.schedules.to_csv import rows_of  # imports torch, which takes seconds

        return rows_of(self.schedule)

    @property
    def gathers_stages(self) -> bool:
        return self.schedule.gathers_stages

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        return self.schedule.gathers(stage, trains)

    def in_flight(self, index: int) -> int | None:
        return self.schedule.in_flight(index)

    def outputs_kept(self, index: int) -> int:
        return self.schedule.outputs_kept(index)

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        if self.options.actions and self.options.schedule != "csv":
            raise SplitError(
                "split.pipeline.schedule_file", f'requires schedule = "csv", but schedule = "{self.options.schedule}"'
            )
        self.schedule.check(spec)
        super().check(model, spec)
        self.schedule.check_pieces(model, spec)

    def connect(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        import torch
        from torch import nn

        from workbench.strategies.pipeline.torch_stage import RecordedStage
        from workbench.strategies.worker_model import StepResult

        here, worker_of, held = mesh.get_local_rank(), self.worker_of_stage, dict(worker.blocks.named_children())
        names, last = self.stages(worker.summary), len(worker_of) - 1
        mine = [stage for stage, holder in enumerate(worker_of) if holder == here]
        worker.stages = [nn.Sequential(OrderedDict((name, held[name]) for name in names[stage])) for stage in mine]

        def like(stage: int) -> Tensor:
            """A microbatch of what this stage hands on, with a shape and no data."""
            shape = [worker.batch_size, *worker.output_shape(names[stage][-1])]
            shape[self.cut_dim] //= self.num_microbatches
            goes_back = worker.trains and self.receives_gradients(worker.summary, stage)
            return torch.empty(shape, dtype=worker.compute_dtype, device="meta", requires_grad=goes_back)

        def begin_chunk(chunk: int) -> None:
            length = worker.output_shape(names[0][-1])[0] // self.num_microbatches
            positions = torch.arange(chunk * length, (chunk + 1) * length, device=worker.device)
            worker.dropout_keys.begin_piece(0, 1, positions)

        def stage_of(stage: int, module: nn.Module) -> RecordedStage:
            # Static shapes spare the exchange of shapes in the first step; the first stage's input has none to receive.
            input_like = like(stage - 1) if stage > 0 else torch.empty(1, device="meta")
            made = RecordedStage(
                module,
                stage,
                len(worker_of),
                worker.device,
                input_args=input_like,
                output_args=like(stage),
                group=mesh.get_group(),
            )
            made.recorder, made.input_like = worker.recorder, input_like
            made.splits_backward = worker.trains and self.schedule.splits_backward
            made.begin_piece = worker.begin_piece if self.cut_dim == 0 else begin_chunk
            if worker.trains and self.schedule.splits_backward and stage > 0:
                goes_on = self.receives_gradients(worker.summary, stage - 1)
                made.needs_input_gradients = not goes_on and self.receives_gradients(worker.summary, stage)
            return made

        stages = [stage_of(stage, module) for stage, module in zip(mine, worker.stages, strict=True)]

        @cache
        def shared() -> list[nn.Parameter]:
            """What several stages hold; known once other strategies have put their parameters in place."""
            counts = Counter(p for stage in worker.stages for p in stage.parameters())
            return [p for p, count in counts.items() if count > 1]

        for made in stages:
            made.shared = shared

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            with worker.span("forward", stage=last, microbatch=stages[-1].microbatch, name="loss"):
                return worker.piece_loss(outputs, targets)

        schedule = self.schedule.build(stages, loss if worker.trains else None)

        def pass_on(inputs: Tensor, targets: Tensor) -> StepResult:
            first = (inputs,) if mine[0] == 0 else ()
            if last not in mine:
                schedule.step(*first, return_outputs=False)
                return StepResult(None, None)
            if not worker.trains:
                return StepResult(None, schedule.step(*first).detach())
            losses: list[Tensor] = []
            outputs = schedule.step(*first, target=targets, losses=losses, return_outputs=worker.keep_outputs)
            return StepResult(torch.stack(losses).mean().detach(), None if outputs is None else outputs.detach())

        def step(inputs: Tensor, targets: Tensor) -> StepResult:
            result = pass_on(inputs, targets)
            for parameter in shared():
                if parameter.grad is not None:
                    parameter.grad.div_(self.num_microbatches)
            return result

        if self.cut_dim == 0:  # else each piece is of the whole batch
            worker.num_microbatches = self.num_microbatches
        worker.compute = step
