"""How many frames per second the timeline draws in a browser while a million events are zoomed and panned.

``python benchmarks/timeline.py`` packs synthetic events of eight workers and prints, for the whole step and for parts of it, the
frames per second of the page, on which each frame moves the view, and the time that drawing one takes.
"""

from __future__ import annotations

import time

import numpy as np

from workbench.analysis.lanes import Activity, Lane, Lanes
from workbench.analysis.step_lanes import StepLanes
from workbench.charts.timeline_view import packed
from workbench.testing.browser import browser, show_timeline

NUM_WORKERS, NUM_EVENTS, STEP_MS = 8, 1_000_000, 10_000.0
DURATION_MS = 3000
PARTS = (1.0, 0.1, 1e-3, 1e-5)
"""Parts of the step that are shown: from all of it, with 125,000 events in each lane, to a few events."""
MOVE = """async ([part, duration]) => {
    const timeline = document.querySelector('main').timeline, span = timeline.header.span_ms, length = span * part;
    const drawn = [], draw = timeline.draw.bind(timeline);
    timeline.draw = () => { const start = performance.now(); draw(); drawn.push(performance.now() - start); };
    const start = performance.now();
    let now = start;
    while (now - start < duration) {
        const phase = (now - start) / duration;
        timeline.look(phase * (span - length), phase * (span - length) + length * (1 - 0.01 * Math.sin(now)));
        now = await new Promise(requestAnimationFrame);
    }
    timeline.draw = draw;
    drawn.sort((a, b) => a - b);
    return [drawn.length / (now - start) * 1000, drawn[drawn.length >> 1], drawn[Math.floor(drawn.length * 0.99)]];
}"""


def step() -> StepLanes:
    """Eight workers that compute and wait in turn, a different share of each cycle in each of 300 phases."""
    activities = (*(Activity("forward", stage=0, microbatch=m) for m in range(8)), Activity("idle", "all_reduce"))
    lanes, cycles = [], NUM_EVENTS // NUM_WORKERS // 2
    for worker in range(NUM_WORKERS):
        edges = np.linspace(0, STEP_MS, cycles + 1)
        share = np.random.default_rng(worker).uniform(0.1, 0.9, 300).repeat(-(-cycles // 300))[:cycles]
        middle = edges[:-1] + share * np.diff(edges)
        begin, end = np.stack([edges[:-1], middle], 1).ravel(), np.stack([middle, edges[1:]], 1).ravel()
        activity = np.stack([np.arange(cycles) % 8, np.full(cycles, 8)], 1).ravel()
        lanes.append(Lane(worker, begin, end, begin, end, activity))
    names = [f"data {worker}" for worker in range(NUM_WORKERS)]
    return StepLanes("benchmark", "What does each worker do?", Lanes(tuple(lanes), activities), None, names)


def main() -> None:
    """Measures and prints."""
    start = time.perf_counter()
    content = packed(step())
    print(f"{NUM_EVENTS:,} events: {len(content) / 2**20:.0f} MiB, packed in {time.perf_counter() - start:.2f} s")
    with browser() as opened:
        page = opened.new_page(viewport={"width": 1280, "height": 800})
        start = time.perf_counter()
        show_timeline(page, content)
        print(f"first frame after {time.perf_counter() - start:.2f} s")
        for part in PARTS:
            frames_per_s, median_ms, slow_ms = page.evaluate(MOVE, [part, DURATION_MS])
            print(f"{part:8.3%} of the step: {frames_per_s:5.1f} frames/s, drawn in {median_ms:.1f} ms (p99 {slow_ms:.1f} ms)")


if __name__ == "__main__":
    main()
