"""Train a small network: python one_worker.py"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
inputs, targets = torch.randn(64, 32), torch.randint(10, (64,))
model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(5):
    loss = cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")
