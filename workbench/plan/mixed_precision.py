"""Whether a spec's mixed precision can be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.errors import SpecError

if TYPE_CHECKING:
    from workbench.plan.feasibility import Plan


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
            f"bf16 computes with copies of fp32 parameters, but precision = {train.precision!r};"
            " set train.precision = fp32, or leave mixed_precision out",
        )
    if spec.mode == "inference":
        raise SpecError(field, "keeps fp32 parameters for the optimizer, and inference has none; use train.precision = bf16")
    if train.compile:
        raise SpecError(field, "replaces parameters by copies while a block computes, which torch.compile does not see; use one")
