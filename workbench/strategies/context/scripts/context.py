"""Train a small attention network on two workers: torchrun --nproc-per-node 2 context.py"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

mesh = init_device_mesh("cpu", (2,))
rank, size = mesh.get_rank(), mesh.size()
torch.manual_seed(0)
inputs, targets = torch.randn(8, 16, 32), torch.randint(10, (8, 16))  # (batch, sequence, features), (batch, sequence)
inputs, targets = inputs.chunk(size, 1)[rank], targets.chunk(size, 1)[rank]
causal_mask = torch.ones(16, 16, dtype=torch.bool).tril().chunk(size)[rank]
model = nn.ModuleDict({"qkv": nn.Linear(32, 96), "head": nn.Linear(32, 10)})
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(5):
    q, k, v = model["qkv"](inputs).chunk(3, -1)
    k, v = (DTensor.from_local(part, mesh, [Shard(1)]).full_tensor(grad_placements=[Partial()]) for part in (k, v))
    scores = model["head"](scaled_dot_product_attention(q, k, v, attn_mask=causal_mask))
    loss = cross_entropy(scores.flatten(0, 1), targets.flatten()) / size
    loss.backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(loss.detach())
    if rank == 0:
        print(f"step {step}: loss {loss.item():.4f}")
dist.destroy_process_group()
