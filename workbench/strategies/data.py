"""Data parallelism: every worker holds the whole model and computes a part of the batch; gradients are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from workbench.errors import SplitError
from workbench.plan.transfer import Transfer
from workbench.spec.options import StrategyOptions
from workbench.strategies.base import Strategy, strategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.share import Share
    from workbench.plan.summary import ModelSummary
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel


class DataOptions(StrategyOptions):
    bucket_size_mib: PositiveFloat = 25.0
    """Gradients are all-reduced in buckets of about this many MiB, while backward goes on."""


@strategy("data")
class DataStrategy(Strategy[DataOptions]):
    """Replicas of the whole model on parts of the batch, gradients averaged (torch's DistributedDataParallel)."""

    Options = DataOptions
    axis = "data"
    apply_order = 2

    @property
    def label(self) -> str:
        return f"dp{self.options.size}"

    def check(self, model: ModelSummary, spec: RunSpec) -> None:
        batch, size = spec.train.global_batch_size, self.options.size
        if batch % size:
            raise SplitError(
                "split.data.size",
                f"a global batch of {batch} over {size} workers leaves {batch % size} samples over;"
                f" use a size that divides {batch}, or set train.global_batch_size to a multiple of {size}",
            )

    def expected(self, model: ModelSummary, share: Share) -> list[Transfer]:
        """All gradients once: 4 bytes per parameter in fp32, in as many buckets as torch makes (Li et al. 2020)."""
        if not share.trains:
            return []
        gradients = model.num_parameters * share.element_bytes
        return [Transfer("all_reduce", self.axis, "backward", 1, gradients, self.options.size)]

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        from torch.nn.parallel import DistributedDataParallel

        replicas = mesh[self.axis]
        worker.batch_part = (replicas.get_local_rank(), replicas.size())
        if not worker.trains:
            return
        if mesh.ndim > 1:
            self._replicate_blocks(worker, replicas)
            return
        worker.module = DistributedDataParallel(
            worker.module,
            process_group=replicas.get_group(),
            bucket_cap_mb=self.options.bucket_size_mib,
            gradient_as_bucket_view=True,  # the buckets are the gradients: no second copy
            broadcast_buffers=False,  # batch norm's running statistics stay each replica's own
        )

    @staticmethod
    def _replicate_blocks(worker: WorkerModel, replicas: DeviceMesh) -> None:
        """DDP takes neither cut parameters nor a pipeline's microbatches; torch's composable form takes both. A bucket is
        a block."""
        from torch.distributed._composable.replicate_with_fsdp import replicate

        for stage in worker.stages:
            for block in stage:
                replicate(block, mesh=replicas)
            replicate(stage, mesh=replicas)
