"""Nominates modules of a user's model that may be cut together, from one forward pass: computing decides about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from workbench.runtime.tensor_plan.flow import OUTPUT, Flow
from workbench.strategies.tensor.sliced_modules import dims_of, is_linear, is_table


@dataclass(frozen=True)
class Candidate:
    """Linear layers of which some use the outputs of the others, or a single table or head."""

    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of all its modules."""
        return (*self.columns, *self.rows, *self.tables, *self.heads)


def candidates(root: nn.Module, flow: Flow) -> list[Candidate]:
    """Returns candidates in the order of their last modules; no module is in two of them."""
    modules, found = dict(root.named_modules()), []
    weights = Counter(id(modules[path].weight) for path in flow.order)
    taken = {path for path in flow.order if weights[id(modules[path].weight)] > 1}  # tied: a table with a head
    for path in flow.order:
        if path in taken or not is_linear(modules[path]):
            continue
        sources = {source for source in flow.sources[path] if is_linear(modules[source]) and source not in taken}
        rows = {reader for source in sources for reader in flow.readers(source) - {OUTPUT}}
        columns = {source for source in sources if flow.readers(source) - {OUTPUT} == {path}}
        if columns and not rows.intersection(columns):
            ordered = [name for name in flow.order if name in columns]
            found.append(Candidate(columns=tuple(ordered), rows=(path,)))
            taken |= {*columns, path}
    paired = {path for candidate in found for path in candidate.paths}
    tables = [path for path in flow.order if is_table(modules[path])]
    heads = [path for path in flow.order if path in flow.sources[OUTPUT] and is_linear(modules[path]) and path not in paired]
    of_weight: dict[int, list[str]] = {}
    for path in (*tables, *heads):
        of_weight.setdefault(id(modules[path].weight), []).append(path)
    for paths in of_weight.values():
        found.append(Candidate(tables=tuple(p for p in paths if p in tables), heads=tuple(p for p in paths if p in heads)))
    return found


def size_of(module: nn.Module, style: str) -> int:
    """Returns the number of features or entries along which a module is cut."""
    weight = module.get_parameter("weight")
    return weight.shape[dims_of(module, style)["weight"]]
