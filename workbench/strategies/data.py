"""Data parallelism: every worker holds the whole model and computes a part of the batch; gradients are averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from workbench.errors import SplitError
from workbench.spec.options import StrategyOptions
from workbench.strategies._replicas import BUCKET_SIZE_MIB, average_gradients, expected_average
from workbench.strategies.base import Strategy, strategy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from workbench.plan.share import Share
    from workbench.plan.summary import ModelSummary
    from workbench.plan.transfer import Transfer
    from workbench.spec.run_spec import RunSpec
    from workbench.strategies.worker_model import WorkerModel


class DataOptions(StrategyOptions):
    bucket_size_mib: PositiveFloat = BUCKET_SIZE_MIB
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
        """All gradients once, over the data axis or, where the sequence is split too, over data and context together."""
        return expected_average(share)

    def apply(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        replicas = mesh[self.axis]
        worker.batch_part = (replicas.get_local_rank(), replicas.size())

    def finish(self, worker: WorkerModel, mesh: DeviceMesh) -> None:
        average_gradients(worker, mesh, self.options.bucket_size_mib)
