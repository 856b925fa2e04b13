"""Layer-wise parallelism: consecutive blocks on different workers, which compute the full batch one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

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

        def receive(cut: int, source: int) -> tuple[Tensor, ...]:
            """Receives what crosses the cut after stage ``cut``, or its gradients."""
            tensors = [
                torch.empty(worker.batch_size, *shape, dtype=worker.compute_dtype, device=worker.device)
                for shape in worker.crossing_shapes(stages[cut][-1])
            ]
            for tensor in tensors:
                dist.recv(tensor, group=group, group_src=source)
            return tuple(tensors)

        def send(tensors: Iterable[Tensor], destination: int) -> None:
            for tensor in tensors:
                dist.send(tensor.contiguous(), group=group, group_dst=destination)

        def step(samples: Any, targets: Any) -> StepResult:
            inputs: tuple[Any, ...] = (samples,)
            worker.blocks.samples = samples
            if stage > 0:
                inputs = tuple(tensor.requires_grad_(sends_gradients) for tensor in receive(stage - 1, stage - 1))
            with worker.span("forward", stage=stage, microbatch=0):
                outputs = worker.module(*inputs)
                loss = worker.piece_loss(outputs, targets) if stage == last and worker.trains else None
            passed: tuple[Tensor, ...] = ()
            gradients: tuple[Tensor, ...] = ()
            if stage < last:
                passed = outputs if isinstance(outputs, tuple) else (outputs,)
                send((output.detach() for output in passed), stage + 1)
                gradients = receive(stage, stage + 1) if receives_gradients else ()
            outputs = worker.main_output(outputs).detach() if stage == last and worker.keep_outputs else None
            if receives_gradients:
                with worker.span("backward", stage=stage, microbatch=0):
                    loss.backward() if loss is not None else torch.autograd.backward(passed, gradients)
                if sends_gradients:
                    assert all(x.grad is not None for x in inputs), f"no gradient reached the inputs of stage {stage}"
                    send((x.grad for x in inputs if x.grad is not None), stage - 1)
            return StepResult(None if loss is None else loss.detach(), outputs)

        worker.compute = step
