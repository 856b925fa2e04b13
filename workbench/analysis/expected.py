"""Frames of the formulas of a plan, without a run: blocks and memory held by each worker, and communication of a step."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from workbench.plan.memory import expected_memory
from workbench.plan.plan import Plan


def placement(plan: Plan) -> pd.DataFrame:
    """Returns the blocks that each worker holds.

    Returns:
        One row per ``worker`` and ``block``: ``place`` in the mesh, ``samples`` of a step that the worker computes, ``number`` of
        the block in the model, ``parameters`` (elements held), and ``fraction`` of the block's parameters.
    """
    size = {block.name: block.num_parameters for block in plan.full_model.blocks}
    number = {name: index for index, name in enumerate(size)}
    rows = []
    for rank in range(plan.num_workers):
        rank_view, place = plan.rank_view(rank), _place(plan, rank)
        first = rank_view.index("data") * rank_view.num_samples
        for block in rank_view.local_model.blocks:
            whole = size[block.name]
            rows.append(
                {
                    "worker": rank,
                    "place": place,
                    "samples": f"{first + 1}–{first + rank_view.num_samples}",
                    "block": block.name,
                    "number": number[block.name],
                    "parameters": block.num_parameters,
                    "fraction": block.num_parameters / whole if whole else 1.0,
                }
            )
    return pd.DataFrame(rows)


def held(plan: Plan) -> pd.DataFrame:
    """Returns the memory that each worker holds by formula.

    Returns:
        One row per ``worker`` and ``category``, with ``bytes``; of activations, the largest sum at the start of a backward pass.
        A category without a formula has no row.
    """
    rows = []
    for rank in range(plan.num_workers):
        bytes_of = asdict(expected_memory(plan, rank))
        if plan.spec.mode != "train":
            bytes_of = {"parameters": bytes_of["parameters"]}
        place = _place(plan, rank)
        rows += [{"worker": rank, "place": place, "category": c, "bytes": b} for c, b in bytes_of.items() if b is not None]
    return pd.DataFrame(rows)


def expected_communication(plan: Plan) -> pd.DataFrame:
    """Returns the expected communication of one step over the whole run.

    Returns:
        One row per ``operation``, ``axis``, ``phase`` and ``is_bound`` (whether the bytes are an upper bound), with ``count``
        (operations) and ``bytes`` of all of them, mean over steps where not every step has them.
    """
    columns = ["operation", "axis", "phase", "count", "bytes", "is_bound"]
    rows = [
        {
            **{c: getattr(t, c) for c in ("operation", "axis", "phase", "count", "is_bound")},
            "bytes": t.count * t.payload_bytes if t.every == 1 else round(t.bytes_per_step),
        }
        for t in plan.expected_communication
    ]
    frame = pd.DataFrame(rows, columns=columns)
    keys = ["operation", "axis", "phase", "is_bound"]
    return frame.groupby(keys, sort=False, as_index=False)[["count", "bytes"]].sum()[columns]


def _place(plan: Plan, rank: int) -> str:
    """Returns the place of a worker in the mesh, such as ``pipeline 0, data 1``; empty for a single worker."""
    return ", ".join(f"{axis} {index}" for axis, index in plan.mesh.coordinate(rank).items())
