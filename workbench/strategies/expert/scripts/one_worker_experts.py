"""Train a small mixture of experts: python one_worker_experts.py"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
inputs, targets = torch.randn(64, 32), torch.randint(32, (64,))
router = nn.Linear(32, 2)
experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in range(2))
optimizer = torch.optim.AdamW([*router.parameters(), *experts.parameters()], lr=0.01)
for step in range(5):
    weight, choice = router(inputs).softmax(-1).max(-1)
    outputs = torch.empty(64, 32)
    for number, expert in enumerate(experts):
        outputs[choice == number] = expert(inputs[choice == number])
    loss = cross_entropy(weight[:, None] * outputs, targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.4f}")
