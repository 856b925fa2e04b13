"""Builds a worker's optimizer with its parameter groups, and sets the learning rate of each step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from workbench.plan.optimizer import decays, learning_rate_factor, optimizer_class, optimizer_options
from workbench.registry import is_source
from workbench.runtime.user_optimizer import parts_of, user_optimizer
from workbench.spec.train import Train
from workbench.strategies.worker_model import WorkerModel


def make_optimizer(worker: WorkerModel, train: Train) -> torch.optim.Optimizer | None:
    """Returns the optimizer of the parameters that this worker holds and trains; None where there are none.

    Whether weight decay applies to a parameter follows from its shape in the unsplit model, so a group has the same members
    whatever the split.
    """
    trained = [(name, parameter) for name, parameter in worker.named_parameters() if parameter.requires_grad]
    if not trained:
        return None
    if is_source(train.optimizer):
        kind, all_groups, arguments = parts_of(user_optimizer(train, trained))
        return worker.make_optimizer(kind, all_groups, **arguments)
    options = optimizer_options(train)
    summaries = {parameter.name: parameter for parameter in worker.full_model.parameters}
    # torch's multi-tensor kernels take neither sliced and whole tensors nor tensors of different meshes in one list.
    groups: dict[Any, list[nn.Parameter]] = {}
    for name, parameter in trained:
        mesh = parameter.device_mesh if isinstance(parameter, DTensor) else None
        groups.setdefault((mesh, decays(train, summaries[name])), []).append(parameter)
    return worker.make_optimizer(
        getattr(torch.optim, optimizer_class(train)),
        [
            {"params": parameters, "weight_decay": options["weight_decay"] if decayed else 0.0}
            for (_, decayed), parameters in groups.items()
        ],
        **options,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, train: Train, step: int) -> None:
    """Sets the learning rate of a step, counted from 0 over all steps of a run, in every group: a part of the initial one.

    ZeroRedundancyOptimizer hands it on to the optimizer of this worker's part when it steps.
    """
    for group in optimizer.param_groups:
        if "lr" in group:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * learning_rate_factor(train, step)
