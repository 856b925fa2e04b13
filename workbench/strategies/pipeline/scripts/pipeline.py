"""Train a small network on two workers: torchrun --nproc-per-node 2 pipeline.py"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.nn.functional import cross_entropy

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
inputs, targets = torch.randn(64, 32), torch.randint(10, (64,))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
model = model[:3] if rank == 0 else model[3:]
stage = PipelineStage(model, rank, size, torch.device("cpu"))
schedule = Schedule1F1B(stage, n_microbatches=4, loss_fn=cross_entropy)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(5):
    losses: list[torch.Tensor] = []
    if rank == 0:
        schedule.step(inputs)
    else:
        schedule.step(target=targets, losses=losses)
        print(f"step {step}: loss {torch.stack(losses).mean().item():.4f}")
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
