"""A memory budget: a worker that has more alive fails, as it would on a device of that size."""

from __future__ import annotations

from typing import Any

from workbench.runtime.allocations import Peak


class MemoryBudgetExceeded(Exception):  # noqa: N818 - like the end of memory on a device, no mistake of the program
    """More is alive than the worker may have."""

    def __init__(self, budget: int, peak: Peak) -> None:
        over, allowed = peak.num_bytes / 2**20, budget / 2**20
        super().__init__(
            f"out of memory in {peak.where}: {over:.2f} MiB are alive, but measure.memory_budget_bytes is {allowed:.2f} MiB"
        )
        self.budget, self.peak = budget, peak

    @property
    def details(self) -> dict[str, Any]:
        """What ``error.json`` says of it beside the exception."""
        peak = self.peak
        memory = {
            "budget_bytes": self.budget,
            "bytes": peak.num_bytes,
            "event": peak.where,
            "by_category": peak.by_category,
            "largest_tensors": peak.largest,
        }
        return {"memory": memory, "advice": self._advice()}

    def _advice(self) -> str:
        """What takes away most of what there was most of."""
        largest = max(self.peak.by_category, key=lambda category: self.peak.by_category[category])
        remedies = {
            "parameters": "split the model (pipeline, tensor) or shard its parameters (fsdp)",
            "gradients": "split the model (pipeline, tensor) or shard its gradients (zero2, fsdp)",
            "optimizer_state": "shard the optimizer's state (zero1, zero2, fsdp), or use train.optimizer = momentum or sgd",
            "activations": "use a smaller train.global_batch_size, or split it over more workers; in training also"
            " train.checkpointing = full, or smaller pieces (num_accumulation_steps, more microbatches under 1f1b)",
            "communication": "use smaller units or fewer pieces in flight: more stages, smaller microbatches",
        }
        remedy = remedies.get(largest, "use a smaller train.global_batch_size, or split it over more workers")
        return f"Most of it is {largest.replace('_', ' ')}: {remedy}."
