"""Options of a schedule's own: given beside the pipeline's, checked, kept with the spec and offered by forms."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench import registry
from workbench.errors import SpecError
from workbench.registry import SCHEDULES
from workbench.spec import RunSpec
from workbench.spec.files import dumps, load, override
from workbench.spec.form import all_fields
from workbench.spec.paths import command, differences, spec_of
from workbench.strategies.pipeline.schedules.to_csv import rows_of

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
EAGER = {"size": 2, "schedule": "eager_1f1b", "num_microbatches": 6}


@pytest.fixture(scope="module", autouse=True)
def eager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The schedule of the page."""
    (code,) = re.findall(r"^```python eager_1f1b.py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path_factory.mktemp("plugins") / "eager_1f1b.py"
    path.write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_PLUGINS", os.environ.get("WORKBENCH_PLUGINS", ""))
        registry.announce(path)
        yield
    registry._load.cache_clear()


def pipeline(**options: Any) -> Any:
    (found,) = (options for _, options in RunSpec(split={"pipeline": {**EAGER, **options}}).split.items())
    return found


def test_without_eagerness_the_order_is_that_of_torchs_1f1b() -> None:
    eager, plain = ({"eagerness": 0}, {"schedule": "1f1b"})
    assert rows_of(SCHEDULES.get("eager_1f1b")(pipeline(**eager))) == rows_of(SCHEDULES.get("1f1b")(pipeline(**plain)))


@pytest.mark.parametrize("given", [{"eagerness": 2}, {"schedule_options": {"eagerness": 2}}])
def test_a_spec_keeps_them_wherever_it_is_written(given: dict[str, Any], tmp_path: Path) -> None:
    spec = RunSpec(split={"pipeline": {**EAGER, **given}})
    assert spec.split.label == "pp2-eager_1f1b-m6-eagerness2"
    (tmp_path / "spec.toml").write_text(dumps(spec))
    words = command(spec).split()
    assert words[-2:] == ["--split", "pipeline=2,schedule=eager_1f1b,num_microbatches=6,eagerness=2"]
    typed = RunSpec(**override({}, model=None, dataset=None, splits=words[-1:], sets=[]))
    assert [load(tmp_path / "spec.toml"), typed, spec_of(differences(spec))] == [spec] * 3


def test_a_form_asks_for_them() -> None:
    field = all_fields("mlp", "digits")["split.pipeline.eagerness"]
    assert (field.kind, field.default, field.minimum) == ("integer", 1, 0)
    assert field.help.startswith("Schedule eager_1f1b only: Forward passes")


@pytest.mark.parametrize(
    ("given", "field", "sentence"),
    [
        ({"eagernes": 2}, "split.pipeline.eagernes", "did you mean 'eagerness'?"),
        ({"eagerness": -1}, "split.pipeline.eagerness", "must be at least 0, but got -1"),
        ({"schedule": "1f1b", "eagerness": 2}, "split.pipeline.eagerness", "unknown key 'eagerness'"),
        ({"schedule_options": {"eager": 2}}, "split.pipeline.schedule_options.eager", "Allowed: eagerness"),
        ({"schedule_options": 3}, "split.pipeline.schedule_options", "must be a table of options of the schedule, but got 3"),
    ],
)
def test_what_is_none_is_refused(given: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(SpecError, match=re.escape(sentence)) as refused:
        pipeline(**given)
    assert refused.value.field == field
