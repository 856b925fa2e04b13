"""Layer-wise parallelism: consecutive blocks on different workers, which compute the full batch one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.strategies.base import Limiting, strategy
from workbench.strategies.pipeline.stages import StagedOptions, StagedStrategy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel


class LayerOptions(StagedOptions):
    pass


@strategy("layer")
class LayerStrategy(StagedStrategy[LayerOptions]):
    """Naive model parallelism: consecutive blocks on different workers. Saves memory, but only one worker computes at a time."""

    Options = LayerOptions
    lessons = ("lesson.md",)
    lesson_order = 1

    @property
    def label(self) -> str:
        return f"layer{self.options.size}"

    def advice(self, limit: Limiting, axis: str, spec: RunSpec) -> str:
        if (limit, axis) == ("bubble", self.axis):
            return "Try split.pipeline, where stages process different microbatches at the same time."
        return super().advice(limit, axis, spec)

    def connect(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        import torch
        import torch.distributed as dist

        from workbench.strategies.worker_model import StepResult

        group, stage, last = mesh.get_group(), mesh.get_local_rank(), mesh.size() - 1
        stages = self.stages(worker.full_model)
        # A stage receives the gradients of its outputs if a parameter in it or before it is trained.
        sends_gradients = worker.trains and stage > 0 and self.receives_gradients(worker.full_model, stage - 1)
        receives_gradients = worker.trains and self.receives_gradients(worker.full_model, stage)

        def receive(shape: tuple[int, ...], source: int) -> Tensor:
            tensor = torch.empty(worker.batch_size, *shape, dtype=worker.compute_dtype, device=worker.device)
            dist.recv(tensor, group=group, group_src=source)
            return tensor

        def step(inputs: Tensor, targets: Tensor) -> StepResult:
            if stage > 0:
                inputs = receive(worker.output_shape(stages[stage - 1][-1]), stage - 1).requires_grad_(sends_gradients)
            with worker.span("forward", stage=stage, microbatch=0):
                outputs = worker.module(inputs)
                loss = worker.piece_loss(outputs, targets) if stage == last and worker.trains else None
            if stage < last:
                dist.send(outputs.detach().contiguous(), group=group, group_dst=stage + 1)
                gradient = receive(worker.output_shape(stages[stage][-1]), stage + 1) if receives_gradients else None
            else:
                outputs = outputs.detach() if worker.keep_outputs else None
            if receives_gradients:
                with worker.span("backward", stage=stage, microbatch=0):
                    loss.backward() if loss is not None else outputs.backward(gradient)
                if sends_gradients:
                    assert inputs.grad is not None, f"no gradient reached the inputs of stage {stage}"
                    dist.send(inputs.grad.contiguous(), group=group, group_dst=stage - 1)
            return StepResult(None if loss is None else loss.detach(), outputs if stage == last else None)

        worker.compute = step
