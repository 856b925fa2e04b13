"""Runs the conformance cases of the plugins in a file, and reports the cases that their checks reject, with the reasons."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import PluginError, UsageError
from workbench.plan import compatibility
from workbench.registry import DATASETS, FAMILIES, MODELS, NOTHING_REGISTERED, SCHEDULES, STRATEGIES, announce, registered
from workbench.testing.conformance import assert_dataset_conforms, assert_model_conforms, run_case

CHECKS = ("parity", "bytes", "parameters", "memory", "losses")
"""Checks of a split; a model or a dataset alone has the check ``summary``."""


@dataclass(frozen=True)
class PluginCase:
    """A case to run."""

    name: str
    run: Callable[[], Mapping[str, list[str]]]
    """Runs the case and returns check → mistakes, empty if it passes."""


@dataclass
class CaseResult:
    """Result of a case."""

    name: str
    mistakes: Mapping[str, list[str]] = field(default_factory=dict)
    """Check → mistakes."""

    error: str = ""
    """Why the case could not be completed."""

    @property
    def passed(self) -> bool:
        return not self.error and not any(self.mistakes.values())


def load_plugins(path: Path) -> list[type]:
    """Executes a file and returns the plugins that it registers.

    Raises:
        UsageError: the file cannot be executed, registers nothing, or uses a name that is taken.
    """
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file; the name of a plugin file must end in .py")
    try:
        announce(path)
    except PluginError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the file raises
        raise UsageError(f"{path} cannot be executed{_where(error, path)}: {type(error).__name__}: {error}") from None
    plugins = registered(sys.modules[str(path.resolve())])
    if not plugins:
        raise UsageError(f"{path}: {NOTHING_REGISTERED}")
    families = {family.kind: family for family in FAMILIES}
    for cls in plugins:
        existing = families[cls.plugin_kind].get(cls.name)  # type: ignore[attr-defined]
        if existing is not cls:
            name = f"{cls.plugin_kind} {cls.name!r}"  # type: ignore[attr-defined]
            raise UsageError(f"{path}: the {name} already exists, in {existing.__module__}; use another")
    return plugins


def plugin_cases(plugins: list[type]) -> tuple[list[PluginCase], Counter[str]]:
    """Returns the cases of these plugins that the checks accept, and the sentences of the rejections with their numbers. A case
    whose plan fails with another error (a mistake in ``check`` or ``summary``) is included, and fails with that error."""
    cases: list[PluginCase] = []
    splits: list[compatibility.Case] = []
    for cls in plugins:
        kind, name = cls.plugin_kind, cls.name  # type: ignore[attr-defined]
        if kind == DATASETS.kind:
            for label, options in compatibility.datasets(name).items():
                cases.append(_by_itself(f"dataset {label}", assert_dataset_conforms, options))
        elif kind == MODELS.kind:
            for label, parts in compatibility.models(name).items():
                cases.append(_by_itself(f"model {label}", assert_model_conforms, parts))
            splits += compatibility.cases(compatibility.splits(), compatibility.models(name))
        elif kind == SCHEDULES.kind:
            splits += compatibility.cases(compatibility.schedules(name), compatibility.models())
        elif kind == STRATEGIES.kind:
            splits += compatibility.cases(compatibility.strategies(name), compatibility.models())
    refused = Counter[str]()
    for case in splits:
        try:
            sentence = compatibility.refusal(case.spec)
        except Exception:  # noqa: BLE001 - whatever a plugin raises
            sentence = None  # running the case raises it again
        if sentence is None:
            cases.append(PluginCase(str(case), lambda spec=case.spec: _of_split(spec)))  # type: ignore[misc]
        else:
            refused[sentence] += 1
    return cases, refused


def run_plugin_case(case: PluginCase) -> CaseResult:
    """Runs a case; a failing worker is a result instead of an exception."""
    try:
        return CaseResult(case.name, case.run())
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        start = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return CaseResult(case.name, error=f"{start}{lines[0]}" + (f" … {lines[-1].strip()}" if len(lines) > 1 else ""))


def _of_split(spec: dict[str, Any]) -> Mapping[str, list[str]]:
    outcome = run_case(spec)
    mistakes = outcome.parity_mistakes, outcome.communication_mistakes, outcome.parameter_mistakes, outcome.memory_mistakes
    return {check: mistakes_of() for check, mistakes_of in zip(CHECKS, (*mistakes, outcome.loss_mistakes), strict=True)}


def _by_itself(name: str, check: Callable[[dict[str, Any]], None], parts: dict[str, Any]) -> PluginCase:
    def run() -> Mapping[str, list[str]]:
        try:
            check(parts)
        except AssertionError as error:
            return {"summary": str(error).splitlines()}
        return {"summary": []}

    return PluginCase(name, run)


def _where(error: BaseException, path: Path) -> str:
    """Returns the last line of the file that was executed: ``, line 12``."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f", line {line}"
