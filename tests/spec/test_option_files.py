"""Options that name a file: a recorded spec runs again on the same contents or says that they changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import workbench as wb
from workbench import registry
from workbench.errors import SpecError
from workbench.launch.environment import baseline_key
from workbench.spec.files import dumps, load
from workbench.spec.option_files import with_file_hashes
from workbench.spec.paths import not_by_default

TABLE = '''
from pathlib import Path
from typing import Annotated, Literal
from workbench.data.base import Dataset, DatasetSummary, LabelledSamples, dataset
from workbench.errors import SpecError
from workbench.spec.options import DatasetOptions, ReadsFile

class TableOptions(DatasetOptions):
    name: Literal["table"] = "table"
    path: Annotated[str, ReadsFile]
    """A CSV file with a head; the last column is predicted."""

@dataset("table")
class Table(Dataset[TableOptions]):
    """Numbers of a CSV file."""
    Options = TableOptions
    examples = {"": {"path": "example.csv"}}

    def rows(self):
        import numpy as np
        try:
            return np.loadtxt(self.options.path, delimiter=",", skiprows=1, dtype=np.float32)
        except OSError as error:
            raise SpecError("dataset.path", f"{self.options.path} cannot be read ({error})") from None

    def summary(self):
        rows = self.rows()
        return DatasetSummary("features", (rows.shape[1] - 1,), 0, len(rows), target="values", value_shape=(1,))

    def load(self):
        rows = self.rows()
        return LabelledSamples(rows[:, :-1], rows[:, -1:])
'''


@pytest.fixture(scope="module", autouse=True)
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("table")
    (folder / "table.py").write_text(TABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_PLUGINS", os.environ.get("WORKBENCH_PLUGINS", ""))
        patch.setenv("WORKBENCH_HOME", str(folder / "store"))
        patch.chdir(folder)
        registry.announce(folder / "table.py")
        yield folder
    registry._load.cache_clear()


def write(folder: Path, factor: float) -> None:
    rows = [f"{i},{i % 5},{factor * i}" for i in range(16)]
    (folder / "numbers.csv").write_text("\n".join(["a,b,y", *rows]))


def spec() -> wb.RunSpec:
    return wb.RunSpec(
        model={"name": "mlp", "hidden_dim": 8, "num_layers": 1},
        dataset={"name": "table", "path": "numbers.csv"},
        train={"num_steps": 2, "num_warmup_steps": 0, "global_batch_size": 4},
        baseline={"mode": "none"},
    )


@pytest.mark.timeout(180)
def test_a_run_on_a_csv_file_repeats_or_says_that_the_file_changed(table: Path) -> None:
    write(table, 1.0)
    run = wb.run(spec())
    recorded = run.spec
    assert recorded.dataset.path == str(table / "numbers.csv"), "from wherever it is repeated"  # type: ignore[attr-defined]
    assert with_file_hashes(recorded) == recorded
    assert not_by_default(recorded)["dataset.path"] == str(table / "numbers.csv")
    write(table, 2.0)
    with pytest.raises(SpecError, match=r"dataset.path: .*numbers.csv has changed since this spec was recorded \(SHA-256"):
        wb.submit(load(run.directory.spec_path))


def test_equal_contents_share_a_baseline_and_others_do_not(table: Path) -> None:
    write(table, 1.0)
    first = with_file_hashes(spec())
    write(table, 1.0)
    assert baseline_key(with_file_hashes(spec())) == baseline_key(first)
    write(table, 2.0)
    assert baseline_key(with_file_hashes(spec())) != baseline_key(first)


def test_a_folder_is_the_names_and_contents_of_its_files(table: Path) -> None:
    from workbench.spec.option_files import _hash

    folder = table / "images"
    (folder / "cats").mkdir(parents=True, exist_ok=True)
    (folder / "cats" / "1.png").write_bytes(b"1")
    first = _hash("dataset.path", folder)
    (folder / "cats" / "1.png").rename(folder / "cats" / "2.png")
    assert _hash("dataset.path", folder) != first
    (folder / "cats" / "2.png").rename(folder / "cats" / "1.png")
    assert _hash("dataset.path", folder) == first


def test_a_spec_without_such_options_stays_as_it_is() -> None:
    plain = wb.RunSpec(model="mlp")
    assert with_file_hashes(plain) is plain
    assert "files" not in dumps(plain)


@pytest.mark.parametrize("options", [{}, {"path": "nowhere.csv"}])
def test_a_file_that_is_not_given_or_not_there_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=r"dataset.path: (field required|cannot read .*nowhere.csv)"):
        with_file_hashes(wb.RunSpec(model="mlp", dataset={"name": "table", **options}))
