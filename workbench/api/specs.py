"""What a run is: specs, the forms that ask for one, and the files, paths and commands that say one."""

from __future__ import annotations

from workbench.spec.demonstration import four_strategies
from workbench.spec.differences import not_by_default
from workbench.spec.files import dumps, override, parse_value, read_table
from workbench.spec.form import Field, all_fields, fields, parts, plugin_field, top_fields
from workbench.spec.options import DatasetOptions, describe
from workbench.spec.paths import command, differences, script, spec_of, value_text
from workbench.spec.run_spec import DEFAULT_MODEL, RunSpec

__all__ = [
    "DEFAULT_MODEL",
    "DatasetOptions",
    "Field",
    "RunSpec",
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
