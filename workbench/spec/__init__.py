"""The spec of a run: frozen, versioned, read from and written to TOML."""

from workbench.spec.options import DatasetOptions, ModelOptions, Options, StrategyOptions, describe
from workbench.spec.run_spec import RunSpec
from workbench.spec.split import Split

__all__ = ["DatasetOptions", "ModelOptions", "Options", "RunSpec", "Split", "StrategyOptions", "describe"]
