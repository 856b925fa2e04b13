"""Nominates modules of a user's model that may be cut together, from one forward pass: computing decides about them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from workbench.plan.tensor_plan import SlicedModule, Style
from workbench.runtime.tensor_plan.flow import OUTPUT, Flow
from workbench.strategies.tensor.kinds_modules import is_attention, is_by_channel, is_layer, is_linear, is_table, size_of


@dataclass(frozen=True)
class Candidate:
    """Layers of which some use the outputs of the others, with what lies between and treats channels separately; or a table or
    head alone."""

    columns: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()

    @property
    def parts(self) -> tuple[SlicedModule, ...]:
        """All its modules, each with its style."""
        styles: dict[Style, tuple[str, ...]] = {
            "column": self.columns,
            "channel": self.channels,
            "row": self.rows,
            "heads": self.heads,
            "vocabulary": self.vocabulary,
        }
        return tuple(SlicedModule(path, style) for style, paths in styles.items() for path in paths)


def candidates(root: nn.Module, flow: Flow, num_samples: int) -> list[Candidate]:
    """Returns candidates in the order of their last modules; no module is in two of them.

    Args:
        num_samples: Number of samples of the flow.
    """
    modules, found = dict(root.named_modules()), list[Candidate]()
    weights = {path: getattr(modules[path], "weight", None) for path in flow.order}
    uses = Counter(id(weight) for weight in weights.values() if weight is not None)
    taken = {path for path, weight in weights.items() if uses[id(weight)] > 1}  # tied: a table with a head
    spaces, postponed = list(_spaces(modules, flow)), list[Candidate]()

    def take(candidate: Candidate) -> None:
        used = {*candidate.columns, *candidate.channels, *candidate.rows}
        if not used & taken:
            found.append(candidate)
            taken.update(used)

    for path in flow.order:
        if is_attention(modules[path]):
            found.append(Candidate(heads=(path,)))
        if not is_layer(modules[path]):
            continue
        space = next((space for space in spaces if space.rows[-1] == path and not {*space.columns} & {*space.rows}), None)
        candidate = space if space is not None and not taken.intersection(space.columns, space.rows) else None
        candidate = candidate or _pair(path, modules, flow, taken)
        if candidate is None:
            continue
        if any(_squeezes(candidate, space, modules, flow, num_samples) for space in spaces):
            postponed.append(candidate)
        else:
            take(candidate)
    for candidate in postponed:
        take(candidate)
    return [*found, *_alone(modules, flow, {path for c in found for path in (*c.columns, *c.rows)})]


def _spaces(modules: Mapping[str, nn.Module], flow: Flow) -> Iterator[Candidate]:
    """Yields the layers that share features: outputs of some are inputs of others, with nothing that mixes them between."""
    parents: dict[tuple[str, str], tuple[str, str]] = {}

    def first(key: tuple[str, str]) -> tuple[str, str]:
        while (parent := parents.setdefault(key, key)) != key:
            key = parent
        return key

    for path in flow.order:
        if is_by_channel(modules[path]):
            parents[first(("in", path))] = first(("out", path))
        for source in flow.sources[path]:
            if not is_table(modules[source]):
                parents[first(("out", source))] = first(("in", path))
    columns, channels, rows = (dict[tuple[str, str], list[str]]() for _ in range(3))
    for path in flow.order:
        if is_by_channel(modules[path]):
            channels.setdefault(first(("in", path)), []).append(path)
        elif is_layer(modules[path]):
            columns.setdefault(first(("out", path)), []).append(path)
            rows.setdefault(first(("in", path)), []).append(path)
    attentions = [path for path in flow.order if is_attention(modules[path])]
    whole = {first((end, path)) for path in attentions for end in ("in", "out")}
    for key in columns.keys() & rows.keys() - whole:
        yield Candidate(tuple(columns[key]), tuple(channels.get(key, ())), tuple(rows[key]))


def _pair(path: str, modules: Mapping[str, nn.Module], flow: Flow, taken: set[str]) -> Candidate | None:
    """Returns a layer with those whose outputs it alone uses; None if there are none."""
    sources = {source for source in flow.sources[path] if is_layer(modules[source]) and source not in taken}
    columns = [source for source in flow.order if source in sources and flow.readers(source) - {OUTPUT} == {path}]
    readers = {reader for source in sources for reader in flow.readers(source)}
    return Candidate(tuple(columns), (), (path,)) if columns and path not in taken and not readers.intersection(columns) else None


def _squeezes(candidate: Candidate, space: Candidate, modules: Mapping[str, nn.Module], flow: Flow, num_samples: int) -> bool:
    """Whether it takes the channels of a space, pooled over all positions, and returns to it: squeeze-and-excitation, which is
    cut with the others of the space, if these are."""
    if not ({*candidate.columns} <= {*space.rows} and {*candidate.rows} <= {*space.columns}):
        return False
    most = max(flow.elements[path] for path in space.rows)
    return all(flow.elements[path] == num_samples * size_of(modules[path], "row") < most for path in candidate.columns)


def _alone(modules: Mapping[str, nn.Module], flow: Flow, taken: set[str]) -> Iterator[Candidate]:
    """Yields tables and heads, tied ones together."""
    tables = [path for path in flow.order if is_table(modules[path])]
    heads = [path for path in flow.order if path in flow.sources[OUTPUT] and is_linear(modules[path]) and path not in taken]
    of_weight: dict[int, list[str]] = {}
    for path in (*tables, *heads):
        of_weight.setdefault(id(modules[path].weight), []).append(path)
    for paths in of_weight.values():
        yield Candidate(vocabulary=tuple(paths))


def gathered(candidate: Candidate, root: nn.Module, flow: Flow) -> list[Candidate]:
    """Returns the linear layers of a pair that may be cut alone, with their outputs gathered: heads, and those of which the
    tensor plan that a Transformers model ships says so."""
    shipped = _gathered_by_shipped_plan(root) | flow.sources[OUTPUT] if candidate.rows else set[str]()
    paths = (path for path in (*candidate.columns, *candidate.rows) if is_linear(root.get_submodule(path)))
    return [Candidate(vocabulary=(path,)) for path in paths if path in shipped]


def _gathered_by_shipped_plan(root: nn.Module) -> set[str]:
    patterns = set[str]()
    for path, module in root.named_modules():
        plan = getattr(module, "tp_plan", None)
        for name, style in plan.items() if isinstance(plan, Mapping) else ():
            if style == "colwise_gather_output":
                patterns.add(re.escape(f"{path}.{name}" if path else name).replace(r"\*", r"[^.]+"))
    return {path for path, _ in root.named_modules() if any(re.fullmatch(pattern, path) for pattern in patterns)}
