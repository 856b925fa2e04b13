"""Draws the README's picture from recorded runs: ``python docs/pictures.py RUN… --to FILE.svg``.

``workbench run`` with no argument makes such runs; the last pipeline among them gives the timeline. A file that exists is
kept unless ``--replace`` is given: ``workbench/dashboard/demonstration.svg``, of the README and the front page, is tracked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import altair as alt

from workbench.analysis.comparison import step_parts
from workbench.analysis.trace import timeline
from workbench.charts.step_parts import step_parts_chart
from workbench.charts.theme import svg
from workbench.charts.timeline import timeline_chart
from workbench.errors import UsageError
from workbench.store import listing, runs_table
from workbench.store.directory import home


def main(names: list[str], to: Path) -> None:
    """Writes the picture of these runs, or of all, to a file."""
    runs = [listing.find(home(), name) for name in names] or listing.all_runs(home())
    rows = [runs_table.row(run) for run in runs]
    pipelines = [run for run, row in zip(runs, rows, strict=True) if row["split"].startswith("pp")]
    if not pipelines:
        sys.exit("none of these runs is a pipeline, of which the picture shows a step; `workbench run --split pipeline=2`")
    pipeline = pipelines[-1]
    label = runs_table.row(pipeline)["split"]
    first = {row["split"]: row for row in reversed(rows)}  # of several on one worker the one with one thread
    picture = alt.vconcat(
        step_parts_chart(step_parts(reversed(first.values()))),
        timeline_chart(timeline(pipeline), f"What does each worker of {label} do during one step?"),
    ).resolve_scale(color="independent")
    to.write_text(svg(picture), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draws the README's picture from recorded runs.")
    parser.add_argument("runs", nargs="*", help="ids of runs, or parts of them; by default all of the store")
    parser.add_argument("--to", type=Path, default=Path("demonstration.svg"), help="the file that is written")
    parser.add_argument("--replace", action="store_true", help="write it even if it exists")
    chosen = parser.parse_args()
    if chosen.to.exists() and not chosen.replace:
        parser.error(f"--to: {chosen.to} exists; give another file, or --replace")
    try:
        main(chosen.runs, chosen.to)
    except UsageError as error:
        parser.error(str(error))
