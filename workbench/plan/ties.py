"""Ties between parameters: each name to the one source, whatever the order in which a model lists them."""

from __future__ import annotations

from dataclasses import replace

from workbench.errors import SpecError
from workbench.plan.model_summary import ModelSummary, Tie


def with_resolved_ties(model: ModelSummary) -> ModelSummary:
    """The model with every tie pointing to the first name of its parameter: ``c → b`` and ``b → a`` become ``c → a``.

    Raises:
        SpecError: a tie names no parameter, or parameters that cannot be one.
    """
    parameters = {p.name: p for p in model.parameters}
    source_of = {tie.parameter: tie.source for tie in model.ties}
    ties = []
    for tie in model.ties:
        source, seen = tie.source, {tie.parameter}
        while source in source_of and source not in seen:
            seen.add(source)
            source = source_of[source]
        for name in (tie.parameter, source):
            if name not in parameters:
                raise SpecError("model.name", f"{model.name} ties {tie.parameter} to {tie.source}, but has no parameter {name}")
        if source in seen:
            raise SpecError("model.name", f"{model.name} ties {tie.parameter} to itself; use another source")
        mine, first = parameters[tie.parameter], parameters[source]
        if mine.shape != first.shape or mine.requires_grad != first.requires_grad:
            what = "shape" if mine.shape != first.shape else "requires_grad"
            values = getattr(mine, what), getattr(first, what)
            raise SpecError(
                "model.name",
                f"{model.name} ties {tie.parameter} to {source}, but their {what} differs: {values[0]} and {values[1]}",
            )
        ties.append(Tie(tie.parameter, source))
    return replace(model, ties=tuple(dict.fromkeys(ties)))
