"""Counts the communication of slices that activation checkpointing repeats in backward."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from workbench.models.dropout_modules import SubstituteDropout
from workbench.plan.tensor_plan import ModuleSlices, SliceCommunication
from workbench.runtime.recompute import Mode, checkpoint_blocks
from workbench.runtime.tensor_plan.trial import Call
from workbench.strategies.tensor.simulated import LikeOthers, SimulatedMesh
from workbench.strategies.tensor.sliced_modules import cut_modules


class Recomputation:
    """A module whose blocks are recomputed, with dropout as in training: recomputation ends with the last tensor that backward
    needs, and the masks of functional dropout are such tensors.

    Args:
        root: The module, which is not changed.
        blocks: Paths of the modules that are recomputed.
    """

    def __init__(self, root: nn.Module, call: Call, blocks: Sequence[str]) -> None:
        self._root, self._call, self._blocks = root, call, blocks

    def repeated(self, groups: Sequence[ModuleSlices], size: int) -> list[list[SliceCommunication]]:
        """Returns for each group what backward communicates in addition, with the elements of all samples."""
        once, twice = self._of_backward(groups, size, "none"), self._of_backward(groups, size, "full")
        return [list((more - less).elements()) for less, more in zip(once, twice, strict=True)]

    def _of_backward(self, groups: Sequence[ModuleSlices], size: int, mode: Mode) -> list[Counter[SliceCommunication]]:
        module = copy.deepcopy(self._root).double().train()
        for part in module.modules():
            if isinstance(part, SubstituteDropout):
                part.eval()  # whose mask is computed again, not kept
        mesh = SimulatedMesh(LikeOthers(size), 0)
        meshes = [mesh.part() for _ in groups]
        of_group = dict(zip(map(id, groups), meshes, strict=True))
        cut_modules(module, groups, lambda group: of_group[id(group)])
        checkpoint_blocks((module.get_submodule(path) for path in self._blocks), mode)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            mesh.begin("forward")
            outputs, _ = self._call(module)
            mesh.begin("backward")
            if trained := [output.double().sum() for output in outputs if output.requires_grad]:
                torch.stack(trained).sum().backward()
        return [Counter(c for c in part.communication if c.phase == "backward") for part in meshes]
