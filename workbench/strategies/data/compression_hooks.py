"""Communication hooks of DDP that compress gradients. Without postponed annotations: DDP reads those of a hook."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from workbench.strategies.data.compression import MIN_COMPRESSION, NUM_EXACT_STEPS

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def compress(module: DistributedDataParallel, compression: str, rank: int, group: dist.ProcessGroup) -> None:
    """Averages the gradients of this module over the group in compressed form; ``rank`` is that of the matrices of PowerSGD."""
    if compression in _DTYPES:
        module.register_comm_hook((group, _DTYPES[compression]), _rounded)
        return
    state = PowerSGDState(
        group, matrix_approximation_rank=rank, start_powerSGD_iter=NUM_EXACT_STEPS, min_compression_rate=MIN_COMPRESSION
    )
    module.register_comm_hook(state, _factored)


def _rounded(
    state: tuple[dist.ProcessGroup, torch.dtype],
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's stub lacks it
) -> torch.futures.Future[Tensor]:
    """Averages rounded gradients. torch's hook for bf16 requires CUDA (torch 2.13). Dividing before rounding avoids a rounding
    and the overflow."""
    (group, dtype), buffer = state, bucket.buffer()
    rounded = buffer.div_(group.size()).to(dtype)

    def restore(future: torch.futures.Future[list[Tensor]]) -> Tensor:
        return buffer.copy_(future.value()[0])

    return dist.all_reduce(rounded, group=group, async_op=True).get_future().then(restore)


def _factored(
    state: PowerSGDState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's stub lacks it
) -> torch.futures.Future[Tensor]:
    """Averages factored gradients, one bucket after the other: PowerSGD issues its later all-reduces from gloo's threads, where
    those of several buckets would run in a different order on each worker."""
    future = powerSGD_hook(state, bucket)
    future.wait()
    return future
