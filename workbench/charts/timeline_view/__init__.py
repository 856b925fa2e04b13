"""Packs the lanes of a step for ``timeline.js``, which draws them in the dashboard and in notebooks."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.analysis.formatting import mebibytes, seconds
from workbench.analysis.lanes import Activity, Lanes, shares
from workbench.analysis.step_lanes import StepLanes
from workbench.charts.theme import COLOURS, SEQUENCE_COLOURS, theme

JAVASCRIPT = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("lanes.js", "timeline.js"))
"""One module of both files: Streamlit takes the text of a module, which cannot import another."""
STYLES = Path(__file__).with_name("timeline.css").read_text(encoding="utf-8")
_TONES = SEQUENCE_COLOURS[:6]
"""Colours of microbatches and stages, without the seventh, grey, which means waiting."""
_PALE = 0.55
"""How much of its colour a backward pass keeps where colours show something else than the kind."""
_MOST_NAMED = 4
"""Largest number of microbatches or stages of one colour that the legend names."""
_WORDS = {
    "forward": "forward pass",
    "backward": "backward pass",
    "backward_input": "backward pass for inputs (backward_input)",
    "backward_weight": "backward pass for weights (backward_weight)",
}
_IDEAL_HINT = "The ideal uses each action's average duration, starts it as early as possible and ignores communication time."
_IDLE_HINT = "A worker is idle until the last participant enters the operation that it waits for."


def packed(step: StepLanes) -> bytes:
    """Returns a header in JSON, preceded by its length (uint32, little-endian), and the columns of each lane."""
    groups = [("Measured", step.measured)] + ([("Ideal of this schedule", step.ideal)] if step.ideal else [])
    activities = [activity for _, lanes in groups for activity in lanes.activities]
    labels, offset = _labels(activities, step.measured), 0
    columns: list[bytes] = []
    described = []
    for title, lanes in groups:
        rows = []
        for lane, share in zip(lanes.lanes, shares(lanes).to_dict("records"), strict=True):
            idle = share["idle"] if lanes is step.measured else 1 - share["busy"]
            begins_ms = float(lane.begin_ms[0]) if lanes is step.measured and len(lane.begin_ms) else 0.0
            rows.append(
                {
                    "name": _name(step, lane.worker), "count": len(lane.begin_ms), "busy": share["busy"], "idle": idle,
                    "begins_ms": begins_ms,
                }
            )  # fmt: skip
            times = (lane.begin_ms, lane.end_ms, lane.event_begin_ms, lane.event_end_ms)
            columns += [np.asarray(column, "<f4").tobytes() for column in times]
            columns.append(np.asarray(lane.activity + offset, "<u4").tobytes())
        offset += len(lanes.activities)
        described.append({"title": f"{title}: {seconds(lanes.end_ms / 1e3)}", "is_ideal": lanes is step.ideal, "lanes": rows})
    header = {
        "key": step.key,
        "title": step.title,
        "description": step.sentence,
        "hints": [hint for hint, applies in _hints(step, labels) if applies],
        "span_ms": max(lanes.end_ms for _, lanes in groups),
        "kinds": [kind for kind in COLOURS if any(activity.kind == kind for activity in activities)],
        "activities": [{"kind": a.kind, "text": text(a), "label": label} for a, label in zip(activities, labels, strict=True)],
        "groups": described,
        "shades": _shades(activities),
        "schemes": {"light": _scheme(dark=False), "dark": _scheme(dark=True)},
    }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 4)  # typed arrays begin at multiples of four
    return b"".join([struct.pack("<I", len(encoded)), encoded, *columns])


def text(activity: Activity) -> str:
    """Returns the activity in words, as the tooltip and the search have it."""
    kind = _WORDS.get(activity.kind, activity.kind)
    if activity.operation:
        peer = "" if activity.peer is None else f" with worker {activity.peer}"
        kind += f": {'waits for ' if activity.kind == 'idle' else ''}{activity.operation}{peer}"
    stage = "" if activity.stage is None else f"stage {activity.stage}" + (f" ({activity.blocks})" if activity.blocks else "")
    parts = [
        kind,
        "" if activity.microbatch is None else f"microbatch {activity.microbatch}",
        stage,
        f"along {activity.axis}" if activity.axis else "",
        f"in {activity.phase}" if activity.phase else "",
        "" if activity.payload_bytes is None else mebibytes(activity.payload_bytes),
    ]
    return ", ".join(filter(None, parts))


def _name(step: StepLanes, worker: int) -> str:
    name = step.names[worker]
    return name if name.startswith("worker") else f"{name} · worker {worker}"


def _hints(step: StepLanes, labels: Sequence[str]) -> list[tuple[str, bool]]:
    what = "stage and microbatch" if any("." in label for label in labels) else "the microbatch"
    waits = any(activity.kind == "idle" for activity in step.measured.activities)
    return [(f"Labels show {what}.", any(labels)), (_IDLE_HINT, waits), (_IDEAL_HINT, step.ideal is not None)]


def _labels(activities: Sequence[Activity], measured: Lanes) -> list[str]:
    """Returns the labels: the microbatch if there are several, with its stage if a worker has several."""
    if len({activity.microbatch for activity in activities} - {None}) < 2:
        return [""] * len(activities)
    stage = np.array([-1 if activity.stage is None else activity.stage for activity in measured.activities])
    has_stages = any(len(set(stage[lane.activity]) - {-1}) > 1 for lane in measured.lanes)
    stages = [f"{activity.stage}." if has_stages and activity.stage is not None else "" for activity in activities]
    return ["" if a.microbatch is None else f"{s}{a.microbatch}" for a, s in zip(activities, stages, strict=True)]


def _shades(activities: Sequence[Activity]) -> dict[str, dict[str, Any]]:
    """Returns, by what colours may stand for, the shades, the shade of each activity, and a note for the legend."""
    kinds = [kind for kind in COLOURS if any(activity.kind == kind for activity in activities)]
    found = {"kind": _of(activities, lambda a: (kinds.index(a.kind), COLOURS[a.kind], a.kind), "")}
    for name in ("microbatch", "stage"):
        numbers = sorted({number for a in activities if (number := getattr(a, name)) is not None})
        if len(numbers) > 1:
            found[name] = _of(activities, _tone(name, numbers, kinds), "backward passes are paler")
    return found


def _tone(name: str, numbers: list[int], kinds: list[str]) -> Callable[[Activity], tuple[int, str, str]]:
    def tone(activity: Activity) -> tuple[int, str, str]:
        number = getattr(activity, name)
        if number is None:
            return 100 + kinds.index(activity.kind), COLOURS[activity.kind], activity.kind
        index = numbers.index(number) % len(_TONES)
        if activity.kind.startswith("backward"):
            return 50 + index, _paler(_TONES[index]), ""
        same = [str(other) for other in numbers[index :: len(_TONES)]]
        return index, _TONES[index], f"{name} " + ", ".join(same[:_MOST_NAMED]) + (", …" if len(same) > _MOST_NAMED else "")

    return tone


def _of(activities: Sequence[Activity], tone: Callable[[Activity], tuple[int, str, str]], note: str) -> dict[str, Any]:
    tones = [tone(activity) for activity in activities]
    ordered = sorted(set(tones))
    shades = [{"colour": colour, "ink": ink(colour), "label": label} for _, colour, label in ordered]
    has_pale = any(not label for _, _, label in ordered)
    return {"shades": shades, "of": [ordered.index(one) for one in tones], "note": note if has_pale else ""}


def _rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def _hex(rgb: Sequence[float]) -> str:
    return "#" + "".join(f"{round(value):02x}" for value in rgb)


def _mixed(colour: str, other: str, share: float) -> str:
    return _hex([share * a + (1 - share) * b for a, b in zip(_rgb(colour), _rgb(other), strict=True)])


def _paler(colour: str) -> str:
    return _mixed(colour, "#ffffff", _PALE)


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two colours (WCAG 2.2, relative luminance)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def ink(colour: str) -> str:
    """Returns white or black, whichever is easier to read on this colour: 4.5:1 or more on any."""
    return max("#ffffff", "#000000", key=lambda candidate: contrast(candidate, colour))


def _luminance(colour: str) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in _rgb(colour))]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _scheme(dark: bool) -> dict[str, str]:
    """Returns the colours of ground and text, from the theme of all charts."""
    of = theme(dark)
    ground, line = of["background"], of["axis"]["gridColor"]
    return {
        "ground": ground,
        "ink": of["title"]["color"],
        "soft": of["axis"]["labelColor"],
        "line": line,
        "lane": _mixed(line, ground, 0.45),
        "accent": COLOURS["backward" if dark else "forward"],
    }
