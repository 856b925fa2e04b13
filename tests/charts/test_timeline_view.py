"""The timeline on a canvas: what Python packs for it, and what the browser makes of that."""

from __future__ import annotations

import json
import re
import struct
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.recorded import NUM_MICROBATCHES, pipeline_run
from workbench.analysis import trace
from workbench.analysis.lanes import Activity, Lane, Lanes
from workbench.analysis.step_lanes import StepLanes, step_lanes
from workbench.charts.theme import COLOURS, theme
from workbench.charts.timeline_view import contrast, packed, text
from workbench.testing.browser import chromium, show_timeline

in_browser = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here"),
]
expect: Any = pytest.importorskip("playwright.sync_api").expect
LIMIT_MS = 60_000
KEYS = count()


def lane(worker: int, *pieces: tuple[float, float, int]) -> Lane:
    """A lane whose pieces are whole events: begin, end, activity."""
    begin, end, activity = (np.array(column) for column in zip(*pieces, strict=True))
    return Lane(worker, begin, end, begin, end, activity.astype(int))


def step(measured: Lanes, ideal: Lanes | None = None) -> StepLanes:
    names = [f"data {worker}" for worker in range(8)]
    return StepLanes(f"step {next(KEYS)}", "What does each worker do?", measured, ideal, names)


def small(ideal: bool = False) -> StepLanes:
    """Two workers, of which the second begins late; a pass of microbatch 0, one of microbatch 1, and an all-reduce."""
    activities = (
        Activity("forward", stage=0, microbatch=0, blocks="layer0 – layer1"),
        Activity("backward", stage=0, microbatch=1),
        Activity("communication", "all_reduce", axis="data", phase="backward", payload_bytes=3 * 2**20),
        Activity("idle", "all_reduce", axis="data", payload_bytes=3 * 2**20),
    )
    first, second = lane(0, (0, 40, 0), (40, 80, 1), (80, 90, 2)), lane(1, (20, 60, 0), (70, 80, 3), (80, 100, 2))
    return step(Lanes((first, second), activities), Lanes((lane(0, (0, 30, 0), (30, 50, 1)),), activities[:2]) if ideal else None)


def header(shown: StepLanes) -> dict[str, Any]:
    content = packed(shown)
    (size,) = struct.unpack_from("<I", content)
    assert size % 4 == 0
    return json.loads(content[4 : 4 + size])


def test_columns_travel_as_bytes_and_not_as_json() -> None:
    shown, content = small(), packed(small())
    (size,) = struct.unpack_from("<I", content)
    columns = np.frombuffer(content, "<f4", offset=4 + size)
    assert len(columns) == 5 * sum(len(one.begin_ms) for one in shown.measured.lanes)
    assert list(columns[:6]) == [0, 40, 80, 40, 80, 90]
    assert list(columns[12:15].view("<u4")) == [0, 1, 2]


def test_an_activity_is_described_in_words() -> None:
    assert (
        text(Activity("forward", stage=1, microbatch=2, blocks="layer2 – head"))
        == "forward pass, microbatch 2, stage 1 (layer2 – head)"
    )
    waits = Activity("idle", "recv", axis="pipeline", phase="forward", peer=0, payload_bytes=2**20)
    assert text(waits) == "idle: waits for recv with worker 0, along pipeline, in forward, 1.00 MiB"
    assert text(Activity("optimizer", "zero_grad")) == "optimizer: zero_grad"


def test_every_colour_of_a_legend_is_in_the_lanes_and_every_label_can_be_read(tmp_path: Path) -> None:
    run = pipeline_run(tmp_path)
    shown = header(step_lanes(run, 4, trace.timeline_of(run, 4), trace.communication_of(run, 4)))
    assert list(shown["shades"]) == ["kind", "microbatch", "stage"]
    for of in shown["shades"].values():
        assert set(of["of"]) == set(range(len(of["shades"])))
        assert all(contrast(shade["colour"], shade["ink"]) >= 4.5 for shade in of["shades"])
    by_kind = {shade["label"]: shade["colour"] for shade in shown["shades"]["kind"]["shades"]}
    assert by_kind == {kind: COLOURS[kind] for kind in shown["kinds"]}
    by_microbatch = shown["shades"]["microbatch"]
    assert {f"microbatch {number}" for number in range(NUM_MICROBATCHES)} < {shade["label"] for shade in by_microbatch["shades"]}
    assert "backward" not in {shade["label"] for shade in by_microbatch["shades"]}
    assert by_microbatch["note"] == "backward passes are paler"


def test_hints_are_those_that_apply() -> None:
    of_data = step(Lanes((lane(0, (0, 1, 0)), lane(1, (0, 1, 0))), (Activity("forward"),)))
    assert header(of_data)["hints"] == []
    hints = " ".join(header(small(ideal=True))["hints"])
    assert all(words in hints for words in ("Labels show the microbatch", "A worker is idle until", "The ideal uses"))


@pytest.mark.parametrize("dark", [False, True])
def test_text_on_the_ground_can_be_read(dark: bool) -> None:
    scheme = header(small())["schemes"]["dark" if dark else "light"]
    assert scheme["ground"] == theme(dark)["background"]
    assert all(contrast(scheme[name], scheme["ground"]) >= 4.5 for name in ("ink", "soft", "accent"))


def drag(page: Any, begin: float, end: float, shift: bool = False) -> None:
    """Over the first lane, between two times given as shares of the plot."""
    box = page.locator("canvas").bounding_box()
    left, right = page.evaluate("[100, document.querySelector('canvas').clientWidth - 62]")
    x, y = (lambda part: box["x"] + left + part * (right - left)), box["y"] + 70
    if shift:
        page.keyboard.down("Shift")
    page.mouse.move(x(begin), y)
    page.mouse.down()
    page.mouse.move(x(end), y, steps=4)
    page.mouse.up()
    if shift:
        page.keyboard.up("Shift")


class TestInBrowser:
    pytestmark = in_browser

    def test_lanes_are_zoomed_panned_and_reset_by_buttons_wheel_drag_and_keys(self, page: Any) -> None:
        show_timeline(page, packed(small(ideal=True)))
        part = page.locator(".range")
        expect(part).to_have_text("whole step, 100 ms", timeout=LIMIT_MS)
        page.get_by_role("button", name="Zoom in").click()
        expect(part).to_have_text("25.0 ms to 75.0 ms of 100 ms", timeout=LIMIT_MS)
        drag(page, 0.8, 0.1)
        expect(part).not_to_have_text(re.compile("^25.0 ms"), timeout=LIMIT_MS)
        page.get_by_role("button", name="Reset").click()
        expect(part).to_have_text("whole step, 100 ms", timeout=LIMIT_MS)
        page.locator("canvas").hover()
        page.mouse.wheel(0, -200)
        expect(part).not_to_have_text("whole step, 100 ms", timeout=LIMIT_MS)
        page.locator("canvas").focus()
        page.keyboard.press("0")
        expect(part).to_have_text("whole step, 100 ms", timeout=LIMIT_MS)
        page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        expect(part).to_have_text("30.0 ms to 80.0 ms of 100 ms", timeout=LIMIT_MS)

    def test_tab_goes_from_event_to_event_in_words_and_leaves_after_the_last(self, page: Any) -> None:
        show_timeline(page, packed(small()))
        spoken = page.locator(".spoken")
        page.locator("canvas").focus()
        said = []
        for _ in range(3):
            page.keyboard.press("Tab")
            said.append(spoken.inner_text())
        assert said[0] == "forward pass, microbatch 0, stage 0 (layer0 – layer1), 40.0 ms, begins at 0.0 ms, data 0 · worker 0"
        assert said[2].startswith("communication: all_reduce, along data, in backward, 3.00 MiB, 10.0 ms")
        expect(page.locator(".tip")).to_contain_text("all_reduce", timeout=LIMIT_MS)
        page.keyboard.press("ArrowDown")
        expect(spoken).to_contain_text("data 1 · worker 1", timeout=LIMIT_MS)
        page.keyboard.press("s")
        page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="Zoom to selection"), "it was the last event").to_be_focused(timeout=LIMIT_MS)

    def test_keys_go_to_the_ends_and_zoom_to_an_event_and_say_what_is_visible(self, page: Any) -> None:
        show_timeline(page, packed(small()))
        part, spoken = page.locator(".range"), page.locator(".spoken")
        page.locator("canvas").focus()
        page.keyboard.press("+")
        page.keyboard.press("End")
        expect(part).to_have_text("50.0 ms to 100 ms of 100 ms", timeout=LIMIT_MS)
        page.keyboard.press("Home")
        expect(spoken).to_have_text("0.0 ms to 50.0 ms of 100 ms", timeout=LIMIT_MS)
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(part, "half of the event's 40 ms on each side").to_have_text("20.0 ms to 100 ms of 100 ms", timeout=LIMIT_MS)

    def test_tab_goes_on_in_the_view_and_lanes_without_events_are_passed_over(self, page: Any) -> None:
        none = np.empty(0)
        empty = Lane(0, none, none, none, none, none.astype(int))
        last = lane(1, (0, 10, 0), (60, 80, 0), (80, 100, 0))
        show_timeline(page, packed(step(Lanes((empty, last, empty), (Activity("forward"), Activity("idle"))))))
        errors: list[Any] = []
        page.on("pageerror", lambda error: errors.append(error))
        spoken = page.locator(".spoken")
        page.locator("canvas").focus()
        page.keyboard.press("Tab")
        expect(spoken).to_contain_text("begins at 0.0 ms, data 1", timeout=LIMIT_MS)
        for key in ("+", "End", "Tab"):
            page.keyboard.press(key)
        expect(spoken, "the first in view").to_contain_text("begins at 60.0 ms", timeout=LIMIT_MS)
        for key in ("ArrowUp", "ArrowDown", "ArrowDown"):
            page.keyboard.press(key)
        expect(spoken).to_contain_text("begins at 60.0 ms, data 1", timeout=LIMIT_MS)
        assert not errors

    def test_a_table_lists_the_events_of_the_visible_part(self, page: Any) -> None:
        show_timeline(page, packed(small(ideal=True)))
        page.get_by_role("button", name="Table").press("Enter")
        rows = page.locator(".events tbody tr")
        expect(rows).to_have_count(8, timeout=LIMIT_MS)
        cells = rows.first.locator("th, td").all_inner_texts()
        assert cells == ["forward pass, microbatch 0, stage 0 (layer0 – layer1)", "data 0 · worker 0", "0.000", "40.000"]
        page.locator("canvas").focus()
        for key in "+++":
            page.keyboard.press(key)  # 43.75 ms to 56.25 ms
        expect(rows, "two measured passes and one of the ideal").to_have_count(3, timeout=LIMIT_MS)
        page.get_by_role("button", name="Table").press("Enter")
        expect(rows).to_have_count(0, timeout=LIMIT_MS)

    def test_the_pieces_of_an_event_are_one_row_of_the_table(self, page: Any) -> None:
        begin, end = np.array([0.0, 10, 20, 30]), np.array([10.0, 20, 30, 100])
        event_begin, event_end = np.array([0.0, 10, 0, 0]), np.array([100.0, 20, 100, 100])
        waits = Lane(0, begin, end, event_begin, event_end, np.array([0, 1, 0, 0]))
        show_timeline(page, packed(step(Lanes((waits,), (Activity("forward"), Activity("idle"))))))
        page.get_by_role("button", name="Table").click()
        expect(page.locator(".events tbody tr")).to_have_count(2, timeout=LIMIT_MS)

    def test_fingers_drag_pinch_tap_and_hold(self, page: Any) -> None:
        show_timeline(page, packed(small(ideal=True)))
        fingers, part = Fingers(page), page.locator(".range")
        fingers.move([0.4, 0.6], [0.3, 0.7])
        expect(part, "as far apart as half of the step was").to_have_text("25.0 ms to 75.0 ms of 100 ms", timeout=LIMIT_MS)
        fingers.move([0.7], [0.3])
        expect(part, "two fifths of the view").to_have_text("45.0 ms to 95.0 ms of 100 ms", timeout=LIMIT_MS)
        page.get_by_role("button", name="Reset").click()
        fingers.tap(0.2)
        expect(page.locator(".spoken")).to_contain_text("forward pass, microbatch 0", timeout=LIMIT_MS)
        expect(page.locator(".tip")).to_contain_text("forward pass, microbatch 0", timeout=LIMIT_MS)
        fingers.down([0.2])
        expect(page.get_by_role("button", name="Select")).to_have_attribute("aria-pressed", "true", timeout=LIMIT_MS)
        fingers.go([0.2], [0.6])
        fingers.up()
        expect(page.locator(".summary caption")).to_have_text("Selected: 40.0 ms, from 20.0 ms to 60.0 ms", timeout=LIMIT_MS)
        fingers.down([0.2])
        expect(page.get_by_role("button", name="Select", exact=True)).to_have_attribute("aria-pressed", "true", timeout=LIMIT_MS)
        fingers.up()
        expect(page.get_by_role("button", name="Select", exact=True)).to_have_attribute("aria-pressed", "false", timeout=LIMIT_MS)

    def test_a_vertical_swipe_scrolls_the_page_and_selects_nothing(self, page: Any) -> None:
        show_timeline(page, packed(small()))
        page.evaluate("document.body.style.paddingBottom = '3000px'")
        fingers = Fingers(page)
        fingers.down([0.3])
        fingers.go([0.3], [0.3], up_px=160)
        fingers.up()
        page.wait_for_function("scrollY > 100")
        expect(page.locator(".range")).to_have_text("whole step, 100 ms", timeout=LIMIT_MS)
        expect(page.locator(".spoken")).to_have_text("", timeout=LIMIT_MS)

    def test_a_search_counts_its_events_and_enter_goes_to_the_next(self, page: Any) -> None:
        show_timeline(page, packed(small()))
        search = page.get_by_role("searchbox")
        search.press_sequentially("all_reduce mib")
        expect(page.get_by_role("status")).to_have_text("3 events found", timeout=LIMIT_MS)
        search.press("Enter")
        expect(page.locator(".spoken")).to_contain_text("begins at 80.0 ms, data 0", timeout=LIMIT_MS)
        search.press("Enter")
        expect(page.locator(".spoken")).to_contain_text("idle: waits for all_reduce", timeout=LIMIT_MS)
        search.fill("layer1")
        expect(page.get_by_role("status")).to_have_text("2 events found", timeout=LIMIT_MS)

    def test_a_region_is_summed_up_per_kind_and_lane(self, page: Any) -> None:
        show_timeline(page, packed(small(ideal=True)))
        drag(page, 0.2, 0.6, shift=True)
        begin, end = page.evaluate("window.region")
        assert 10 < begin < 30 < end < 70
        rows = page.locator(".summary tbody tr")
        expect(rows).to_have_count(3, timeout=LIMIT_MS)
        cells = [row.locator("th, td").all_inner_texts() for row in rows.all()]
        assert page.locator(".summary thead th").all_inner_texts() == ["lane", "forward (ms)", "backward (ms)"]
        assert [row[0] for row in cells] == ["data 0 · worker 0", "data 1 · worker 1", "data 0 · worker 0, ideal"]
        assert float(cells[0][1].split()[0]) == pytest.approx(40 - begin, abs=0.006)
        assert float(cells[0][2].split()[0]) == pytest.approx(end - 40, abs=0.006)
        page.get_by_role("button", name="Zoom to selection").click()
        expect(page.locator(".range")).to_contain_text("of 100 ms", timeout=LIMIT_MS)
        page.get_by_role("button", name="Clear selection").click()
        expect(rows).to_have_count(0, timeout=LIMIT_MS)
        assert page.evaluate("window.region") == []

    def test_the_legend_follows_the_colours(self, page: Any) -> None:
        show_timeline(page, packed(small()))
        legend = page.get_by_role("list", name="Legend").get_by_role("listitem")
        expect(legend).to_have_text(["forward", "backward", "communication", "idle", "not begun"], timeout=LIMIT_MS)
        page.get_by_label("Color by").select_option("microbatch")
        entries = ["microbatch 0", "communication", "idle", "not begun", "backward passes are paler"]
        expect(legend).to_have_text(entries, timeout=LIMIT_MS)

    def test_a_pixel_of_many_events_has_the_colour_of_most_of_its_time(self, page: Any) -> None:
        """In each of 100,000 short cycles the worker waits for nine tenths of the time in the first half, and computes in the
        second."""
        edges = np.linspace(0, 1000, 100_001)
        share = np.where(edges[:-1] < 500, 0.1, 0.9)
        middle = edges[:-1] + share * 0.01
        begin, end = np.stack([edges[:-1], middle], 1).ravel(), np.stack([middle, edges[1:]], 1).ravel()
        many = Lane(0, begin, end, begin, end, np.tile([0, 1], 100_000))
        show_timeline(page, packed(step(Lanes((many,), (Activity("forward"), Activity("idle"))))))
        assert colours(page, 0.25) == COLOURS["idle"]
        assert colours(page, 0.75) == COLOURS["forward"]

    def test_an_event_is_drawn_although_shorter_ones_begin_in_its_first_pixel(self, page: Any) -> None:
        pieces = lane(0, (0, 1, 1), (1, 1.001, 1), (1.001, 500, 0), (500, 500.001, 1), (500.002, 1000, 0))
        show_timeline(page, packed(step(Lanes((pieces,), (Activity("forward"), Activity("idle"))))))
        assert [colours(page, part) for part in (0.25, 0.75)] == [COLOURS["forward"]] * 2

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_the_ground_of_the_page_decides_between_light_and_dark(self, page: Any, scheme: Any) -> None:
        page.emulate_media(color_scheme=scheme)
        show_timeline(page, packed(small()))
        tone = page.locator("button").first.evaluate("e => getComputedStyle(e).getPropertyValue('--ground').trim()")
        assert tone == theme(scheme == "dark")["background"]


class Fingers:
    """Fingers over the first lane, at shares of the plot."""

    def __init__(self, page: Any) -> None:
        self._session, box = page.context.new_cdp_session(page), page.locator("canvas").bounding_box()
        left, right = page.evaluate("(({ left, right }) => [left, right])(document.querySelector('main').timeline)")
        self._at = lambda part, up_px: {"x": box["x"] + left + part * (right - left), "y": box["y"] + 70 - up_px}

    def _send(self, kind: str, parts: list[float], up_px: float = 0.0) -> None:
        points = [{**self._at(part, up_px), "id": number} for number, part in enumerate(parts)]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def down(self, parts: list[float]) -> None:
        self._send("touchStart", parts)

    def go(self, begin: list[float], end: list[float], up_px: float = 0.0) -> None:
        for share in (0.25, 0.5, 0.75, 1.0):
            places = [a + share * (b - a) for a, b in zip(begin, end, strict=True)]
            self._send("touchMove", places, share * up_px)

    def up(self) -> None:
        self._send("touchEnd", [])

    def move(self, begin: list[float], end: list[float]) -> None:
        self.down(begin)
        self.go(begin, end)
        self.up()

    def tap(self, part: float) -> None:
        self.down([part])
        self.up()


def colours(page: Any, part: float) -> str:
    """The colour in the middle of the first lane, at a share of the plot."""
    red, green, blue = page.evaluate(
        """part => {
            const canvas = document.querySelector('canvas'), ratio = devicePixelRatio, right = canvas.clientWidth - 62;
            const left = 110, x = left + part * (right - left);
            return [...canvas.getContext('2d').getImageData(x * ratio, 75 * ratio, 1, 1).data].slice(0, 3);
        }""",
        part,
    )
    return f"#{red:02X}{green:02X}{blue:02X}"
