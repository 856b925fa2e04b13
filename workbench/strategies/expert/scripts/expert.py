"""Train a small mixture of experts on two workers: torchrun --nproc-per-node 2 expert.py"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.nn.functional import cross_entropy

dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
inputs, targets = torch.randn(64, 32), torch.randint(32, (64,))
inputs, targets = inputs.chunk(size)[rank], targets.chunk(size)[rank]
router = nn.Linear(32, 2)
experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in range(2))
expert = experts[rank]
optimizer = torch.optim.AdamW([*router.parameters(), *expert.parameters()], lr=0.01)
for step in range(5):
    weight, choice = router(inputs).softmax(-1).max(-1)
    order = choice.argsort(stable=True)
    send_counts = choice.bincount(minlength=size)
    recv_counts = torch.empty_like(send_counts)
    dist.all_to_all_single(recv_counts, send_counts)
    received = all_to_all_single_autograd(inputs[order], recv_counts.tolist(), send_counts.tolist(), dist.group.WORLD)
    returned = all_to_all_single_autograd(expert(received), send_counts.tolist(), recv_counts.tolist(), dist.group.WORLD)
    outputs = torch.empty_like(returned)
    outputs[order] = returned
    loss = cross_entropy(weight[:, None] * outputs, targets) / size
    loss.backward()
    for parameter in router.parameters():
        dist.all_reduce(parameter.grad)
    optimizer.step()
    optimizer.zero_grad()
    dist.all_reduce(loss.detach())
    if rank == 0:
        print(f"step {step}: loss {loss.item():.4f}")
dist.destroy_process_group()
