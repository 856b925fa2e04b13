"""Train a small network on two workers: torchrun --nproc-per-node 2 layer.py"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
inputs, targets = torch.randn(64, 32), torch.randint(10, (64,))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
model = model[:3] if rank == 0 else model[3:]
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(5):
    if rank == 0:
        outputs = model(inputs)
        dist.send(outputs.detach(), 1)
        gradient = torch.empty_like(outputs)
        dist.recv(gradient, 1)
        outputs.backward(gradient)
    else:
        received = torch.empty(64, 64)
        dist.recv(received, 0)
        received.requires_grad_()
        loss = cross_entropy(model(received), targets)
        loss.backward()
        dist.send(received.grad, 0)
        print(f"step {step}: loss {loss.item():.4f}")
    optimizer.step()
    optimizer.zero_grad()
dist.destroy_process_group()
