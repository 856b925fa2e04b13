"""Train a small attention network: python one_worker_attention.py"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

torch.manual_seed(0)
inputs, targets = torch.randn(8, 16, 32), torch.randint(10, (8, 16))  # (batch, sequence, features), (batch, sequence)
model = nn.ModuleDict({"qkv": nn.Linear(32, 96), "head": nn.Linear(32, 10)})
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for step in range(5):
    q, k, v = model["qkv"](inputs).chunk(3, -1)
    scores = model["head"](scaled_dot_product_attention(q, k, v, is_causal=True))
    loss = cross_entropy(scores.flatten(0, 1), targets.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")
