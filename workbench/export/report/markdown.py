"""Renders a report as Markdown with charts in separate files, since code hosts show neither inline charts nor data URLs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from workbench.charts.theme import svg
from workbench.export.report.parts import Drawing, Listing, Part, Section, Sentences, Table


def markdown(title: str, subtitle: str, sections: Sequence[Section], folder: str) -> tuple[str, dict[str, str]]:
    """Renders the document, and returns the charts by path in this ``folder`` beside it, each for light and dark ground."""
    charts: dict[str, str] = {}
    lines = [f"# {_text(title)}", "", _text(subtitle), ""]
    for section in sections:
        lines += [f"## {_text(section.heading)}", ""]
        lines += [_text(section.sentence), ""] if section.sentence else []
        for part in section.parts:
            lines += [*_lines(part, folder, charts), ""]
    return "\n".join(lines), charts


def _lines(part: Part, folder: str, charts: dict[str, str]) -> Iterator[str]:
    match part:
        case Table(heads, rows, num_names):
            yield _row(heads)
            yield _row(["---" if index < num_names else "---:" for index in range(len(heads))], escape=False)
            yield from (_row(row) for row in rows)
        case Sentences(sentences):
            yield from (f"- {_text(sentence)}" for sentence in sentences)
        case Listing(name, text):
            fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=2))
            yield from (f"<details><summary>{_text(name)}</summary>", "", fence, text.rstrip("\n"), fence, "", "</details>")
        case Drawing(chart, description):
            name = f"{folder}/{len(charts) // 2 + 1}"
            charts[f"{name}-light.svg"], charts[f"{name}-dark.svg"] = svg(chart), svg(chart, dark=True)
            dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_link(name)}-dark.svg">'
            yield f'<picture>{dark}<img src="{_link(name)}-light.svg" alt="{_text(description)}"></picture>'


def _row(values: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(map(_text, values) if escape else values)} |"


def _text(text: str) -> str:
    """Escapes text: no HTML, links, emphasis, lists, or ends of cells and lines."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return re.sub(r"([\\`*_{}\[\]|~#!]|^[-+=])", r"\\\1", text)


def _link(path: str) -> str:
    return quote(path)
