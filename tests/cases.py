"""What the conformance suite runs inside workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist

from tests.pool import run_in_workers
from workbench.plan.feasibility import Plan, plan
from workbench.runtime import accounting
from workbench.runtime.batches import Batches
from workbench.runtime.build import DTYPES, build_worker, make_mesh
from workbench.runtime.parity import check_parity
from workbench.runtime.recorder import Recorder
from workbench.runtime.training import train
from workbench.spec import RunSpec
from workbench.store.summary import measured_transfers
from workbench.strategies.worker_model import StepResult

CPU = torch.device("cpu")
NUM_PARITY_STEPS = 10


def parity(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any], fault: str | None) -> dict[str, Any] | None:
    """The parity report (on rank 0) of ten SGD steps in fp64, with a mistake made on purpose if asked."""
    planned = plan(RunSpec(**spec))
    if fault:
        FAULTS[fault](planned)
    mesh = make_mesh(planned, "cpu", recorder)
    report = check_parity(planned, rank, mesh, recorder, CPU, control, NUM_PARITY_STEPS)
    return report.as_dict() if report else None


def training(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """A short run's figures, transfers, parameters and losses on this worker."""
    planned = plan(RunSpec(**spec))
    mesh = make_mesh(planned, "cpu", recorder)
    dtype = DTYPES[planned.spec.train.precision]
    worker = build_worker(planned, rank, mesh, recorder, CPU, dtype)
    record = train(planned, worker, Batches(planned, CPU, dtype), recorder, lambda **_: None)
    accounting.attribute_idle(recorder, control, planned.num_workers)
    rows = accounting.communication_rows(recorder, is_cuda=False)
    return {
        "communication": accounting.transfers_per_step(rows, planned.spec.measure.num_trace_steps),
        "parameters": record.parameters,
        "parameter_bytes": record.parameter_bytes,
        "gradient_bytes": record.gradient_bytes,
        "optimizer_state_bytes": record.optimizer_state_bytes,
        "peak_memory_bytes": record.peak_memory_bytes,
        "losses": [row["loss"] for row in record.steps],
        "tokens": [row["num_tokens"] for row in record.steps],
        "parts": accounting.step_parts(recorder, record.steps),
    }


def split_attention(rank: int, recorder: Recorder, control: Any, options: dict[str, Any]) -> dict[str, float]:
    """Largest differences between this worker's part and whole causal attention with two q heads a key/value head."""
    from workbench.strategies.context import ContextOptions, ContextStrategy
    from workbench.strategies.context_modules import split_attention as product_of

    strategy, length = ContextStrategy(ContextOptions(**options)), 24
    runs = strategy.runs(length)
    mine = [position for run in runs[rank] for position in run]
    torch.manual_seed(0)
    q, gradient = torch.randn(2, 2, 4, length, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, length, 8, dtype=torch.float64)
    whole = [t.clone().requires_grad_() for t in (q, k, v)]
    part = [t[:, :, mine].requires_grad_() for t in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*whole, is_causal=True, enable_gqa=True)
    found = product_of(options["attention"], runs, dist.group.WORLD)(*part)
    wanted.backward(gradient)
    found.backward(gradient[:, :, mine])
    pairs = {"values": (wanted, found)}
    pairs |= {f"gradient of {name}": (w.grad, f.grad) for name, w, f in zip("qkv", whole, part, strict=True)}
    return {name: float((w[:, :, mine] - f).abs().max()) for name, (w, f) in pairs.items()}


def parity_and_training(rank: int, recorder: Recorder, control: Any, spec: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Both in the same workers, for suites of many small cases."""
    return parity(rank, recorder, control, spec, None), training(rank, recorder, control, spec)


def assert_split_as_by_formula(spec: dict[str, Any]) -> None:
    """Computes what one worker computes; moves the bytes, in as many operations, and holds the parameters, of its
    formulas."""
    planned = plan(RunSpec(**spec))
    reports, results = zip(*run_in_workers(planned.num_workers, parity_and_training, spec), strict=True)
    assert reports[0]["ok"], reports[0]
    assert reports[0]["max_error"] <= 1e-9, reports[0]
    expected: Counter[tuple[str, str, str]] = Counter()
    counts: Counter[tuple[str, str, str]] = Counter()
    for t in planned.transfers:
        expected[t.operation, t.axis, t.phase] += t.count * t.payload_bytes
        counts[t.operation, t.axis, t.phase] += t.count
    measured = {(t["operation"], t["axis"], t["phase"]): t for t in measured_transfers(list(results))}
    assert {key: t["payload_bytes"] for key, t in measured.items()} == dict(expected)
    assert {key: t["count"] for key, t in measured.items()} == dict(counts)
    assert [r["parameters"] for r in results] == planned.expected_record()["parameters_per_worker"]


def _unaveraged(planned: Plan) -> None:
    """Data parallelism that sums its gradients."""
    (strategy,) = planned.strategies
    right = type(strategy).finish

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)

        def summed(state: Any, bucket: Any) -> Any:
            return (
                dist.all_reduce(bucket.buffer(), group=mesh.get_group("data"), async_op=True)
                .get_future()
                .then(lambda f: f.value()[0])
            )

        # torch checks the hook's annotations, which are strings in this file
        summed.__annotations__ = {"bucket": dist.GradBucket, "return": torch.futures.Future[torch.Tensor]}
        worker.module.register_comm_hook(None, summed)

    object.__setattr__(strategy, "finish", wrong)


def _doubled(planned: Plan) -> None:
    """Data parallelism, however it averages, whose gradients are then doubled."""
    (strategy,) = planned.strategies
    right = type(strategy).finish

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        compute = worker.compute

        def doubled(inputs: Any, targets: Any) -> StepResult:
            result = compute(inputs, targets)
            for _, parameter in worker.named_parameters():
                parameter.grad.mul_(2)
            return result

        worker.compute = doubled

    object.__setattr__(strategy, "finish", wrong)


def _dropped_slice(planned: Plan) -> None:
    """Tensor slicing in which one worker's slice of the first layer counts for nothing."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        if mesh.get_local_rank("tensor") == 1:
            layer = next(p.row for p in worker.summary.groups if p.row and p.column)  # type: ignore[attr-defined]
            with torch.no_grad():
                worker.blocks.get_submodule(layer).weight.to_local().zero_()

    object.__setattr__(strategy, "apply", wrong)


def _lost_microbatch(planned: Plan) -> None:
    """A pipeline whose last microbatch is a copy of its first."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        compute = worker.compute

        def lossy(inputs: Any, targets: Any) -> StepResult:
            size = len(inputs) // worker.num_microbatches
            inputs, targets = inputs.clone(), targets.clone()
            inputs[-size:], targets[-size:] = inputs[:size], targets[:size]
            return compute(inputs, targets)

        worker.compute = lossy

    object.__setattr__(strategy, "apply", wrong)


def _positions_not_told(planned: Plan) -> None:
    """A split sequence whose workers all take their part for its beginning."""
    (strategy,) = planned.strategies
    right = type(strategy).apply

    def wrong(worker: Any, mesh: Any) -> None:
        right(strategy, worker, mesh)
        worker.blocks.embedding.positions = None

    object.__setattr__(strategy, "apply", wrong)


FAULTS = {
    "gradients not averaged": _unaveraged,
    "gradients doubled": _doubled,
    "slice dropped": _dropped_slice,
    "microbatch lost": _lost_microbatch,
    "positions not told": _positions_not_told,
}
