"""Whether a spec's mixed precision can be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import SpecError

if TYPE_CHECKING:
    from workbench.plan.plan import Plan


def check_mixed_precision(plan: Plan) -> None:
    """Raises:
    SpecError: mixed precision meets an option that it does not work with; with the reason.
    """
    spec, train, field = plan.spec, plan.spec.train, "train.mixed_precision"
    if train.mixed_precision == "none":
        return
    if train.precision != "fp32":
        raise SpecError(
            field,
            f"bf16 requires train.precision = 'fp32', but precision = {train.precision!r};"
            " set train.precision = fp32, or remove mixed_precision",
        )
    if spec.mode == "inference":
        raise SpecError(field, 'bf16 requires mode = "train": inference has no optimizer; use train.precision = bf16')
    if train.compile:
        raise SpecError(
            field, "bf16 is incompatible with train.compile: torch.compile does not see the parameter copies; use one of them"
        )
