"""A user's own files as datasets: what they are read as, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from workbench.data.base import Dataset
from workbench.data.user import table
from workbench.errors import SpecError
from workbench.registry import DATASETS
from workbench.spec.option_files import with_file_hashes
from workbench.spec.run_spec import RunSpec

FRAME = pd.DataFrame({"height": [1.0, 2.0, 3.0, 4.0], "legs": [2, 4, 4, 2], "species": ["hen", "dog", "cat", "hen"]})


def opened(name: str, **options: Any) -> Dataset[Any]:
    plugin = DATASETS.get(name, "dataset.name")
    made: Dataset[Any] = plugin(plugin.Options(name=name, **options))
    return made


def save_arrow(folder: Path, **columns: Any) -> str:
    folder.mkdir()
    rows = pa.table(columns)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows)  # as the library datasets does
    return f"hf:{folder}"


def write_table(path: Path, frame: pd.DataFrame) -> str:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_columns_of_numbers_are_features_and_text_is_a_class(tmp_path: Path, suffix: str) -> None:
    data = opened(write_table(tmp_path / f"animals.{suffix}", FRAME))
    summary = data.summary()
    assert (summary.kind, summary.input_shape, summary.target, summary.num_classes) == ("features", (2,), "class", 3)
    features, labels = data.load().batch(np.array([3, 1]))
    assert features.tolist() == [[4.0, 2.0], [2.0, 4.0]]
    assert features.dtype == np.float32
    assert labels.tolist() == [2, 1]  # of cat, dog, hen


def test_columns_are_chosen_and_a_target_of_integers_can_be_values(tmp_path: Path) -> None:
    name = write_table(tmp_path / "animals.csv", FRAME)
    data = opened(name, inputs=("height",), targets=("legs",), target="values")
    assert (data.summary().input_shape, data.summary().value_shape) == ((1,), (1,))
    assert data.load().batch(np.array([1]))[1].tolist() == [[4.0]]
    assert opened(name, inputs=("height",), targets=("legs",)).summary().num_classes == 2


def test_a_large_table_is_mapped_and_read_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_MAPPED_BYTES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = opened(write_table(tmp_path / "animals.csv", FRAME))
    assert data.load().batch(np.array([2]))[0].tolist() == [[3.0, 4.0]]
    (mapped,) = (tmp_path / "cache").rglob("*.arrow")
    assert pa.ipc.open_file(pa.memory_map(str(mapped))).read_all().num_rows == len(FRAME)


def test_lists_are_padded_with_zeros_and_targets_with_ignored_ones(tmp_path: Path) -> None:
    name = save_arrow(tmp_path / "tokens", ids=[[1, 2, 3], [4]], mask=[[1, 1, 1], [1]], labels=[[2, 3, 9], [5]])
    data = opened(name)
    inputs, targets = data.load().batch(np.array([0, 1]))
    assert inputs["ids"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert targets.tolist() == [[2, 3, 9], [5, -100, -100]]
    summary = data.summary()
    assert (summary.kind, summary.target) == ("structured", "structured")
    assert [(t.path, t.shape, t.dtype) for t in summary.inputs] == [("ids", (3,), "int64"), ("mask", (3,), "int64")]


def test_one_column_of_lists_and_targets_of_its_shape_are_tokens(tmp_path: Path) -> None:
    data = opened(save_arrow(tmp_path / "tokens", ids=[[1, 2], [3, 4]], labels=[[2, 7], [4, 1]]))
    summary = data.summary()
    assert (summary.kind, summary.target, summary.num_classes, summary.tokens_per_sample) == ("tokens", "next", 8, 2)


def test_arrays_have_the_kind_of_their_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x=np.zeros((6, 3, 4, 5)), y=np.arange(6) % 4)
    summary = opened(str(tmp_path / "images.npz")).summary()
    assert (summary.kind, summary.input_shape, summary.num_classes) == ("images", (3, 4, 5), 4)
    np.savez(tmp_path / "two.npz", a=np.zeros((6, 3)), b=np.ones((6, 2)), y=np.arange(6.0))
    data = opened(str(tmp_path / "two.npz"))
    assert data.summary().kind == "structured"
    assert data.summary().value_shape == (1,)
    inputs, targets = data.load().batch(np.array([5]))
    assert (inputs["b"].tolist(), targets.tolist()) == ([[1.0, 1.0]], [[5.0]])


def test_a_stream_of_tokens_and_a_text_are_windows(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(20, dtype=np.uint16))
    (tmp_path / "text.txt").write_text("abcdefgh")
    inputs, targets = opened(str(tmp_path / "tokens.npy"), sequence_length=4).load().batch(np.array([1]))
    assert (inputs.tolist(), targets.tolist()) == ([[4, 5, 6, 7]], [[5, 6, 7, 8]])
    inputs, targets = opened(str(tmp_path / "text.txt"), sequence_length=3).load().batch(np.array([0]))
    assert (bytes(inputs[0].tolist()), bytes(targets[0].tolist())) == (b"abc", b"bcd")
    assert inputs.dtype == np.int64


def test_folders_of_images_are_classes(tmp_path: Path) -> None:
    for name, intensity in (("black", 0), ("white", 255)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (5, 4), (intensity,) * 3).save(tmp_path / name / "1.png")
    data = opened(f"{tmp_path}/")
    assert data.summary().input_shape == (3, 4, 5)
    images, labels = data.load().batch(np.array([1, 0]))
    assert images.mean(axis=(1, 2, 3)).tolist() == [1.0, 0.0]
    assert labels.tolist() == [1, 0]
    assert opened(str(tmp_path) + "/", height=2, width=3, channels=1).summary().input_shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("animal.csv", {}, "there is no file or folder"),
        ("animals.csv", {"inputs": ("weight",)}, "unknown column 'weight'"),
        ("animals.csv", {"targets": ("legs",)}, "column species has text; list columns of numbers in dataset.inputs"),
        ("missing.csv", {}, "column legs has no value in row 1"),
        ("broken.parquet", {}, "cannot be read"),
        ("broken.npz", {}, "cannot be read as .npz"),
        ("objects.npz", {}, "cannot be read as .npz"),
        ("unequal.npz", {}, "must have equally many samples, but x has 3 and y has 2"),
        ("matrix.npy", {}, "must be an array of integers, one per token"),
        ("short.txt", {}, "2 bytes are fewer than a sample of 128"),
        ("folder/", {}, "requires at least two folders, one per class"),
        ("hf:folder", {}, "has no .arrow files"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path, name: str, options: dict[str, Any], sentence: str) -> None:
    write_table(tmp_path / "animals.csv", FRAME)
    write_table(tmp_path / "missing.csv", FRAME.assign(legs=[2, None, 4, 2]))
    for broken in ("broken.parquet", "broken.npz"):
        (tmp_path / broken).write_bytes(b"no such format")
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object), y=np.arange(2))
    np.savez(tmp_path / "unequal.npz", x=np.zeros((3, 2)), y=np.arange(2))
    np.save(tmp_path / "matrix.npy", np.zeros((2, 2)))
    (tmp_path / "short.txt").write_text("ab")
    (tmp_path / "folder").mkdir()
    path = f"hf:{tmp_path}/folder" if name.startswith("hf:") else f"{tmp_path}/{name}"
    with pytest.raises(SpecError, match=sentence):
        opened(path, **options).summary()


def test_another_suffix_is_refused_with_what_is_read() -> None:
    with pytest.raises(SpecError, match=r"must be a .csv, .* but got 'model.onnx'"):
        DATASETS.get("model.onnx", "dataset.name")


def test_a_recorded_spec_has_the_absolute_path_and_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "animals.csv", FRAME)
    folder = save_arrow(tmp_path / "saved", x=[[1.0], [2.0]], y=[0, 1]).removeprefix("hf:")
    monkeypatch.chdir(tmp_path)
    recorded = with_file_hashes(RunSpec(model="mlp", dataset="animals.csv"))
    assert recorded.dataset.name == str(tmp_path / "animals.csv")
    assert "dataset.name" in (recorded.files or {})
    assert with_file_hashes(RunSpec(model="mlp", dataset="hf:saved")).dataset.name == f"hf:{folder}"
    write_table(tmp_path / "animals.csv", FRAME.assign(legs=3))
    with pytest.raises(SpecError, match="has changed since this spec was recorded"):
        with_file_hashes(recorded)


def test_a_spec_is_read_after_its_data_was_deleted(tmp_path: Path) -> None:
    name = write_table(tmp_path / "animals.csv", FRAME)
    table_of_spec = RunSpec(model="mlp", dataset={"name": name, "inputs": ["legs"]}).as_dict()
    (tmp_path / "animals.csv").unlink()
    assert RunSpec(**table_of_spec).dataset.name == name
