"""Renders tables and specs as HTML for notebook cells. All text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.spec.run_spec import RunSpec


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], num_names: int = 1) -> str:
    """Renders a table; all columns except the first ``num_names`` are figures."""
    head, body = _row("th", heads, num_names), "".join(_row("td", row, num_names) for row in rows)
    return f'<div style="overflow-x:auto"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(kind: str, texts: Sequence[str], num_names: int) -> str:
    sides = ("left" if index < num_names else "right" for index in range(len(texts)))
    style = "padding:2px 10px; text-align"
    cells = (f'<{kind} style="{style}:{side}">{escape(text)}</{kind}>' for text, side in zip(texts, sides, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def spec_html(spec: RunSpec) -> str:
    """Renders a spec: its split, the options that differ from the defaults, and the command that runs it."""
    from workbench.spec.paths import command, differences, value_text

    title = f"<b>{escape(spec.split.label)}</b> · {escape(spec.model.name)} on {escape(spec.dataset.name)} · {spec.mode}"
    rows = [(path, value_text(value)) for path, value in differences(spec).items()]
    options = table(("option", "value"), rows, num_names=2) if rows else "<p>All options have their default values.</p>"
    return f"<p>{title}</p>{options}<pre>{escape(command(spec))}</pre>"


def spec_text(spec: RunSpec) -> str:
    """Returns the Python expression of a spec: ``RunSpec(split={'data': {'size': 2}})``."""
    from workbench.spec.paths import differences, nested

    return f"RunSpec({', '.join(f'{part}={value!r}' for part, value in nested(differences(spec)).items())})"
