"""The split: the strategies of a run with their options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import RootModel, ValidationError, model_serializer, model_validator

from workbench.errors import SpecError
from workbench.messages import unknown_name
from workbench.registry import STRATEGIES
from workbench.spec.options import StrategyOptions, spec_error

if TYPE_CHECKING:
    from workbench.strategies.base import Strategy

LABEL_ORDER = ("data", "pipeline", "context", "tensor")  # of the mesh axes in the label of a split
SINGLE = "single"


class Split(RootModel[dict[str, Any]]):
    """The strategies of a run by name, each with its options: ``Split(data=2)``, ``Split(pipeline={"size": 2})``.

    An empty split is one worker. A number stands for ``{"size": number}``.
    """

    model_config = {"frozen": True}

    def __init__(self, root: Mapping[str, Any] | None = None, /, **strategies: Any) -> None:
        super().__init__({**(root or {}), **strategies})

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, value: Any) -> Any:
        if isinstance(value, Split):
            value = value.root
        if not isinstance(value, Mapping):
            raise SpecError("split", f"must be a table of strategies, such as [split.data] size = 2, but got {value!r}")
        resolved: dict[str, StrategyOptions] = {}
        for name, given in value.items():
            strategy, options = _options(name, given)
            if strategy in resolved:
                raise SpecError(f"split.{name}", f"the split already contains the strategy {strategy}; use only one of them")
            resolved[strategy] = options
        return resolved

    @model_serializer
    def _dump(self) -> dict[str, Any]:
        return {name: options.model_dump(mode="json", exclude_none=True) for name, options in self.items()}

    def items(self) -> Iterator[tuple[str, StrategyOptions]]:
        """Returns strategy names with their options."""
        return iter(self.root.items())

    @property
    def num_replicas(self) -> int:
        """Number of workers, or groups of workers, that process different samples: the size of the data axis, which experts
        share."""
        of_axis = [(STRATEGIES.get(name), options.size) for name, options in self.items()]
        sizes = {s.divides_axis: size for s, size in of_axis if s.axis == "data"}
        return int(sizes.get(False, sizes.get(True, 1)))

    @property
    def strategies(self) -> list[Strategy[Any]]:
        """The strategies with their options."""
        return [STRATEGIES.get(name)(options) for name, options in self.items()]

    @property
    def label(self) -> str:
        """Label of the split in tables: ``single``, ``dp2``, ``pp2-1f1b-m4``, ``dp2-tp2``."""
        order = {axis: place for place, axis in enumerate(LABEL_ORDER)}
        ordered = sorted(self.strategies, key=lambda s: (order.get(s.axis, len(order)), s.divides_axis))
        return "-".join(s.label for s in ordered) or SINGLE


def _options(name: str, given: Any) -> tuple[str, StrategyOptions]:
    """Returns the strategy ``name``, which may be an alias, and its validated options."""
    if isinstance(given, StrategyOptions):
        return name, given
    if isinstance(given, int) and not isinstance(given, bool):
        given = {"size": given}
    for strategy in map(STRATEGIES.get, STRATEGIES.names()):
        if name in strategy.aliases:
            given = {**strategy.aliases[name], **given} if isinstance(given, Mapping) else given
            name = strategy.name
    if name not in STRATEGIES.names():
        aliases = (alias for strategy in STRATEGIES.names() for alias in STRATEGIES.get(strategy).aliases)
        raise SpecError("split", unknown_name(STRATEGIES.kind, name, sorted([*STRATEGIES.names(), *aliases])))
    if not isinstance(given, Mapping):
        raise SpecError(f"split.{name}", f"must be the number of workers or a table of options, but got {given!r}")
    try:
        return name, STRATEGIES.get(name, "split").Options.model_validate(given)
    except ValidationError as error:
        raise spec_error(error, f"split.{name}") from None
