"""Draws the loss of one or several runs."""

from __future__ import annotations

import math
from collections import Counter

import altair as alt
import pandas as pd

from workbench.analysis.parity import TEXTS
from workbench.charts.line_names import line_names
from workbench.charts.theme import WIDTH, described, layered, run_colours, tone_colour

_HEIGHT = 240
_ROOM = 0.4
"""Room for the names of the lines, relative to the range of steps."""
_DASHES = ([1, 0], [7, 3], [2, 2], [9, 2, 2, 2])
"""Of the first, second, … run of one colour."""
_SAME = 0.005
"""Part of the range of the losses within which two lines look like one."""
_NAMED = 3
"""Largest number of runs that are named at the end of a line that they share."""


def loss_chart(frame: pd.DataFrame) -> alt.Chart:
    """Draws the loss after each step of one run; columns ``step`` and ``loss``."""
    chart = (
        alt.Chart(frame, title="Does the loss fall?", height=220)
        .mark_line(point=alt.OverlayMarkDef())
        .encode(
            x=alt.X("step:Q", title="step (including warm-up)", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False)),
            tooltip=["step", alt.Tooltip("loss", format=".4f")],
        )
    )
    first, last = frame.nsmallest(1, "step").iloc[0], frame.nlargest(1, "step").iloc[0]
    return described(chart, f"From {first['loss']:.4g} in step {first['step']:.0f} to {last['loss']:.4g} in {last['step']:.0f}.")


def losses_charts(frame: pd.DataFrame) -> list[alt.LayerChart]:
    """Draws the loss by step, one line per run, and its distance from that of one worker on a logarithmic axis, if there is any;
    data of ``losses.losses``. Runs of one strategy have different dashes; lines that look like one have one name."""
    differs = frame[frame["difference"] > 0]
    return [_losses(frame), *([_differences(frame, differs)] if len(differs) else [])]


def _losses(frame: pd.DataFrame) -> alt.LayerChart:
    low, high = frame["loss"].min(), frame["loss"].max()
    margin = 0.04 * (high - low) or 1.0
    domain = (low - margin, high + margin)
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    y = alt.Y("loss:Q", title="loss (mean over workers)", scale=scale)
    several = frame["split"].nunique() > 1
    facts = _parity(frame)
    title = alt.Title("Do the splits have the same loss?" if several else "Does the loss fall?", subtitle=facts)
    return described(_lines(frame, y, "loss", domain, title, _shared_names(frame, _SAME * (high - low))), " ".join(facts))


def _differences(frame: pd.DataFrame, differs: pd.DataFrame) -> alt.LayerChart:
    exponents = math.floor(math.log10(differs["difference"].min())), math.ceil(math.log10(differs["difference"].max()))
    low, high = exponents[0], max(exponents[1], exponents[0] + 1)
    step = max(1, (high - low) // 5)
    axis = alt.Axis(values=[10.0**exponent for exponent in range(low, high + 1, step)], format=".0e")
    scale = alt.Scale(type="log", domain=[10.0**low, 10.0**high], nice=False)
    y = alt.Y("difference:Q", title="|loss − loss of one worker|", scale=scale, axis=axis)
    most = differs.nlargest(1, "difference").iloc[0]
    fact = f"Largest: {most['difference']:.1e}, {most['split']} in step {most['step']:.0f}."
    has_equal = len(differs) < frame["difference"].notna().sum()
    facts = [fact, *(["Steps without a point: exactly equal."] if has_equal else [])]
    title = alt.Title("How far is each loss from that of one worker?", subtitle=facts)
    names = {split: split for split in dict.fromkeys(differs["split"])}
    drawn = differs.assign(height=differs["difference"].map(math.log10))
    return described(_lines(drawn, y, "height", (low, high), title, names), " ".join(facts))


def _lines(
    frame: pd.DataFrame, y: alt.Y, height: str, domain: tuple[float, float], title: alt.TitleParams, names: dict[str, str]
) -> alt.LayerChart:
    """Draws a line per run, with these names by run at the ends; ``height`` is the column of their places on the axis."""
    splits = list(dict.fromkeys(frame["split"]))
    first, last = frame["step"].min(), frame["step"].max()
    end = last + _ROOM * max(last - first, 1)
    scale = alt.Scale(domain=[first, end], nice=False)
    ticks = alt.Axis(format="d", tickMinStep=1, values=_ticks(int(first), int(last)))
    x = alt.X("step:Q", title="step", axis=ticks, scale=scale)
    tones = run_colours(splits)
    colour = tone_colour("split", tones).legend(None)
    seen: Counter[str] = Counter()
    dashes = []
    for split in splits:
        dashes.append(_DASHES[seen[tones[split]] % len(_DASHES)])
        seen[tones[split]] += 1
    dash = alt.StrokeDash("split:N", scale=alt.Scale(domain=splits, range=dashes), legend=None)
    tooltip = [
        alt.Tooltip("split:N", title="run"),
        alt.Tooltip("step:Q"),
        alt.Tooltip("loss:Q", format=".6g"),
        alt.Tooltip("difference:Q", title="distance from one worker", format=".1e"),
        alt.Tooltip("parity:N"),
    ]
    lines = alt.Chart(frame).encode(x=x, y=y, color=colour, tooltip=tooltip)
    ends = frame[frame["split"].isin(names)].sort_values("step").drop_duplicates("split", keep="last")
    ends["name"] = ends["split"].map(names)
    return layered(
        lines.mark_line(strokeWidth=2).encode(strokeDash=dash),
        lines.mark_point(size=30, filled=True, opacity=0),  # easier to point at than a line
        *line_names(ends, height, x, y, colour, domain, _HEIGHT),
        title=title,
        width=WIDTH,
        height=_HEIGHT,
    )


def _ticks(first: int, last: int) -> list[int]:
    step = max(1, round((last - first) / 8))
    return list(range(first, last + 1, step))


def _shared_names(frame: pd.DataFrame, tolerance: float) -> dict[str, str]:
    """Returns the name at the end of each line, by its run; of lines that look like one, the first has the name of all."""
    curves = {split: of.set_index("step")["loss"] for split, of in frame.groupby("split", sort=False)}
    groups: list[list[str]] = []
    for split, curve in curves.items():
        for group in groups:
            other = curves[group[0]]
            if curve.index.equals(other.index) and (curve - other).abs().max() <= tolerance:
                group.append(str(split))
                break
        else:
            groups.append([str(split)])
    return {group[0]: ", ".join(group) if len(group) <= _NAMED else f"{len(group)} runs" for group in groups}


def _parity(frame: pd.DataFrame) -> list[str]:
    """Returns what the parity check found, in one sentence if it is the same for all."""
    runs = frame.drop_duplicates("split")
    verdicts = runs.groupby("parity", sort=False)["split"].agg(list)
    if list(verdicts.index) == [TEXTS["equal"]]:
        most = pd.to_numeric(runs["parity_error"]).max()
        within = "" if pd.isna(most) else f" within {most:.1e}"
        return [f"Parity check: {f'all {len(runs)} runs equal' if len(runs) > 1 else 'equals'} one worker{within}."]
    return [f"Parity check: {', '.join(splits)}: {verdict}." for verdict, splits in verdicts.items()]
