"""The schedules of ``torch.distributed.pipelining``, from GPipe to DualPipeV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.strategies.pipeline.schedules.base import Schedule, schedule

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage

    from workbench.spec.run_spec import RunSpec


@schedule("gpipe")
class GPipe(Schedule):
    """All forward passes, then all backward passes: bubble (p−1)/(m+p−1), activations of all m microbatches."""

    # Huang et al. 2019, https://arxiv.org/abs/1811.06965

    gathers_stages = False

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        """Returns one gather per forward pass, which frees it, and one for all backward passes."""
        return self.num_microbatches, int(trains)

    def in_flight(self, worker: int) -> int:
        return self.num_microbatches

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleGPipe

        return ScheduleGPipe(stages[0], self.num_microbatches, loss_fn=loss)


@schedule("1f1b")
class OneForwardOneBackward(Schedule):
    """Alternates forward and backward passes: the bubble of GPipe, but activations of at most p microbatches."""

    # Narayanan et al. 2019, https://arxiv.org/abs/1806.03377

    gathers_stages = False

    def gathers(self, stage: int, trains: bool) -> tuple[int, int]:
        """Returns the gathers per step. A forward pass frees the gathered parameters, a backward pass keeps them: they are
        gathered for each of the p − s forward passes that fill the pipeline, then for each backward pass that follows a forward
        pass, 1 + m − (p − s)."""
        filling = min(self.num_microbatches, self.num_stages - stage) if trains else self.num_microbatches
        return filling, 1 + self.num_microbatches - filling if trains else 0

    def in_flight(self, worker: int) -> int:
        """Returns the number of workers from this one to the last (Narayanan et al. 2021, section 2.2)."""
        return min(self.num_microbatches, self.num_workers - worker)

    def outputs_kept(self, worker: int) -> int:
        """Returns, on stages other than the last, the output that is being sent while the backward pass of an earlier microbatch
        starts."""
        return super().outputs_kept(worker) or int(self.num_microbatches > self.in_flight(worker))

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.at_least_as_many_microbatches_as(self.num_stages, "stages")

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import Schedule1F1B

        return Schedule1F1B(stages[0], self.num_microbatches, loss_fn=loss)


@schedule("looped_bfs")
class LoopedBFS(Schedule):
    """GPipe with several stages per worker: all microbatches run through a stage before the next, for a smaller bubble."""

    # Breadth-first pipeline parallelism: Lamy-Poirier 2022, https://arxiv.org/abs/2211.05953

    default_stages_per_worker, min_stages_per_worker, max_stages_per_worker = 2, 1, 8

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleLoopedBFS

        return ScheduleLoopedBFS(list(stages), self.num_microbatches, loss_fn=loss)


@schedule("interleaved_1f1b")
class Interleaved1F1B(Schedule):
    """1F1B with v stages per worker: bubble (p−1)/(v·m+p−1), v times the communication volume of boundary activations."""

    # Narayanan et al. 2021, section 2.2, https://arxiv.org/abs/2104.04473

    default_stages_per_worker, min_stages_per_worker, max_stages_per_worker = 2, 1, 8

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.divides_into_rounds()

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleInterleaved1F1B

        return ScheduleInterleaved1F1B(list(stages), self.num_microbatches, loss_fn=loss)


@schedule("interleaved_zero_bubble")
class InterleavedZeroBubble(Schedule):
    """Interleaved 1F1B with the backward pass split: weight gradients are computed when the worker would otherwise be idle."""

    # ZB1P: Qi et al. 2024, https://arxiv.org/abs/2401.10241

    default_stages_per_worker, min_stages_per_worker, max_stages_per_worker = 2, 1, 8
    splits_backward = True

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.divides_into_rounds()

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleInterleavedZeroBubble

        return ScheduleInterleavedZeroBubble(list(stages), self.num_microbatches, loss_fn=loss)


@schedule("zbv_zero_bubble")
class ZBVZeroBubble(Schedule):
    """Two stages per worker in a V; no bubble if forward, input and weight gradients take equally long; memory as 1F1B."""

    # ZB-V: Qi et al. 2024, section 6, https://arxiv.org/abs/2401.10241

    default_stages_per_worker = min_stages_per_worker = max_stages_per_worker = 2
    placement = "v"
    splits_backward = True
    runs_forward_only = False

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleZBVZeroBubble

        return ScheduleZBVZeroBubble(list(stages), self.num_microbatches, loss_fn=loss)


@schedule("dualpipev")
class DualPipeV(Schedule):
    """Two stages per worker in a V, with overlapping forward and backward passes of different microbatches."""

    # DualPipe (DeepSeek-AI 2024, section 3.2.1, https://arxiv.org/abs/2412.19437), folded into a V

    default_stages_per_worker = min_stages_per_worker = max_stages_per_worker = 2
    placement = "v"
    splits_backward = True
    runs_forward_only = False

    def check(self, spec: RunSpec) -> None:
        super().check(spec)
        self.at_least_as_many_microbatches_as(self.num_stages, "stages")

    def build(self, stages: Sequence[PipelineStage], loss: Callable[..., Any] | None) -> Any:
        from torch.distributed.pipelining import ScheduleDualPipeV

        return ScheduleDualPipeV(list(stages), self.num_microbatches, loss_fn=loss)
