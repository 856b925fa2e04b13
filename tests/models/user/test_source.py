"""A callable by name: what is loaded from a user's file, and the sentence for each mistake in it."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest

import workbench as wb
from workbench.api.inspection import plan_rows
from workbench.errors import SpecError
from workbench.plan.tensor_plan import ModuleSlices, RejectedSlices, SlicedModule, TensorPlan
from workbench.sources.arguments import arguments_of
from workbench.sources.code import executed
from workbench.sources.source import Source, built
from workbench.spec.paths import command, differences
from workbench.spec.run_spec import RunSpec


def make(folder: Path, options: dict[str, Any] | None = None, *, name: str = "net.py:build", **files: str) -> Any:
    """What a callable returns, from files written to a folder: ``net="…"`` is net.py."""
    write(folder, **files)
    return built(Source.parse(name, "model.name", str(folder)), options or {}, "model.options")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for module, text in files.items():
        (folder / f"{module}.py").write_text(text)


def refusal(folder: Path, options: dict[str, Any] | None = None, *, name: str = "net.py:build", **files: str) -> str:
    with pytest.raises(SpecError) as refused:
        make(folder, options, name=name, **files)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_callable_gets_its_arguments(tmp_path: Path) -> None:
    net = "def build(width: int, *, rate: float = 0.5):\n    return width, rate\n\nclass Nets:\n    small = staticmethod(build)\n"
    assert make(tmp_path, {"width": 3, "rate": 1}, net=net) == (3, 1)
    assert make(tmp_path, {"width": 3}, name="net.py:Nets.small", net=net) == (3, 0.5)


def test_files_of_the_same_names_in_two_folders_are_two(tmp_path: Path) -> None:
    net = (
        "import parts\n\ndef build():\n    return parts.WORD, later()\n\ndef later():\n    import parts\n    return parts.WORD\n"
    )
    for word in ("first", "second", "first"):
        assert make(tmp_path / word, net=net, parts=f"WORD = {word!r}\n") == (word, word)
        code = executed(Source.parse("net.py:build", "model.name", str(tmp_path / word)))
        assert set(code.files) == {"net.py", "parts.py"}
    assert not list(tmp_path.rglob("__pycache__")), "nothing is written beside the user's files"
    assert not [path for path in sys.path if path.startswith(str(tmp_path))]


def test_the_code_of_a_package_is_its_version_if_it_is_installed_and_else_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source.parse("numpy.linalg:norm", "model.name")
    assert source.load()([3, 4]) == 5
    code = executed(source)
    assert (code.distribution, code.version, code.files) == ("numpy", version("numpy"), {})
    assert code.is_current
    monkeypatch.syspath_prepend(tmp_path)
    write(
        tmp_path / "ownnets",
        __init__="",
        net="from ownnets import parts\n\ndef build():\n    return parts.WORD\n",
        parts="WORD = 1\n",
    )
    assert built(Source.parse("ownnets.net:build", "model.name"), {}, "model.options") == 1
    code = executed(Source.parse("ownnets.net:build", "model.name"))
    assert (code.distribution, set(code.files)) == (None, {f"ownnets/{name}.py" for name in ("__init__", "net", "parts")})
    assert code.is_current
    write(tmp_path / "ownnets", parts="WORD = 2\n")
    assert not code.is_current


def test_an_edited_file_is_loaded_anew(tmp_path: Path) -> None:
    assert [make(tmp_path, net=f"def build():\n    return {number}\n") for number in (1, 2)] == [1, 2]


GOOD = "def build(width: int = 3, name: 'str | None' = None):\n    return width\n\nNUMBER = 3\n"


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("nett.py:build", {}, "model.name: there is no file {folder}/nett.py; did you mean 'net.py'?"),
        ("folder.py:build", {}, "model.name: {folder}/folder.py is a directory; name a file in it, folder.py/FILE.py:build"),
        ("net.py:builder", {}, "model.name: net.py has no 'builder'; did you mean 'build'?"),
        ("net.py:forward", {}, "model.name: net.py has no 'forward'"),
        (
            "net.py:NUMBER",
            {},
            "model.name: net.py:NUMBER is not callable, but of type int; name a function or class that returns",
        ),
        (
            "net.py:",
            {},
            "model.name: must be PATH.py:CALLABLE, package.module:CALLABLE or hf:PATH/config.json, but got 'net.py:'",
        ),
        (
            "folder/:build",
            {},
            "model.name: must be PATH.py:CALLABLE, package.module:CALLABLE or hf:PATH/config.json, but got 'folder/:build'",
        ),
        ("json.dekoder:build", {}, "model.name: the module json.dekoder does not exist: there is no json.dekoder"),
        ("absent_package.nets:build", {}, "model.name: the package 'absent_package' is not installed, or not on the import path"),
        (
            "net.py:build",
            {"widths": 4},
            "model.options.widths: net.py:build has no argument 'widths'; did you mean 'width'? Allowed:",
        ),
        ("net.py:build", {"width": "abc"}, "model.options.width: must be an integer, but got 'abc'"),
        ("net.py:build", {"width": True}, "model.options.width: must be an integer, but got True"),
        ("net.py:build", {"name": 3}, "model.options.name: must be a string or nothing, but got 3"),
    ],
)
def test_a_wrong_name_or_argument_is_refused_with_what_is_allowed(
    tmp_path: Path, name: str, options: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "folder.py").mkdir()
    assert refusal(tmp_path, options, name=name, net=GOOD).startswith(sentence.format(folder=tmp_path))


def test_a_missing_argument_is_named(tmp_path: Path) -> None:
    sentence = refusal(tmp_path, {"a": 1}, net="def build(a, b, *, c, d=1):\n    pass\n")
    assert sentence == ("model.options: net.py:build requires the arguments b and c; set model.options.b and model.options.c")


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        ("x = 1\ndef build(:\n    pass\n", "importing net.py failed in net.py, line 2: SyntaxError: invalid syntax"),
        ("x = 1\nraise ValueError('odd')\n", "importing net.py failed in net.py, line 2: ValueError: odd"),
        ("import parts\n", "importing net.py failed in parts.py, line 3: ZeroDivisionError: division by zero"),
        ("\nimport absent.nets\n", "importing net.py failed in net.py, line 2: the package 'absent' is not installed"),
        ("import parts.inner\n", "importing net.py failed in parts.py, line 3: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('bye')\n", "importing net.py failed in net.py, line 2: it ends the process (sys.exit('bye'))"),
        (
            "import json\n\ndef build():\n    return json.loads('{')\n",
            "building net.py:build failed in net.py, line 4: JSONDecodeError: Expecting property name enclosed in double quotes",
        ),
        (
            "def build():\n    raise RuntimeError('operator torchvision::nms does not exist')\n",
            "building net.py:build failed in net.py, line 2: torchvision is built for another version of torch or for CUDA",
        ),
    ],
)  # fmt: skip
def test_an_error_in_the_users_code_has_the_users_line(tmp_path: Path, net: str, sentence: str) -> None:
    assert refusal(tmp_path, net=net, parts="\n\n1 / 0\n").startswith(f"model.name: {sentence}")


def build(width: int = 3) -> int:
    return width


def any_kinds(
    size: int,
    rate: float = 0.5,
    kind: Literal["a", "b"] = "a",
    name: str | None = None,
    act: Any = print,
    sizes=(1, 2),
    bias=True,
) -> tuple[Any, ...]:
    return size, rate, kind, name, act, sizes, bias


def test_the_arguments_of_a_callable_are_known_without_calling_it() -> None:
    found = {a.name: (a.kind, a.default, a.is_required) for a in arguments_of(any_kinds)}
    assert found == {
        "size": ("integer", None, True),
        "rate": ("number", 0.5, False),
        "kind": ("choice", "a", False),
        "name": ("text", None, False),
        "act": ("value", None, False),
        "sizes": ("value", (1, 2), False),
        "bias": ("flag", True, False),
    }


def test_rows_of_a_tensor_plan_join_what_is_cut_alike_alone() -> None:
    of = {"layers.0.0": "column", "layers.0.1": "row", "layers.1.0": "column", "layers.1.1": "row", "head": "vocabulary"}
    groups = tuple(
        ModuleSlices("linear", modules=(SlicedModule(path, style),), parameters=(), units=8, blocks=())
        for path, style in of.items()
    )
    plan = TensorPlan(groups, (RejectedSlices(("layers.0.2", "layers.1.2"), "differs"),))
    assert [(row.path, row.style, row.units) for row in plan_rows(plan)] == [
        ("layers.*.0", "column", 8), ("layers.*.1", "row", 8), ("head", "vocabulary", 8), ("layers.*.2", "none", 0),
    ]  # fmt: skip


def test_a_function_of_a_file_becomes_the_name_from_which_it_is_loaded() -> None:
    options = wb.UserModel(build, width=5, cut_at=["a"])
    assert (options.options, options.cut_at) == ({"width": 5}, ("a",))
    assert options.source.load().__qualname__ == "build"
    assert wb.UserModel(json.JSONDecoder).name == "json.decoder:JSONDecoder"


def test_a_spec_names_a_source_and_needs_a_dataset() -> None:
    with pytest.raises(SpecError, match=r"dataset\.name: net\.py:build has no default dataset; name one, such as digits"):
        RunSpec(model="net.py:build")
    with pytest.raises(SpecError, match=r"net\.py is a file; name a function or class in it, as net\.py:CALLABLE"):
        RunSpec(model="net.py", dataset="digits")
    spec = RunSpec(model={"name": "net.py:build", "options": {"width": 64}}, dataset="digits", split={"data": 2})
    assert differences(spec) == {
        "model.name": "net.py:build", "model.options": {"width": 64}, "dataset.name": "digits", "split.data.size": 2,
    }  # fmt: skip
    assert command(spec).startswith("workbench run --model net.py:build --dataset digits --split data=2 --set 'model.options={")
