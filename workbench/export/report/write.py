"""Writes the report of runs to a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from workbench.errors import UsageError
from workbench.export.report.html import html
from workbench.export.report.markdown import markdown
from workbench.export.report.parts import Compared, compare
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
    sections = [section for make in SECTIONS if (section := make(compared)) is not None]
    title, subtitle = _heading(compared)
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix == ".html":
        to.write_text(html(title, subtitle, sections), encoding="utf-8")
        return [to]
    text, charts = markdown(title, subtitle, sections, folder=f"{to.stem}-charts")
    to.write_text(text, encoding="utf-8")
    for name, svg in charts.items():
        (to.parent / name).parent.mkdir(exist_ok=True)
        (to.parent / name).write_text(svg, encoding="utf-8")
    return [to, *(to.parent / name for name in charts)]


def _heading(compared: Compared) -> tuple[str, str]:
    rows = compared.rows
    subject = ", ".join(dict.fromkeys(f"{row['model']} on {row['dataset']}" for row in rows))
    title = f"{subject}: " + (rows[0]["split"] if len(rows) == 1 else f"comparison of {len(rows)} runs")
    days = sorted(time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created_at"])) for row in rows)
    names = "; ".join(dict.fromkeys(row["name"] for row in rows if row["name"]))
    period = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return title, " · ".join(filter(None, [names, period]))
