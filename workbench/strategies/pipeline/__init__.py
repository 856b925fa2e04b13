"""Pipeline parallelism: stages on different workers compute different microbatches at the same time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PositiveInt, SerializeAsAny, ValidationError, model_validator

from workbench.errors import SplitError
from workbench.messages import unknown_name
from workbench.registry import SCHEDULES
from workbench.spec.options import AppliesIf, Options, ReadsFile, spec_error
from workbench.strategies.base import Limiting, strategy
from workbench.strategies.pipeline.stages import StagedOptions, StagedStrategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.model_summary import ModelSummary
    from workbench.plan.placement import Placement
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

    actions: Annotated[tuple[str, ...], AppliesIf("schedule", ("csv",))] = ()
    """Rows of schedule_file, stored so that the recorded spec runs again without the file."""

    schedule_options: SerializeAsAny[Options] | None = None
    """Table of the options of the schedule, which can also be given next to those of the pipeline. `workbench schedules` lists
    them."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_schedule_options(cls, values: Any) -> Any:
        """Validates the options of the schedule, given in their table or beside those of the pipeline."""
        if not isinstance(values, dict):
            return values
        name = values.get("schedule", cls.model_fields["schedule"].default)
        plugin = SCHEDULES.get(name, "split.pipeline.schedule").Options
        table, field = values.get("schedule_options"), "split.pipeline.schedule_options"
        if isinstance(table, Options):
            table = dict(table) if isinstance(table, plugin) else {}  # drop the options of a previous schedule
        if not isinstance(table, dict | None):
            raise SplitError(field, f"must be a table of options of the schedule, but got {table!r}")
        table = dict(table or {})
        inline_options = {key: value for key, value in values.items() if key not in cls.model_fields}
        allowed = [*cls.model_fields, *plugin.model_fields]
        for key in inline_options:
            if key not in plugin.model_fields:
                raise SplitError(f"split.pipeline.{key}", unknown_name("key", key, allowed))
        for key in table:
            if key not in plugin.model_fields:
                raise SplitError(f"{field}.{key}", unknown_name(f"option of {name}", key, list(plugin.model_fields)))
        try:
            schedule_options = plugin.model_validate({**table, **inline_options}) if plugin.model_fields else None
        except ValidationError as error:
            raise spec_error(error, "split.pipeline") from None
        return {**{key: value for key, value in values.items() if key in cls.model_fields}, "schedule_options": schedule_options}

    @model_validator(mode="before")
    @classmethod
    def _read_schedule_file(cls, values: Any) -> Any:
        """Replaces the name of a schedule file by its rows."""
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

    Generation alternates between the microbatches, whatever the schedule (``generation.py``).
    """

    Options = PipelineOptions
    lessons = ("lesson.md",)
    lesson_order = 2

    @classmethod
    def plain_options(cls, size: int) -> dict[str, Any]:
        """Returns as many microbatches as stages, if the default is fewer: 1F1B requires them."""
        return {"size": size, "num_microbatches": max(size, cls.Options().num_microbatches)}

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
        schedule_options = {key: getattr(o.schedule_options, key) for key, field in fields.items()}
        return label + "".join(f"-{key}{value}" for key, value in schedule_options.items() if value != fields[key].default)

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

    def place(self, model: ModelSummary, index: int) -> Placement:
        schedule, placement = self.schedule, super().place(model, index)
        return replace(placement, in_flight=schedule.in_flight(index), outputs_kept=schedule.outputs_kept(index))

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        if self.options.actions and self.options.schedule != "csv":
            raise SplitError(
                "split.pipeline.schedule_file", f'requires schedule = "csv", but schedule = "{self.options.schedule}"'
            )
        self.check_num_stages(model, self.options.size)  # first: what a schedule suggests would need as many blocks
        self.schedule.check(spec)
        super().check(model, spec)
        self._check_crossing(model, spec)
        self.schedule.check_pieces(model, spec)

    def _check_crossing(self, model: ModelSummary, spec: RunSpec) -> None:
        """Rejects split backward passes of stages between which several tensors cross: torch's fail there (torch 2.13)."""
        if spec.mode != "train" or not self.schedule.splits_backward:
            return
        of_block = {block.name: block for block in model.blocks}
        for blocks in self.stages(model)[:-1]:
            if (number := len(of_block[blocks[-1]].crossing_shapes)) > 1:
                raise SplitError(
                    "split.pipeline.schedule",
                    f"{self.options.schedule} splits backward passes, which torch supports only where one tensor crosses each"
                    f" cut, but {number} cross that of {model.name} after {blocks[-1]}; use 1f1b, or cut elsewhere",
                )

    def connect(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        import torch
        from torch import Tensor, nn

        from workbench.plan.batch_modules import num_samples, pieces
        from workbench.strategies.pipeline.torch_stage import RecordedStage
        from workbench.strategies.worker_model import StepResult

        index, worker_by_stage = mesh.get_local_rank(), self.worker_of_stage
        names, last = self.stages(worker.full_model), len(worker_by_stage) - 1
        local_stages = [stage for stage, holder in enumerate(worker_by_stage) if holder == index]
        worker.stages = [worker.blocks.part(names[stage]) for stage in local_stages]

        def outputs_like(stage: int) -> tuple[Tensor, ...]:
            """Returns meta tensors like a microbatch of the outputs of a stage."""
            has_gradient = worker.trains and self.receives_gradients(worker.full_model, stage)
            outputs = []
            for shape_of_sample in worker.crossing_shapes(names[stage][-1]):
                shape = [worker.batch_size, *shape_of_sample]
                shape[self.cut_dim] //= self.num_microbatches
                outputs.append(torch.empty(shape, dtype=worker.compute_dtype, device="meta", requires_grad=has_gradient))
            if stage == last and worker.trains and worker.full_model.loss_reduction is not None:
                dtype = torch.promote_types(worker.compute_dtype, torch.float32)
                outputs.append(torch.empty((), dtype=dtype, device="meta", requires_grad=has_gradient))
            return tuple(outputs)

        def begin_chunk(chunk: int) -> None:
            length = worker.output_shape(names[0][-1])[0] // self.num_microbatches
            positions = torch.arange(chunk * length, (chunk + 1) * length, device=worker.device)
            worker.dropout_keys.begin_piece(0, 1, positions)

        def make_stage(stage: int, module: nn.Module) -> RecordedStage:
            # With static shapes torch does not exchange shapes in the first step. The first stage receives no input.
            inputs_like = outputs_like(stage - 1) if stage > 0 else (torch.empty(1, device="meta"),)
            stage_module = RecordedStage(
                module,
                stage,
                len(worker_by_stage),
                worker.device,
                input_args=inputs_like,
                output_args=outputs_like(stage),
                group=mesh.get_group(),
            )
            stage_module.recorder, stage_module.inputs_like = worker.recorder, inputs_like
            stage_module.splits_backward = worker.trains and self.schedule.splits_backward
            stage_module.begin_piece = worker.begin_piece if self.cut_dim == 0 else begin_chunk
            if worker.trains and self.schedule.splits_backward and stage > 0:
                previous_has_gradient = self.receives_gradients(worker.full_model, stage - 1)
                stage_module.needs_input_gradients = not previous_has_gradient and self.receives_gradients(
                    worker.full_model, stage
                )
            return stage_module

        stages = [make_stage(stage, module) for stage, module in zip(local_stages, worker.stages, strict=True)]

        @cache
        def shared() -> list[nn.Parameter]:
            """Returns the parameters of several stages; only complete once the other strategies are applied."""
            counts = Counter(p for stage in worker.stages for p in stage.parameters())
            return [p for p, count in counts.items() if count > 1]

        for stage_module in stages:
            stage_module.shared = shared

        kept: dict[int, Tensor] = {}
        target_pieces: list[Any] = []

        def loss(outputs: Any, target: Tensor) -> Tensor:
            microbatch = stages[-1].microbatch
            with worker.span("forward", stage=last, microbatch=microbatch, name="loss"):
                if worker.keep_outputs:
                    kept[microbatch] = worker.main_output(outputs).detach()
                return worker.piece_loss(outputs, target_pieces[microbatch])

        schedule = self.schedule.build(stages, loss if worker.trains else None)

        def run_schedule(inputs: Any, targets: Any) -> StepResult:
            for stage_module in stages:
                stage_module.pieces = pieces(inputs, self.num_microbatches, self.cut_dim)
            # torch cuts single tensors only; of others a stage takes its piece by number.
            numbers = torch.arange(num_samples(inputs), device=worker.device)
            whole = inputs if isinstance(inputs, Tensor) else numbers
            first = (whole,) if local_stages[0] == 0 else ()
            if first:
                stages[0].inputs_meta = (whole.chunk(self.num_microbatches, self.cut_dim)[0].to("meta"),)
            if last not in local_stages:
                schedule.step(*first, return_outputs=False)
                return StepResult(None, None)
            if not worker.trains:
                return StepResult(None, schedule.step(*first).detach())
            losses: list[Tensor] = []
            target_pieces[:] = pieces(targets, self.num_microbatches, self.cut_dim)
            schedule.step(*first, target=targets if isinstance(targets, Tensor) else numbers, losses=losses, return_outputs=False)
            target_pieces.clear()
            outputs = torch.cat([kept.pop(microbatch) for microbatch in sorted(kept)], self.cut_dim) if kept else None
            return StepResult(torch.stack(losses).mean().detach(), outputs)

        def step(inputs: Any, targets: Any) -> StepResult:
            result = run_schedule(inputs, targets)
            for parameter in shared():
                if parameter.grad is not None:
                    parameter.grad.div_(self.num_microbatches)
            return result

        if self.cut_dim == 0:  # otherwise every microbatch has all samples
            worker.num_microbatches = self.num_microbatches
        worker.compute = step
