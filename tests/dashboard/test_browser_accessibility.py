"""Every page in a browser for people who use no mouse, see little or hold a phone: no serious finding of axe-core, operation by
keyboard, and width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.browser import LIMIT_MS, SINGLE, browser_marks
from tests.helpers.comparison import record_run
from tests.helpers.recorded import PIPELINE, pipeline_run
from workbench.testing.browser import WIDTHS, dashboard, overflows, settled

pytestmark = browser_marks()
sync_api = pytest.importorskip("playwright.sync_api")
expect: Any = sync_api.expect
PAGES = {
    "front": "",
    "configure": "configure?split.data.size=2&split.pipeline.size=2",
    "refused": "configure?split.data.size=3",
    "live": f"live?run={PIPELINE}",
    "runs": "runs",
    "run": f"run?run={PIPELINE}",
    "compare": f"compare?runs={SINGLE},{PIPELINE}",
    "trace": f"trace?run={PIPELINE}",
    "learn": "learn?lesson=tensor",
}
WIDE, NARROW = WIDTHS["wide"], WIDTHS["narrow"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("store")
    pipeline_run(store)
    record_run(store, SINGLE, "finished", 1)
    record_run(store, "20261124-100002-dp2-bbbbbb", "failed", 2)
    with dashboard(store) as served:
        yield served


def findings(page: Any) -> list[str]:
    """The serious and critical findings of axe-core: rule, element, what is wrong."""
    from axe_playwright_python.sync_playwright import Axe

    violations = Axe().run(page).response["violations"]
    serious = [one for one in violations if one["impact"] in ("serious", "critical")]
    return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in serious for node in one["nodes"]]


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "dark"), (NARROW, "light")])
def test_axe_finds_nothing_serious_on_any_page_and_each_begins_with_its_heading(
    opened: Any, address: str, size: tuple[int, int], scheme: Any
) -> None:
    context = opened.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    found = {}
    for name, path in PAGES.items():
        page = context.new_page()
        page.goto(f"{address}/{path}")
        settled(page)
        found[name] = findings(page)
        assert not overflows(page), f"{name} is wider than {size[0]} pixels"
        assert page.locator("h1").bounding_box()["y"] < size[1] / 3, name
        page.close()
    context.close()
    assert not any(found.values()), "\n".join(f"{name}: {one}" for name, of_page in found.items() for one in of_page)


def test_a_formula_is_not_cut_on_a_phone(opened: Any, address: str) -> None:
    context = opened.new_context(viewport={"width": NARROW[0], "height": NARROW[1]})
    page = context.new_page()
    page.goto(f"{address}/learn?lesson=tensor")
    settled(page)
    for part in page.locator(".katex-display .base").all():
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= NARROW[0]
    context.close()


def test_the_menu_of_a_narrow_page_closes_when_a_page_is_chosen(opened: Any, address: str) -> None:
    context = opened.new_context(viewport={"width": NARROW[0], "height": NARROW[1]}, has_touch=True)
    page = context.new_page()
    page.goto(address)
    settled(page)
    page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_role("link", name="Runs").click()
    page.wait_for_url("**/runs")
    closed = "!(document.querySelector('[data-testid=stSidebarNavLink]')?.getBoundingClientRect().right > 0)"
    page.wait_for_function(closed)  # it slides out of the page
    context.close()


def focused(page: Any) -> list[str]:
    """Tag and name of the element that has the focus, inside shadow roots too."""
    return page.evaluate(
        """() => {
            let e = document.activeElement;
            while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;
            return [e.tagName, e.getAttribute('aria-label') ?? e.textContent.trim()];
        }"""
    )


def tabbed_to(page: Any, tag: str, name: str, most: int = 80) -> None:
    """Presses Tab until the element with this tag, and this in its name, has the focus."""
    seen = []
    for _ in range(most):
        page.keyboard.press("Tab")
        seen.append(focused(page))
        if seen[-1][0] == tag and name in seen[-1][1]:
            return
    raise AssertionError(f"no {tag} {name!r} in {seen}")


def test_the_trace_is_operated_by_keyboard_alone(page: Any, address: str) -> None:
    page.goto(f"{address}/trace?run={PIPELINE}")
    settled(page)
    tabbed_to(page, "BUTTON", "Zoom in")
    page.keyboard.press("Enter")
    expect(page.locator(".range")).not_to_contain_text("whole step", timeout=LIMIT_MS)
    tabbed_to(page, "CANVAS", "What does each worker")
    outline = page.locator("canvas.canvas").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid", "the focus is visible"
    page.keyboard.press("0")
    expect(page.locator(".range")).to_contain_text("whole step", timeout=LIMIT_MS)
    page.keyboard.press("Tab")
    expect(page.locator(".spoken")).to_contain_text("begins at", timeout=LIMIT_MS)
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")  # the button Table is the control before the canvas
    expect(page.locator(".events tbody tr").first).to_be_visible(timeout=LIMIT_MS)
    tabbed_to(page, "CANVAS", "What does each worker")
    page.keyboard.press("Escape")  # else Tab would go through all events
    tabbed_to(page, "BUTTON", "Trace for Perfetto")


def test_runs_are_compared_by_keyboard_alone(page: Any, address: str) -> None:
    page.goto(f"{address}/compare?runs={SINGLE},{PIPELINE}")
    settled(page)
    table = page.get_by_test_id("stDataFrame").first
    for _ in range(80):
        page.keyboard.press("Tab")
        if focused(page)[0] == "CANVAS":
            break
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+Space")
    page.get_by_role("button", name="Trace of ").wait_for()
    expect(table).to_be_visible(timeout=LIMIT_MS)
    tabbed_to(page, "BUTTON", "timeline")
    page.keyboard.press("Enter")
    page.wait_for_url("**/trace?run=**")
