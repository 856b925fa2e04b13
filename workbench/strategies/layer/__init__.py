"""Layer-wise parallelism: consecutive blocks live on different workers, the whole batch passes through them in turn."""

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

        group, here, last = mesh.get_group(), mesh.get_local_rank(), mesh.size() - 1
        stages = self.stages(worker.summary)
        # Back to a stage go the gradients of its outputs if something in it or before it is trained.
        sends_back = worker.trains and here > 0 and self.receives_gradients(worker.summary, here - 1)
        goes_back = worker.trains and self.receives_gradients(worker.summary, here)

        def receive(shape: tuple[int, ...], source: int) -> Tensor:
            tensor = torch.empty(worker.batch_size, *shape, dtype=worker.compute_dtype, device=worker.device)
            dist.recv(tensor, group=group, group_src=source)
            return tensor

        def step(inputs: Tensor, targets: Tensor) -> StepResult:
            if here > 0:
                inputs = receive(worker.output_shape(stages[here - 1][-1]), here - 1).requires_grad_(sends_back)
            with worker.span("forward", stage=here, microbatch=0):
                outputs = worker.module(inputs)
                loss = worker.piece_loss(outputs, targets) if here == last and worker.trains else None
            if here < last:
                dist.send(outputs.detach().contiguous(), group=group, group_dst=here + 1)
                gradient = receive(worker.output_shape(stages[here][-1]), here + 1) if goes_back else None
            else:
                outputs = outputs.detach() if worker.keep_outputs else None
            if goes_back:
                with worker.span("backward", stage=here, microbatch=0):
                    loss.backward() if loss is not None else outputs.backward(gradient)
                if sends_back:
                    assert inputs.grad is not None, f"no gradient reached the inputs of stage {here}"
                    dist.send(inputs.grad.contiguous(), group=group, group_dst=here - 1)
            return StepResult(None if loss is None else loss.detach(), outputs if here == last else None)

        worker.compute = step
