"""Reports: one file that fetches nothing, or Markdown with its charts beside; what people wrote stays text."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import altair as alt
import pandas as pd
import pytest

from tests.helpers.command import workbench
from tests.helpers.comparison import FAILED, SINGLE, record_run
from tests.helpers.recorded import pipeline_run
from workbench.charts.comparison import CHARTS, ComparisonChart
from workbench.charts.theme import described
from workbench.errors import UsageError
from workbench.export.report import sections
from workbench.export.report.parts import Compared, Drawing
from workbench.export.report.write import write_report
from workbench.store.directory import RunDirectory
from workbench.store.records import Labels, RunError

EVIL = '<script>alert("1")</script> | **bold** [a](http://b)'
CHROMIUM = shutil.which("chromium")


@pytest.fixture
def runs(tmp_path: Path) -> list[RunDirectory]:
    """One worker, a pipeline whose name is an attack, and a run that failed."""
    store = tmp_path / "store"
    single = record_run(store, SINGLE, "finished", 1)
    split = pipeline_run(store, parity_max_error=3e-12, parity_allowed=1e-9)
    split.write_labels(Labels(name=EVIL))
    failed = record_run(store, FAILED, "failed", 2)
    failed.write_error(RunError(rank=1, step=4, exception="E", last_lines=(EVIL,), advice="read <it>"))
    return [single, split, failed]


def images(text: str) -> list[str]:
    """The SVG documents inside an HTML report."""
    return [base64.b64decode(data).decode() for data in re.findall(r'"data:image/svg\+xml;base64,([^"]+)"', text)]


def test_an_html_report_is_one_file_that_fetches_nothing_and_runs_no_script(runs: list[RunDirectory], tmp_path: Path) -> None:
    (path,) = write_report(runs, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"<(?:script|link|iframe|object|embed|a)\b", text) == []
    assert all(address.startswith("data:image/svg+xml") for address in re.findall(r'(?:src|srcset|href)="([^"]*)"', text))
    assert "default-src 'none'" in text
    drawn = images(text)
    assert len(drawn) == 2 * text.count("<picture>") > 0, "each on dark and on light ground"
    assert all(svg.startswith("<svg") for svg in drawn)
    assert "prefers-color-scheme: dark" in text


def test_a_step_of_too_many_events_has_no_still_picture(
    runs: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_report(runs, tmp_path / "with.html")
    monkeypatch.setattr(sections, "MOST_REPLAYED", 10)
    (other,) = write_report(runs, tmp_path / "without.html")
    assert "What does each worker of dp2" in path.read_text(encoding="utf-8")
    text = other.read_text(encoding="utf-8")
    assert "What does each worker of dp2" not in text
    assert re.search(r"A step of dp2.* has \d+ events, too many for a still picture\.", text)


def test_what_people_wrote_is_escaped(runs: list[RunDirectory], tmp_path: Path) -> None:
    (path,) = write_report(runs, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert text.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") > 2, (
        "the name, in labels too, and what the failed run printed"
    )
    assert "<script" not in text
    assert "read &lt;it&gt;" in text
    markdown, *_ = write_report(runs, tmp_path / "report.md")
    outside_of_files = re.sub(r"^(`{3,})\n.*?^\1$", "", markdown.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert r"&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; \| \*\*bold\*\* \[a\](http://b)" in outside_of_files
    assert "<script" not in outside_of_files


def test_a_listing_cannot_end_its_own_fence(tmp_path: Path) -> None:
    failed = record_run(tmp_path / "store", FAILED, "failed", 2)
    failed.write_error(RunError(rank=1, step=4, exception="E", last_lines=("```", "````", "<script>")))
    path, *_ = write_report([failed], tmp_path / "report.md")
    assert "\n`````\n```\n````\n<script>\n`````\n" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".html", ".md"])
def test_a_report_says_what_was_asked_what_came_out_and_on_what(runs: list[RunDirectory], tmp_path: Path, suffix: str) -> None:
    path, *_ = write_report(runs, tmp_path / f"report{suffix}")
    text = re.sub(r"<[^>]+>", " ", path.read_text(encoding="utf-8")).replace("\\", "")
    words = " ".join(text.split())
    headings = ("Configuration differences", "Results", "Failures", "Communication", "Memory", "Environment")
    values = ("split.data.size", "read", "equals one worker", "3.0e-12", "1.0e-09", "4,096", "5,000", "gloo", SINGLE, FAILED)
    for part in headings + values:
        assert part in words
    assert "train.num_steps" not in words, "the same in all"


def test_a_report_of_one_run_has_its_whole_spec(runs: list[RunDirectory], tmp_path: Path) -> None:
    (path,) = write_report(runs[1:2], tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert "<li>train.num_steps = 7</li>" in text
    assert "schema_version = 1" in text
    assert "Trade-offs" not in text


def test_runs_of_the_same_split_are_told_apart(tmp_path: Path) -> None:
    pair = [pipeline_run(tmp_path / "store", f"20261124-10000{i}-pp2-{'ab'[i] * 6}") for i in range(2)]
    (path,) = write_report(pair, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert {"dp2 #1", "dp2 #2"} <= set(re.findall(r"dp2 #\d", text))
    assert "All runs have the same spec." in text


def test_the_charts_of_a_markdown_report_lie_beside_it(runs: list[RunDirectory], tmp_path: Path) -> None:
    path, *charts = write_report(runs, tmp_path / "my report.md")
    linked = re.findall(r'(?:src|srcset)="([^"]+)"', path.read_text(encoding="utf-8"))
    assert sorted(linked) == sorted(str(chart.relative_to(tmp_path)).replace(" ", "%20") for chart in charts)
    assert all(chart.read_text(encoding="utf-8").startswith("<svg") for chart in charts)


def test_another_kind_of_file_is_refused(runs: list[RunDirectory], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"FILE.html or FILE.md, but got .*report.pdf"):
        write_report(runs, tmp_path / "report.pdf")
    assert not (tmp_path / "report.pdf").exists()


def test_the_commands_name_the_files_that_they_wrote(runs: list[RunDirectory], tmp_path: Path) -> None:
    store, run = tmp_path / "store", runs[1].id
    reported = workbench(store, "report", run, SINGLE, "--to", str(tmp_path / "r.html"))
    assert (reported.returncode, reported.stdout.split()) == (0, [str(tmp_path / "r.html")])
    exported = workbench(store, "export", run, "--trace", str(tmp_path / "t.json"))
    assert (exported.returncode, exported.stdout.split()) == (0, [str(tmp_path / "t.json")])
    assert all(Path(name).exists() for name in (*reported.stdout.split(), *exported.stdout.split()))
    nowhere = workbench(store, "export", run)
    assert nowhere.returncode == 2
    assert "--to DIRECTORY for the tables or --trace FILE" in nowhere.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("ground", ["light", "dark"])
def test_a_browser_shows_it_without_script_and_network(runs: list[RunDirectory], tmp_path: Path, width: int, ground: str) -> None:
    from playwright.sync_api import sync_playwright

    (path,) = write_report(runs, tmp_path / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        options = {
            "viewport": {"width": width, "height": 800},
            "color_scheme": ground,
            "java_script_enabled": False,
            "offline": True,
        }
        page = browser.new_context(**options).new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(path.as_uri())
        shown = page.evaluate("[...document.images].map(i => [i.naturalWidth, atob(i.currentSrc.split(',')[1])])")
        assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out of the page"
        browser.close()
    assert shown
    assert all(size > 0 for size, _ in shown)
    own = {"light": "#ffffff", "dark": "#181b1f"}[ground]
    assert all(f'fill="{own}"' in svg.split("<g")[0] for _, svg in shown), "charts stand on the page's ground"
    assert complaints == []


def test_a_chart_of_comparisons_that_is_added_stands_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page and the notebook draw the same list from its first to its last."""
    frame = pd.DataFrame({"split": ["dp2"], "x": [1.0]})
    chart = ComparisonChart("new", lambda finished: frame, lambda frame: [described(alt.Chart(frame).mark_bar(), "A new chart")])
    monkeypatch.setattr(sections, "CHARTS", (*CHARTS, chart))
    section = sections.choice(Compared([], []))
    assert section is not None
    assert [part.chart.description for part in section.parts if isinstance(part, Drawing)] == ["A new chart"]
    assert set(sections.SEPARATE_CHARTS) < {chart.name for chart in CHARTS}
