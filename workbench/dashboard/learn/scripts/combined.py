"""Train a small network on four workers, two replicas of two slices: torchrun --nproc-per-node 4 combined.py"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import cross_entropy

mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
replica, size = mesh.get_local_rank("data"), mesh["data"].size()
torch.manual_seed(0)
inputs, targets = torch.randn(64, 32), torch.randint(10, (64,))
inputs, targets = inputs.chunk(size)[replica], targets.chunk(size)[replica]
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
fully_shard(model, mesh=mesh["data"])
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(5):
    loss = cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(loss.detach(), group=mesh.get_group("data"))
    if mesh.get_rank() == 0:
        print(f"step {step}: loss {loss.item() / size:.4f}")
dist.destroy_process_group()
