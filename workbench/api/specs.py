"""What a run is: specs, the forms that ask for one, the files, paths and commands that say one, and the demonstration."""

from __future__ import annotations

from workbench.models.user.from_callable import UserModel
from workbench.spec.files import dumps, override, parse_value, read_table
from workbench.spec.form import Field, all_fields, fields, parts, plugin_field, top_fields
from workbench.spec.options import DatasetOptions, describe
from workbench.spec.paths import command, differences, not_by_default, script, spec_of, value_text
from workbench.spec.run_spec import DEFAULT_MODEL, RunSpec

__all__ = [
    "DEFAULT_MODEL",
    "DatasetOptions",
    "Field",
    "RunSpec",
    "UserModel",
    "all_fields",
    "command",
    "describe",
    "differences",
    "dumps",
    "fields",
    "four_strategies",
    "not_by_default",
    "override",
    "parse_value",
    "parts",
    "plugin_field",
    "read_table",
    "script",
    "spec_of",
    "top_fields",
    "value_text",
]

_FOUR_STRATEGIES = (
    {"data": {"size": 2}},
    {"layer": {"size": 2}},
    {"pipeline": {"size": 2, "schedule": "1f1b", "num_microbatches": 4}},
    {"tensor": {"size": 2}},
)


def four_strategies(spec: RunSpec) -> list[RunSpec]:
    """Returns this spec split over two workers by each of four strategies. With the default spec it is the demonstration. The run
    on one worker is added as their baseline."""
    return [spec.replace(split=split) for split in _FOUR_STRATEGIES]
