"""Writes the report of runs to a file, as HTML or as Markdown."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2

from workbench.charts.theme import AnyChart, svg
from workbench.errors import UsageError
from workbench.export.report.parts import Compared, Drawing, Listing, Part, Section, Sentences, Table, compare
from workbench.export.report.sections import SECTIONS
from workbench.store.directory import StoredRun


def write_report(runs: Sequence[StoredRun], to: Path) -> list[Path]:
    """Writes the report of these runs. Returns its files: one of HTML, or one of Markdown and its charts in a folder beside it.

    Raises:
        UsageError: the name of the file ends neither in ``.html`` nor in ``.md``.
    """
    if to.suffix not in (".html", ".md"):
        raise UsageError(f"--to: a report is FILE.html or FILE.md, but got {to}")
    compared = compare(runs)
    sections = sections_of(compared)
    title, subtitle = _heading(compared)
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".html":
        to.write_text(_html(title, subtitle, sections), encoding="utf-8")
        return [to]
    text, charts = _markdown(title, subtitle, sections, folder=f"{to.stem}-charts")
    to.write_text(text, encoding="utf-8")
    for name, picture in charts.items():
        (to.parent / name).parent.mkdir(exist_ok=True)
        (to.parent / name).write_text(picture, encoding="utf-8")
    return [to, *(to.parent / name for name in charts)]


def sections_of(compared: Compared) -> list[Section]:
    """Returns the sections of the report of these runs, in their order."""
    return [section for make in SECTIONS if (section := make(compared)) is not None]


def _heading(compared: Compared) -> tuple[str, str]:
    rows = compared.rows
    subject = ", ".join(dict.fromkeys(f"{row['model']} on {row['dataset']}" for row in rows))
    title = f"{subject}: " + (rows[0]["split"] if len(rows) == 1 else f"comparison of {len(rows)} runs")
    days = sorted(time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created_at"])) for row in rows)
    names = "; ".join(dict.fromkeys(row["name"] for row in rows if row["name"]))
    period = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return title, " · ".join(filter(None, [names, period]))


def _html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Renders one HTML file with charts as SVG for light and dark, without scripts or external resources. All text is escaped."""
    return _page().render(title=title, subtitle=subtitle, sections=sections, image=_image)


@cache
def _page() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.tests["part"] = lambda part, kind: type(part).__name__ == kind
    return environment.get_template("page.html")


def _image(chart: AnyChart, dark: bool) -> str:
    """Returns the chart as a data URL: in an image, ids of clips and gradients are local."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(chart, dark).encode()).decode()


def _markdown(title: str, subtitle: str, sections: Sequence[Section], folder: str) -> tuple[str, dict[str, str]]:
    """Renders Markdown, and returns the charts by path in this ``folder`` beside it, each for light and dark ground: code hosts
    show neither inline charts nor data URLs."""
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
        case Drawing(chart, _):
            name = f"{folder}/{len(charts) // 2 + 1}"
            charts[f"{name}-light.svg"], charts[f"{name}-dark.svg"] = svg(chart), svg(chart, dark=True)
            dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_link(name)}-dark.svg">'
            yield f'<picture>{dark}<img src="{_link(name)}-light.svg" alt="{_text(chart.description)}"></picture>'


def _row(values: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(map(_text, values) if escape else values)} |"


def _text(text: str) -> str:
    """Escapes text: no HTML, links, emphasis, lists, or ends of cells and lines."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return re.sub(r"([\\`*_{}\[\]|~#!]|^[-+=])", r"\\\1", text)


def _link(path: str) -> str:
    return quote(path)
