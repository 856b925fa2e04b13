"""``torch.distributed.pipelining``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed import pipelining
from torch.distributed.pipelining.schedules import _Action, _PipelineScheduleRuntime


class PipelineStage(pipelining.PipelineStage):
    """A stage whose received activations a subclass can change.

    Private: torch.distributed.pipelining.PipelineStage._retrieve_recv_activations,
        torch.distributed.pipelining.PipelineStage._get_init_p2p_neighbors_ops
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/pipelining/stage.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: torch detaches what was received, and no public hook makes it require gradients again. Before the first step torch
        2.11 has neighbouring stages on one worker send to themselves, which gloo refuses.
    """

    def received_activations(self, microbatch: int) -> tuple[Tensor, ...]:
        """Returns what the stage before has sent of a microbatch."""
        return super()._retrieve_recv_activations(microbatch)

    def _retrieve_recv_activations(self, fwd_chunk_id: int) -> tuple[Tensor, ...]:
        return self.received_activations(fwd_chunk_id)

    def _get_init_p2p_neighbors_ops(self) -> list[dist.P2POp]:
        return [op for op in super()._get_init_p2p_neighbors_ops() if op.group_peer != self.group_rank]


def schedule_of_actions(
    stages: Sequence[pipelining.PipelineStage],
    num_microbatches: int,
    loss: Callable[..., Any] | None,
    actions: Mapping[int, Sequence[str]],
) -> Any:
    """Returns a schedule that runs each worker's actions in order, such as ``0F0``, with the sends and recvs between them.

    Private: torch.distributed.pipelining.schedules._PipelineScheduleRuntime,
        torch.distributed.pipelining.schedules._PipelineScheduleRuntime._prepare_schedule_with_comms,
        torch.distributed.pipelining.schedules._Action
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/pipelining/schedules.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: public schedules have a fixed order; the runtime beneath them takes any.
    """
    schedule = _PipelineScheduleRuntime(list(stages), num_microbatches, loss_fn=loss)
    order: dict[int, list[_Action | None]] = {
        worker: [_Action.from_str(text) for text in texts] for worker, texts in actions.items()
    }
    schedule.pipeline_order = order
    schedule._prepare_schedule_with_comms(order)
    return schedule


def order_of(schedule: Any) -> Mapping[int, Sequence[Any]]:
    """Returns each worker's actions in the order in which a schedule runs them; None is a wait.

    Private: torch.distributed.pipelining.schedules._PipelineSchedule._get_pipeline_order
    Upstream: https://github.com/pytorch/pytorch/blob/v2.13.0/torch/distributed/pipelining/schedules.py
    Checked: torch 2.11, 2.12, 2.13
    Reason: schedules of one stage per worker keep no public ``pipeline_order``.
    """
    order: Mapping[int, Sequence[Any]] = getattr(schedule, "pipeline_order", None) or schedule._get_pipeline_order()
    return order
