"""Compares the tensor plans that Transformers ships (``base_model_tp_plan``) with those that computing verifies."""

from __future__ import annotations

import re
import signal
from typing import Any

import torch
from torch import nn
from zoo_worker import options_of, small

from workbench.plan.tensor_plan import TensorPlan
from workbench.runtime.tensor_plan.find import Subject, find_plan
from workbench.sources.config_source import ConfigSource
from workbench.strategies.tensor.kinds_modules import is_linear, is_table

_STYLES = {
    "colwise": "column",
    "rowwise": "row",
    "colwise_gather_output": "vocabulary",
    "embedding_rowwise": "vocabulary",
    "embedding_colwise": "hidden",
}
"""Style of Transformers → ours."""
_SUMMED, _LIMIT_S = "replicated_with_grad_allreduce", 60


def model_types(rank: int, recorder: Any, control: Any) -> list[str]:
    """Returns the causal language models that ship a plan."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    return [name for name in sorted(CAUSAL) if name in CONFIG_MAPPING and CONFIG_MAPPING[name].base_model_tp_plan]


def shipped_plan(rank: int, recorder: Any, control: Any, model_type: str) -> dict[str, Any]:
    """Returns what is verified of the plan of a model type in the sizes of the zoo: the entries that are ``right``; those that
    ``differ``, with the reason; the parameters of which a worker has a part of the gradient but that are ``not_summed``; those
    ``not_compared``, whose style or parameter has no counterpart; or why the model is ``left_out``."""
    try:
        options = options_of(model_type, "tokens")
        torch.manual_seed(0)
        model = ConfigSource.parse(f"hf:{model_type}", "model.name").load()(**small(model_type) | options)
        signal.alarm(_LIMIT_S)
        plan = find_plan(Subject(model, lambda count: torch.randint(32, (count, 8)), output=lambda output, _: output.logits))
    except Exception as error:  # noqa: BLE001 - whatever a model in sizes that its authors did not foresee raises
        return {"left_out": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    finally:
        signal.alarm(0)
    return compared(model, model.tp_plan, plan)


def compared(model: nn.Module, shipped: dict[str, str], plan: TensorPlan) -> dict[str, Any]:
    """As ``shipped_plan``, of a model, the plan that it ships and the plan that was verified."""
    styles = {part.path: part.style for group in plan.groups for part in group.modules}
    reasons = {path: rejected.reason for rejected in plan.rejected for path in rejected.modules}
    record: dict[str, Any] = {"right": [], "differ": {}, "not_summed": [], "not_compared": []}
    of_shipped, cut = dict[str, str](), dict[str, str]()
    for pattern, style in shipped.items():
        expression = re.compile(re.escape(pattern).replace(r"\*", r"[^.]+"))
        paths = [
            name for name, part in model.named_modules() if expression.fullmatch(name) and (is_linear(part) or is_table(part))
        ]
        cut |= dict.fromkeys(paths, _STYLES.get(style, ""))
        if style == _SUMMED:
            of_shipped |= dict.fromkeys((name for name, _ in model.named_modules() if expression.fullmatch(name)), style)
        elif not paths or style not in _STYLES:
            record["not_compared"].append(f"{pattern} ({style})")
        elif all(styles.get(path) == _STYLES[style] for path in paths):
            record["right"].append(f"{pattern} ({style})")
        else:
            path = next(path for path in paths if styles.get(path) != _STYLES[style])
            instead = f"verified as {styles[path]}" if path in styles else "not nominated"
            record["differ"][f"{pattern} ({style})"] = reasons.get(path, instead)
    # Of the groups that it cuts likewise.
    alike = [group for group in plan.groups if all(cut.get(part.path) == part.style for part in group.modules)]
    summed = {name for group in alike for name in group.summed if name.rpartition(".")[0] not in of_shipped}
    record["not_summed"] = sorted(set(map(_pattern, summed)))
    return record


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
