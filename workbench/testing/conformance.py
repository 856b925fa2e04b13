"""The conformance suite: cases and checks that every plugin must pass, which authors of plugins can import.

With pytest, for a strategy called ``mine``::

    @pytest.mark.parametrize("case", strategy_cases("mine"), ids=str)
    def test_mine(case):
        assert_conforms(case.spec)
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from workbench.metrics.communication import measured_communication
from workbench.plan import compatibility
from workbench.plan.compatibility import MODES, Case
from workbench.plan.loss_weights import IGNORED
from workbench.plan.memory import expected_memory
from workbench.plan.parity import LOWER_ROUNDING
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.plan.steps import trace_share
from workbench.registry import STRATEGIES
from workbench.runtime.parity.tolerance import tolerance
from workbench.spec import RunSpec
from workbench.testing import cases
from workbench.testing.workers import run_in_workers

LOSS_TOLERANCE = 1e-4
"""Tolerance between losses in single precision; rounding over a few steps stays far below."""
_PIPELINE = {"size": 2, "num_microbatches": 2}
_GATHERED = {"size": 2, "attention": "all_gather"}
MESHES: dict[str, dict[str, Any]] = {
    "dp2 · tp2": {"data": 2, "tensor": 2},
    "dp2 · pp2": {"data": 2, "pipeline": _PIPELINE},
    "dp2 · layer2": {"data": 2, "layer": 2},
    "pp2 · tp2": {"pipeline": _PIPELINE, "tensor": 2},
    "dp2 · pp2 · tp2": {"data": 2, "pipeline": _PIPELINE, "tensor": 2},
    "zero1 · tp2": {"zero1": 2, "tensor": 2},
    "fsdp2 · tp2": {"fsdp": 2, "tensor": 2},
    "fsdp2 · pp2": {"fsdp": 2, "pipeline": _PIPELINE},
    "fsdp2 · pp2, gpipe": {"fsdp": 2, "pipeline": {**_PIPELINE, "schedule": "gpipe"}},
    "fsdp2 · pp2, interleaved": {"fsdp": 2, "pipeline": {**_PIPELINE, "schedule": "interleaved_1f1b"}},
    "fsdp2 · pp2, zbv": {"fsdp": 2, "pipeline": {**_PIPELINE, "schedule": "zbv_zero_bubble"}},
    "fsdp2 · pp2 · tp2": {"fsdp": 2, "pipeline": _PIPELINE, "tensor": 2},
    "zero2 · layer2": {"zero2": 2, "layer": 2},
    "dp2 · tp2, accumulated": {"data": {"size": 2, "num_accumulation_steps": 2}, "tensor": 2},
    "fsdp4, which rows may not divide by": {"fsdp": 4},
    "hsdp 2 × 2": {"fsdp": {"size": 4, "shard_size": 2}},
    "hsdp 2 × 2 · tp2": {"fsdp": {"size": 4, "shard_size": 2}, "tensor": 2},
    "cp4": {"context": 4},
    "cp2 · dp2": {"context": 2, "data": 2},
    "cp2 · tp2": {"context": 2, "tensor": 2},
    "cp2 · pp2": {"context": 2, "pipeline": _PIPELINE},
    "cp2 · layer2": {"context": 2, "layer": 2},
    "cp2 · tp2, gathered": {"context": _GATHERED, "tensor": 2},
    "ep2 · dp2": {"expert": 2, "data": 2},
    "ep2 · dp4": {"expert": 2, "data": 4},
    "ep2 · tp2": {"expert": 2, "tensor": 2},
    "ep2 · pp2": {"expert": 2, "pipeline": _PIPELINE},
    "dp2 · tp2, batch norm synchronized": {"data": {"size": 2, "sync_batch_norm": True}, "tensor": 2},
    "tp2 · dp2, sequence parallel": {"tensor": {"size": 2, "sequence_parallel": True}, "data": 2},
}
"""Combinations of strategies, or more than two workers."""


def strategy_cases(*names: str, modes: tuple[str, ...] = MODES) -> list[Case]:
    """Returns the examples of these strategies on two workers, by default of all strategies and schedules, on the examples of
    every model, as far as ``check`` accepts them."""
    splits = compatibility.strategies(*names) if names else compatibility.splits()
    return compatibility.admitted(compatibility.cases(splits, compatibility.models(), modes))


def schedule_cases(*names: str, size: int = 2, modes: tuple[str, ...] = MODES) -> list[Case]:
    """Returns the examples of these schedules, by default of all, on ``size`` workers and the examples of every model."""
    return compatibility.admitted(compatibility.cases(compatibility.schedules(*names, size=size), compatibility.models(), modes))


def model_cases(*names: str, modes: tuple[str, ...] = MODES) -> list[Case]:
    """Returns the examples of every strategy and schedule on two workers, on the examples of these models, by default of all."""
    return compatibility.admitted(compatibility.cases(compatibility.splits(), compatibility.models(*names), modes))


def mesh_cases(modes: tuple[str, ...] = MODES) -> list[Case]:
    """Returns combinations of strategies on the examples of every model."""
    names = {alias for name in STRATEGIES.names() for alias in (name, *STRATEGIES.get(name).aliases)}
    splits = {name: split for name, split in MESHES.items() if split.keys() <= names}
    return compatibility.admitted(compatibility.cases(splits, compatibility.models(), modes))


@dataclass(frozen=True)
class Outcome:
    """Results of the workers of a case."""

    planned: Plan
    parity: dict[str, Any]
    workers: list[dict[str, Any]]

    def parity_mistakes(self) -> list[str]:
        """Checks that loss, outputs, gradients and updated parameters equal those of one worker up to rounding, or up to the
        declared bound of a strategy that changes gradients."""
        report, precision = self.parity, self.planned.spec.measure.parity_precision
        if self.planned.lossy is not None:
            error = "infinitely (it is missing)" if report["max_error"] is None else f"by {report['max_error']:.2g}"
            sentence = f"{report['tensor']} differs {error}, allowed {report['allowed']}; declared: {report['on_purpose']}"
            return [f"{sentence} ({report['num_steps']} steps in {report['precision']})"] * (report["ok"] is False)
        bound = tolerance(precision, len(self.planned.full_model.blocks)).rounding
        if report["verdict"] == "equal" and report["cause"]:
            bound = LOWER_ROUNDING
        if not (report["ok"] and report["max_error"] <= bound):
            return [f"does not compute what one worker computes, up to {bound:g}: {report}"]
        is_undeclared = report["verdict"] == "equal per shard" and not self.planned.model.depends_on_batch
        return [f"computes something else of the whole batch, which the model does not declare: {report}"] * is_undeclared

    def communication_mistakes(self) -> list[str]:
        """Checks that the communication volume equals that of the formulas, by operation, axis and phase, or is within their
        bounds."""
        sums, bounds = defaultdict[tuple[str, str, str], Fraction](Fraction), set()
        for t in self.planned.expected_communication:
            sums[t.operation, t.axis, t.phase] += t.count * t.payload_bytes * trace_share(self.planned.spec, t.every)
            bounds |= {(t.operation, t.axis, t.phase)} if t.is_bound else set()
        expected = {key: float(total) for key, total in sums.items()}
        measured = {key: t["payload_bytes"] for key, t in self._measured().items()}
        measured |= {key: expected[key] for key in bounds if 0 < measured.get(key, 0) <= expected[key]}
        return _differences("bytes of a step", {key: total for key, total in expected.items() if total}, measured)

    def operation_mistakes(self) -> list[str]:
        """Checks that the number of operations equals that of the formulas. Does not apply to strategies whose operations torch
        may merge or divide (DDP's buckets)."""
        sums = defaultdict[tuple[str, str, str], Fraction](Fraction)
        for t in (t for t in self.planned.expected_communication if t.payload_bytes):
            sums[t.operation, t.axis, t.phase] += t.count * trace_share(self.planned.spec, t.every)
        expected = {key: float(count) for key, count in sums.items()}
        return _differences("operations of a step", expected, {key: t["count"] for key, t in self._measured().items()})

    def parameter_mistakes(self) -> list[str]:
        """Checks that each worker holds the number of parameters that ``place`` returns."""
        expected = self.planned.expected_record()["parameters_per_worker"]
        sizes = {"number": 1, "bytes": self.planned.spec.train.element_bytes}
        measured = {f"number of worker {i}": w["parameters"] for i, w in enumerate(self.workers)}
        measured |= {f"bytes of worker {i}": w["parameter_bytes"] for i, w in enumerate(self.workers)}
        by_formula = {f"{quantity} of worker {i}": n * size for i, n in enumerate(expected) for quantity, size in sizes.items()}
        return _differences("parameters", by_formula, measured)

    def memory_mistakes(self) -> list[str]:
        """Checks that each worker allocates on memory steps the bytes of parameters, gradients and optimizer state of the
        formulas. All three have a formula for every split in training; inference has only parameters."""
        by_formula, measured = {}, {}
        for rank, worker in enumerate(self.workers):
            expected = asdict(expected_memory(self.planned, rank))
            for category in ("parameters", "gradients", "optimizer_state"):
                by_formula[f"{category} of worker {rank}"] = expected[category]
                measured[f"{category} of worker {rank}"] = worker["held_memory_by_category"][category]
        return _differences("bytes alive after a step", by_formula, measured)

    def loss_mistakes(self) -> list[str]:
        """Checks that losses in single precision equal those of one worker on the whole batch, or on the same shards if the split
        is equal per shard. The latter does not apply to routers: a token whose two best experts are equal up to rounding may
        select either."""
        is_exact = self.planned.spec.train.compute_precision in ("fp32", "fp64") and not any(
            s.lossy for s in self.planned.strategies
        )
        per_shard = self.parity["verdict"] == "equal per shard"
        is_incomparable = self.workers[0]["normalizes_together"] or bool(self.planned.full_model.mixtures)
        if self.planned.spec.mode != "train" or not is_exact or (per_shard and is_incomparable):
            return []
        num_shards = self.workers[0]["num_shards"] if per_shard else 1
        single_spec, mistakes = json.dumps(self.planned.spec.as_dict() | {"split": {}}), []
        for step, reference in enumerate(_losses_of_one_worker(single_spec, num_shards)):
            worker_losses = [w["losses"][step] for w in self.workers if w["losses"][step] is not None]
            loss = sum(worker_losses) / len(worker_losses) if worker_losses else float("nan")
            if not abs(loss - reference) <= LOSS_TOLERANCE:
                mistakes.append(f"the loss of step {step} is {loss}, of one worker {reference}")
        return mistakes

    def _measured(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        return {(t["operation"], t["axis"], t["phase"]): t for t in measured_communication(self.workers)}


def run_case(spec: dict[str, Any], make_group: Callable[..., Any] | None = None) -> Outcome:
    """Checks parity over a few SGD steps and then trains for a few steps, in the same workers. They communicate through the
    process group that ``make_group`` returns (``run_in_workers``), by default gloo."""
    planned = plan(RunSpec(**spec))
    if (longest := max((t.every for t in planned.expected_communication), default=1)) > 1:  # a trace step must include it
        spec = {**spec, "measure": {**spec.get("measure", {}), "num_trace_steps": longest}}
        planned = plan(RunSpec(**spec))
    results = run_in_workers(planned.num_workers, cases.parity_and_training, spec, make_group=make_group)
    reports, workers = zip(*results, strict=True)
    return Outcome(planned, reports[0], list(workers))


def assert_conforms(spec: dict[str, Any], make_group: Callable[..., Any] | None = None) -> None:
    """Checks a split: it computes what one worker computes, its communication, parameters, gradients and optimizer state are
    those of its formulas, and it trains to the same losses.

    Args:
        spec: a run spec, as a dictionary.
        make_group: as of ``run_case``.

    Raises:
        AssertionError: the split does not conform; every mistake has a line.
    """
    outcome = run_case(spec, make_group)
    mistakes = outcome.parity_mistakes() + outcome.communication_mistakes() + outcome.parameter_mistakes()
    _assert_none(mistakes + outcome.memory_mistakes() + outcome.loss_mistakes())


def assert_model_conforms(parts: dict[str, Any]) -> None:
    """Asserts what must hold for every model: its blocks have the parameters, output shapes and FLOPs of its summary. If the
    model depends on the batch, the FLOPs are an upper bound: a router may drop tokens.

    Args:
        parts: ``{"model": …, "dataset": …}``.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from workbench.runtime.batches import Batches
    from workbench.runtime.build import build_blocks

    planned = plan(RunSpec(**parts, train={"global_batch_size": 2}))
    summary, device = planned.full_model, torch.device("cpu")
    blocks = build_blocks(planned, (b.name for b in summary.blocks), torch.float64)
    built = {name: tuple(p.shape) for name, p in blocks.named_parameters(remove_duplicate=False)}
    mistakes = _differences("shapes of parameters", {p.name: p.shape for p in summary.parameters}, built)
    distinct = sum(p.numel() for p in blocks.parameters())
    mistakes += _differences("parameters", {"all": summary.num_parameters}, {"all": distinct})
    x, targets = Batches(planned, device, torch.float64).step_batch(0)
    for block, declared in zip(blocks, summary.blocks, strict=True):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            x = block(x)
        mistakes += _differences(declared.name, {"shape": (2, *declared.output_shape)}, {"shape": tuple(x.shape)})
        expected, counted = 2 * declared.forward_flops, counter.get_total_flops()
        if not (counted <= expected if planned.model.depends_on_batch else counted == expected):
            mistakes.append(f"{declared.name}: {counted} floating-point operations, by formula {expected}")
    if (shape := tuple(planned.model.loss(x, targets).shape)) != ():
        mistakes.append(f"loss() must return a scalar of shape (), but returned a tensor of shape {shape}")
    _assert_none(mistakes)


def assert_dataset_conforms(options: dict[str, Any]) -> None:
    """Asserts what must hold for every dataset: samples have the shapes and dtypes of its summary, and are the same in every load
    and every batch.

    Args:
        options: ``{"name": …, …}``.
    """
    import numpy as np

    from workbench.registry import DATASETS

    plugin = DATASETS.get(options["name"])
    dataset = plugin(plugin.Options(**options))
    summary, samples, again = dataset.summary(), dataset.load(), dataset.load()
    indices = np.array([min(3, len(samples) - 1), 0, len(samples) - 1])
    inputs, targets = samples.batch(indices)
    expected = {
        "samples": summary.num_samples,
        "inputs": (3, *summary.input_shape),
        "targets": (3, *summary.target_shape),
        "type of inputs": "int64" if summary.kind == "tokens" else "float32",
        "type of targets": "float32" if summary.has_numbers else "int64",
        "tokens of a sample": summary.input_shape[0] if summary.kind == "tokens" else 0,
    }
    actual = {
        "samples": len(samples),
        "inputs": inputs.shape,
        "targets": targets.shape,
        "type of inputs": str(inputs.dtype),
        "type of targets": str(targets.dtype),
        "tokens of a sample": summary.tokens_per_sample,
    }
    mistakes = _differences("samples", expected, actual)
    ignored = (targets == IGNORED) & (summary.has_ignored_targets and not summary.has_numbers)
    if not summary.has_numbers and not np.all(((targets >= 0) & (targets < summary.num_classes)) | ignored):
        mistakes.append(f"a target lies outside 0 to {summary.num_classes - 1}")
    if summary.target == "next" and not np.all((inputs[:, 1:] == targets[:, :-1]) | ignored[:, 1:]):
        mistakes.append("the target of a step is not the step after it")
    if not all(np.array_equal(a, b) for a, b in zip(again.batch(indices), (inputs, targets), strict=True)):
        mistakes.append("a second load gives other samples")
    single = samples.batch(indices[1:2])
    if not all(np.array_equal(a[0], b[1]) for a, b in zip(single, (inputs, targets), strict=True)):
        mistakes.append("a sample depends on the others of its batch")
    _assert_none(mistakes)


@functools.cache
def _losses_of_one_worker(spec: str, num_shards: int) -> list[float]:
    (worker,) = run_in_workers(1, cases.training, json.loads(spec), num_shards)
    return list(worker["losses"])


def _differences(subject: str, expected: dict[Any, Any], actual: dict[Any, Any]) -> list[str]:
    return [
        f"{subject}, {key if isinstance(key, str | int) else ' '.join(key)}: {actual.get(key)}, by formula {expected.get(key)}"
        for key in dict.fromkeys([*expected, *actual])
        if expected.get(key) != actual.get(key)
    ]


def _assert_none(mistakes: list[str]) -> None:
    if mistakes:
        raise AssertionError("\n".join(mistakes))
