"""Pipeline parallelism: stages on different workers work at the same time on different microbatches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveInt

from workbench.errors import SplitError
from workbench.registry import SCHEDULES
from workbench.strategies._staged import StagedOptions, StagedStrategy
from workbench.strategies.base import strategy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.summary import ModelSummary
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel


class PipelineOptions(StagedOptions):
    schedule: str = "1f1b"
    """The order in which microbatches run; `workbench schedules` lists them."""

    num_microbatches: PositiveInt = 4
    """Equal pieces of the batch; more of them shrink the bubble, (p−1)/(m+p−1) of the time for p stages."""


@strategy("pipeline")
class PipelineStrategy(StagedStrategy[PipelineOptions]):
    """Stages fed with microbatches (torch.distributed.pipelining); stages are cut from the model's blocks, never traced."""

    Options = PipelineOptions

    @property
    def label(self) -> str:
        return f"pp{self.options.size}-{self.options.schedule}-m{self.options.num_microbatches}"

    @property
    def num_microbatches(self) -> int:
        return self.options.num_microbatches

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        super().check(model, spec)
        batch, count = spec.train.global_batch_size, self.num_microbatches
        if batch % count:
            raise SplitError(
                "split.pipeline.num_microbatches",
                f"a batch of {batch} does not divide into {count} microbatches, {batch % count} samples would be over",
            )
        schedule = SCHEDULES.get(self.options.schedule, "split.pipeline.schedule")
        schedule.check(num_stages=self.options.size, num_microbatches=count)

    def connect(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        import torch

        from workbench.strategies.pipeline_modules import RecordedStage
        from workbench.strategies.worker_model import StepResult

        here, last = mesh.get_local_rank(), mesh.size() - 1
        shapes = {block.name: block.output_shape for block in worker.summary.blocks}
        stages = self.stages(worker.summary)
        microbatch = worker.batch_size // self.num_microbatches

        def like(stage: int) -> Tensor:
            """A microbatch of what this stage hands on, with a shape and no data."""
            shape = shapes[stages[stage][-1]]
            return torch.empty(microbatch, *shape, dtype=worker.dtype, device="meta", requires_grad=True)

        stage = RecordedStage(
            worker.module,
            here,
            mesh.size(),
            worker.device,
            # Static shapes spare the exchange of shapes in the first step; the first stage's input has none to receive.
            input_args=like(here - 1) if here > 0 else torch.empty(microbatch, device="meta"),
            output_args=like(here),
            group=mesh.get_group(),
        )
        stage.span = worker.span
        schedule = SCHEDULES.get(self.options.schedule).build(stage, self.num_microbatches, worker.loss)

        def step(inputs: Tensor, targets: Tensor) -> StepResult:
            if here < last:
                schedule.step(*((inputs,) if here == 0 else ()), return_outputs=False)
                return StepResult(None, None)
            losses: list[Tensor] = []
            outputs = schedule.step(target=targets, losses=losses, return_outputs=worker.keep_outputs)
            return StepResult(torch.stack(losses).mean().detach(), None if outputs is None else outputs.detach())

        worker.num_microbatches = self.num_microbatches
        worker.compute = step
