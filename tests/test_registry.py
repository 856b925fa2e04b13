"""Plugins that do not keep their contract: each is refused when it is registered, in one sentence that says what it lacks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from workbench import registry
from workbench.data.base import Dataset, DatasetSummary, dataset
from workbench.errors import PluginError, PluginWarning, SpecError
from workbench.models.base import model
from workbench.models.inferred import OwnModel
from workbench.plan.layer_groups import ColumnRowPair
from workbench.plan.model_summary import ModelSummary
from workbench.registry import STRATEGIES
from workbench.spec.options import DatasetOptions, ModelOptions, Options, StrategyOptions
from workbench.strategies.base import ApplyOrder, Strategy, strategy
from workbench.strategies.pipeline.schedules.base import Schedule, schedule


class WholeStrategy(Strategy[StrategyOptions]):
    Options, axis, apply_order, label = StrategyOptions, "data", ApplyOrder.DATA, "mine"
    check = expected = apply = lambda self, *_: None


class Required(Options):
    eagerness: int


class Otherwise(ModelOptions):
    name: Literal["other"] = "other"


class Path_(DatasetOptions):  # noqa: N801
    path: str


class WholeModel(OwnModel[ModelOptions]):
    default_dataset = "digits"
    blocks = lambda self: {}  # noqa: E731


class WholeDataset(Dataset[DatasetOptions]):
    Options = DatasetOptions
    summary = load = lambda self: None


class WholeSchedule(Schedule):
    def build(self, stages: object, loss: object) -> None: ...


def lacking(cls: type, name: str) -> type:
    """A copy of a strategy's class without one of its attributes."""
    return type("Mine", (Strategy,), {k: v for k, v in vars(cls).items() if k not in (name, "__abstractmethods__", "_abc_impl")})


@pytest.mark.parametrize(
    ("decorator", "cls", "sentence"),
    [
        (strategy, lacking(WholeStrategy, "axis"), "class Mine does not define axis; add axis = \"data\" to the class"),
        (strategy, lacking(WholeStrategy, "apply_order"), "does not define apply_order; add apply_order = ApplyOrder.DATA to"),
        (strategy, lacking(WholeStrategy, "Options"), "does not define Options; add Options = StrategyOptions to the class"),
        (strategy, lacking(WholeStrategy, "expected"), "does not define expected, required by workbench.strategies.base.Strat"),
        (strategy, type("Mine", (WholeStrategy,), {"axis": 1}), "has axis = 1, which is not str; use axis = \"data\""),
        (strategy, type("Mine", (WholeStrategy,), {"apply_order": 3}), "has apply_order = 3, which is not one of ApplyOrder.S"),
        (strategy, type("Mine", (WholeStrategy,), {"apply_order": True}), "apply_order = True, which is not one of Apply"),
        (strategy, type("Mine", (WholeStrategy,), {"Options": Options}), "is not a subclass of workbench.spec.options.Strat"),
        (strategy, type("Mine", (WholeStrategy,), {"examples": [{}]}), "has examples = [{}], which is not a dict from names"),
        (strategy, Options, "class Options is not a subclass of workbench.strategies.base.Strategy"),
        (schedule, type("Mine", (Schedule,), {}),
         "does not define build, required by workbench.strategies.pipeline.schedules.base.Schedule"),
        (schedule, type("Mine", (WholeSchedule,), {"Options": Required}), "has the option eagerness without a default"),
        (model, type("Mine", (WholeModel,), {"Options": Otherwise}), 'use name: Literal["mine"] = "mine" in Otherwise'),
        (model, type("Mine", (OwnModel,), {"blocks": None}), 'not define default_dataset; add default_dataset = "digits"'),
        (dataset, type("Mine", (WholeDataset,), {"Options": Path_}), "path without a default; add a default, or examples"),
        (dataset, type("Mine", (Dataset,), {"Options": DatasetOptions}), "does not define load and summary"),
    ],
)  # fmt: skip
def test_what_a_class_lacks_is_said_in_one_sentence_when_it_is_registered(decorator: object, cls: type, sentence: str) -> None:
    with pytest.raises(PluginError) as refused:
        decorator("mine")(cls)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "plugin_kind" not in vars(cls)


@pytest.mark.parametrize(
    ("decorator", "cls"), [(strategy, WholeStrategy), (schedule, WholeSchedule), (model, WholeModel), (dataset, WholeDataset)]
)
def test_a_whole_class_is_registered(decorator: object, cls: type) -> None:
    whole = decorator("mine")(type("Mine", (cls,), {}))
    assert whole.name == "mine"


@pytest.mark.parametrize(("number", "member"), list(zip([0, 0.5, 1, 1.5, 2], ApplyOrder, strict=True)))
def test_a_plugin_may_still_give_a_number_of_the_apply_order(number: float, member: ApplyOrder) -> None:
    older = type("Mine", (WholeStrategy,), {"apply_order": number})
    assert strategy("mine")(older) is older
    assert number == member


def test_a_decorator_without_a_name_is_refused() -> None:
    with pytest.raises(PluginError, match=r'@strategy requires the name of the strategy, such as @strategy\("averaging"\)'):
        strategy(WholeStrategy)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A test's plugins are forgotten after it."""
    yield monkeypatch
    registry._load.cache_clear()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("x = 1\n", "mine.py' (WORKBENCH_PLUGINS): it registers no plugin; add a decorator"),
        ("from workbench.strategies.data import DataStrategy\n", "it registers no plugin"),
        (
            "from workbench.strategies.data import DataStrategy\nfrom workbench.strategies.base import strategy\n"
            "@strategy('data')\nclass Mine(DataStrategy):\n    pass\n",
            "workbench.strategies.data already defines this name; use another name",
        ),
        (
            "from workbench.strategies.base import Strategy, strategy\n@strategy('mine')\nclass Mine(Strategy):\n    pass\n",
            "strategy 'mine': class Mine does not define apply, check, expected and label",
        ),
    ],
)
def test_a_file_that_registers_nothing_new_is_left_out_with_one_sentence(
    code: str, sentence: str, plugins: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(code)
    plugins.setenv("WORKBENCH_PLUGINS", str(tmp_path / "mine.py"))
    registry._load.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        names = STRATEGIES.names()
    assert [str(w.message).count(sentence) for w in said if w.category is PluginWarning] == [1]
    assert "data" in names
    assert STRATEGIES.get("data").__module__ == "workbench.strategies.data"


def test_a_plugin_file_that_is_not_there_is_left_out_with_one_sentence(plugins: pytest.MonkeyPatch) -> None:
    plugins.setenv("WORKBENCH_PLUGINS", "nowhere.py")
    registry._load.cache_clear()
    with pytest.warns(PluginWarning, match=r"\(WORKBENCH_PLUGINS\): cannot read nowhere.py \(No such file or directory\)$"):
        STRATEGIES.names()


def test_groups_from_a_generator_are_kept_for_every_reader() -> None:
    pair = ColumnRowPair("feedforward", "a.up", "a.down", 8, "features", (4,), (8,))
    summary = ModelSummary("mine", (), (group for group in [pair]))
    assert [list(summary.groups), list(summary.groups)] == [[pair], [pair]]


def test_a_block_that_is_given_as_a_module_is_refused_in_one_sentence() -> None:
    from torch import nn

    class Mine(WholeModel):
        name = "mine"

        def blocks(self) -> dict[str, object]:
            return {"body": nn.Linear(4, 4)}

    data = DatasetSummary("features", (4,), 4, 8)
    with pytest.raises(SpecError, match="block 'body' of mine must be a function that creates the module"):
        Mine(ModelOptions(name="mine"), data).summary()
