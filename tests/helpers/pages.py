"""Pages drawn by Streamlit's own tester, and a run whose texts are hostile."""

from __future__ import annotations

from pathlib import Path

from streamlit.testing.v1 import AppTest

from tests.helpers.run_directory import new_run
from workbench.store.directory import RunDirectory
from workbench.store.records import Labels, RunError
from workbench.store.run_status import RunState, RunStatus

EVIL = "<img src=x onerror=alert(1)> **bold** $x$ :red[y] [z](http://example.org) =1+1"


def page(name: str, **parameters: str) -> AppTest:
    test = AppTest.from_string(f"from workbench.dashboard.pages.{name} import main\nmain()", default_timeout=240)
    for key, value in parameters.items():
        test.query_params[key] = value
    test.run()
    assert not test.exception
    return test


def texts(test: AppTest) -> str:
    """All that is shown as plain text."""
    return "\n".join(element.value for element in test.text)


def marked_up(test: AppTest) -> str:
    """All that is shown as Markdown."""
    kinds = (
        test.markdown,
        test.caption,
        test.title,
        test.header,
        test.subheader,
        test.error,
        test.warning,
        test.info,
        test.success,
    )
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def labels(test: AppTest) -> list[str]:
    return [button.label for button in test.button]


def failed(store: Path, run_id: str = "run-9") -> RunDirectory:
    run = new_run(store, run_id, created_at=9.0, split=EVIL, dataset=EVIL)
    run.write_status(RunStatus(RunState.FAILED, EVIL))
    run.write_error(RunError(rank=1, step=4, exception=EVIL, last_lines=(EVIL,), operations=(EVIL,), advice=EVIL))
    run.write_labels(Labels(name=EVIL, note=EVIL, tags=(EVIL.replace(",", ""),)))
    return run
