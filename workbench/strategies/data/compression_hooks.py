"""Communication hooks of DDP that make gradients smaller. No postponed annotations here: DDP reads a hook's own."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from workbench.strategies.data.compression import MIN_COMPRESSION, NUM_EXACT_STEPS

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def compress(module: DistributedDataParallel, compression: str, rank: int, group: dist.ProcessGroup) -> None:
    """Gradients of this module are averaged over the group in a smaller form; PowerSGD's matrices have this rank."""
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
    """torch's own hook for bf16 demands CUDA (torch 2.13). Dividing before rounding saves a rounding and the overflow."""
    (group, dtype), buffer = state, bucket.buffer()
    rounded = buffer.div_(group.size()).to(dtype)

    def restore(future: torch.futures.Future[list[Tensor]]) -> Tensor:
        return buffer.copy_(future.value()[0])

    return dist.all_reduce(rounded, group=group, async_op=True).get_future().then(restore)


def _factored(
    state: PowerSGDState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's stub lacks it
) -> torch.futures.Future[Tensor]:
    """PowerSGD issues its later all-reduces from gloo's threads, where those of several buckets would overtake one another,
    in another order on each worker: a bucket is waited for before the next begins."""
    future = powerSGD_hook(state, bucket)
    future.wait()
    return future
