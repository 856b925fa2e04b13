"""What a front end loads before it does anything: neither torch nor frames nor pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "pandas", "pyarrow", "streamlit", "ipywidgets", "altair")
OF_A_SPEC = "pydantic"


def loaded(code: str) -> set[str]:
    """The heavy modules in a clean process after ``code``, whatever that printed."""
    code = f"{code}\nimport sys; print('LOADED', *({ {*HEAVY, OF_A_SPEC} } & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split()[1:])


def test_the_check_sees_a_heavy_module() -> None:
    assert loaded("import pyarrow") == {"pyarrow"}


@pytest.mark.parametrize(
    "code",
    [
        "import workbench",
        "import workbench.api, workbench as wb; wb.run, wb.submit, wb.runs, wb.compare, wb.Run, wb.Split, wb.RunSpec()",
        *(
            f"from workbench.cli.main import cli; cli.main({args}, standalone_mode=False)"
            for args in (["--help"], ["run", "--help"], ["models"], ["strategies"])
        ),
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded(code) <= {OF_A_SPEC}


@pytest.mark.parametrize("module", ["workbench.launch.supervisor", "workbench.runtime.worker"])
def test_owner_and_workers_start_without_the_classes_of_a_spec(module: str) -> None:
    assert loaded(f"import {module}") <= {"torch"}, "making them takes a third of a warm start"


def test_an_unknown_name_is_an_attribute_error() -> None:
    import workbench

    with pytest.raises(AttributeError, match="nonsense"):
        workbench.nonsense  # noqa: B018


def test_a_subpackage_does_not_hide_the_function_of_its_name() -> None:
    import workbench as wb
    import workbench.hardware.store
    import workbench.store.listing

    assert wb.runs is wb.api.runs
    assert wb.calibration is wb.api.calibration
