"""Train a small network on two workers: torchrun --nproc-per-node 2 sharded.py"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

mesh = init_device_mesh("cpu", (2,))
rank, size = mesh.get_rank(), mesh.size()
torch.manual_seed(0)
inputs, targets = torch.randn(64, 32), torch.randint(10, (64,))
inputs, targets = inputs.chunk(size)[rank], targets.chunk(size)[rank]
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
for layer in (model[0], model[2], model[4]):
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(5):
    loss = cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(loss.detach())
    if rank == 0:
        print(f"step {step}: loss {loss.item() / size:.4f}")
dist.destroy_process_group()
