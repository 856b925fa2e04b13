"""Tensor plans of modules as people write them: what is found is right, and what looks alike is rejected by computing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.user.attention_zoo import WIDTH, Between, Decoder, Gated, Translator
from tests.models.user.convolution_zoo import Chain, Images
from tests.models.user.zoo import (
    DependsOnValues,
    FrozenSkip,
    Recurrent,
    ResidualsOutside,
    Shared,
    TiedTransformer,
    WeightOfAnother,
)
from workbench.errors import SpecError, SplitError
from workbench.models.dropout_modules import substitute_dropout
from workbench.models.user.outputs_modules import main_output
from workbench.plan.model_summary import ModelSummary
from workbench.plan.tensor_plan import ModuleSlices, SlicedModule, Style, TensorPlan
from workbench.runtime.parity.dropout import without_random_draws
from workbench.runtime.tensor_plan import find
from workbench.runtime.tensor_plan.decide import decided
from workbench.runtime.tensor_plan.find import Subject, find_plan
from workbench.runtime.tensor_plan.trial import Call, Trial, prepared
from workbench.spec.run_spec import RunSpec
from workbench.strategies.tensor import TensorOptions, attention_modules, simulated, sliced_modules
from workbench.strategies.tensor.checks import check_tensor

TOKENS = (lambda count: torch.randint(20, (count, 6)), "tokens")
IMAGES = (lambda count: torch.randn(count, 1, 6, 6), "images")
FEATURES = (lambda count: torch.randn(count, 64), "features")


def subject(module: nn.Module, data: tuple[Callable[[int], Tensor], str]) -> Subject:
    return Subject(module, data[0], output=lambda output, targets: main_output(output))


def plan_of(module: nn.Module, data: tuple[Callable[[int], Tensor], str]) -> TensorPlan:
    torch.manual_seed(3)
    return find_plan(subject(module, data))


def described(plan: TensorPlan) -> list[str]:
    """Returns each group as one line: its columns, > its rows; and the number that workers must divide."""
    lines = []
    for group in plan.groups:
        columns = " ".join(part.path for part in group.modules if part.style != "row")
        rows = " ".join(part.path for part in group.modules if part.style == "row")
        divided = "".join(f" / {attribute.path}.{attribute.name}" for attribute in group.attributes)
        lines.append(f"{columns}{rows and f' > {rows}'} : {group.units}{divided}")
    return lines


CASES: dict[str, tuple[Callable[[], nn.Module], Any, list[str]]] = {
    "residuals outside": (
        ResidualsOutside,
        FEATURES,
        [*(f"layers.{i}.0 > layers.{i}.2 : 12" for i in range(3)), "head : 10"],
    ),
    "encoder": (
        TiedTransformer,
        TOKENS,
        [
            *(
                f"encoder.layers.{i}.{group}"
                for i in range(3)
                for group in ("self_attn : 2", f"linear1 > encoder.layers.{i}.linear2 : 16")
            ),
            "embed : 20",
            "head : 20",
        ],
    ),
    "recurrent": (Recurrent, TOKENS, ["embed : 20", "head : 20"]),
    "weight of another": (WeightOfAnother, TOKENS, ["a > b : 8"]),
    "frozen": (FrozenSkip, FEATURES, ["a > b : 8", "head : 10"]),
    "depends on values": (DependsOnValues, FEATURES, ["c : 10"]),
    "shared": (Shared, FEATURES, ["head : 10"]),
    "scale": (lambda: Between("scale"), FEATURES, ["first > second : 16"]),
    "groups": (lambda: Between("group_norm"), FEATURES, ["first norm > second : 2"]),
}
"""Name → module, data and what is found."""


@pytest.mark.parametrize("name", CASES)
def test_pairs_tables_and_heads_are_found(name: str) -> None:
    make, data, expected = CASES[name]
    torch.manual_seed(1)
    assert described(plan_of(make(), data)) == expected


@pytest.mark.parametrize(("attention", "units", "divided"), [("separate", 4, True), ("normed", 4, True), ("grouped", 2, False)])
def test_attention_is_cut_by_heads(attention: str, units: int, divided: bool) -> None:
    torch.manual_seed(1)
    plan = plan_of(Decoder(attention), TOKENS)
    lines = []
    for layer in ("layers.0", "layers.1"):
        heads = f" / {layer}.attention.num_heads" if divided else ""
        q, k, v, out = (f"{layer}.attention.{part}" for part in ("q", "k", "v", "out"))
        lines.append(f"{q} {k} {v} > {out} : {units}{heads}")
        lines.append(f"{layer}.mlp.gate {layer}.mlp.up > {layer}.mlp.down : 24")
    assert described(plan) == [*lines, "embed : 20", "head : 20"]
    summed = [name for group in plan.groups for name in group.summed]
    assert summed == ([f"layers.{i}.attention.norm.weight" for i in range(2)] if attention == "normed" else [])


def test_repeated_layers_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trials: list[Trial] = []
    monkeypatch.setattr(find, "decided", lambda trial, *args, **kwargs: trials.append(trial) or decided(trial, *args, **kwargs))
    plan = plan_of(Decoder(layers=3), TOKENS)
    assert len(plan.groups) == 3 * 2 + 2
    assert len(trials) == 2


class Dropped(nn.Module):
    """A layer whose output functional dropout drops, which keeps the mask, or ``nn.Dropout``, whose mask is computed again."""

    def __init__(self, is_functional: bool) -> None:
        super().__init__()
        self.layer, self.is_functional = Gated(), is_functional
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return x + (torch.nn.functional.dropout(y, 0.1, self.training) if self.is_functional else self.drop(y))


@pytest.mark.parametrize(("is_functional", "elements"), [(True, [WIDTH]), (False, [])])
def test_recomputation_repeats_what_backward_needs_with_dropout_on(is_functional: bool, elements: list[int]) -> None:
    module = substitute_dropout(nn.Sequential(Dropped(is_functional)))
    samples = lambda count: torch.randn(count, WIDTH)  # noqa: E731
    (group,) = find_plan(Subject(module, samples, blocks=["0"])).groups
    assert [c.elements for c in group.repeated] == elements


FUSED = {
    "fused": ("4 / layers.0.attention.num_heads / layers.0.attention.key_heads", (16, 16, 16), None),
    "fused, grouped": ("2 / layers.0.attention.num_heads / layers.0.attention.key_heads", (16, 8, 8), None),
    "fused, sizes of the input": ("4 / layers.0.attention.num_heads", (16, 16, 16), "layers.0.attention"),
}
"""Attention → what divides, the sections of its projection, and the module whose input is narrowed."""


@pytest.mark.parametrize("attention", FUSED)
def test_fused_projections_are_cut_in_sections(attention: str) -> None:
    torch.manual_seed(1)
    plan = plan_of(Decoder(attention, layers=1), TOKENS)
    divided, sections, narrowed = FUSED[attention]
    assert described(plan)[0] == f"layers.0.attention.qkv > layers.0.attention.out : {divided}"
    assert plan.groups[0].modules[0].sections == sections
    assert plan.groups[0].narrowed == narrowed


TORCHS = {
    "decoder": ["layer.self_attn : 4", "layer.multihead_attn : 4", "layer.linear1 > layer.linear2 : 24"],
    "weights": ["layer.heads.0 : 4"],
    "biased": ["layer.heads.0 : 4"],
    "own": [],
}
"""How torch's attention is used → what is found of it."""


@pytest.mark.parametrize("kind", TORCHS)
def test_attention_of_torch_is_cut_by_heads(kind: str) -> None:
    torch.manual_seed(1)
    plan = plan_of(Translator(kind=kind), TOKENS)
    assert described(plan) == [*TORCHS[kind], "embed : 20", "head : 20"]
    assert [rejected.modules for rejected in plan.rejected] == ([("layer",)] if kind == "own" else [])
    if kind == "decoder":
        own, other = (group.communication for group in plan.groups[:2])
        states = 6 * 16
        assert [(c.operation, c.phase, c.elements) for c in own] == [("all_reduce", p, states) for p in ("forward", "backward")]
        assert sum(c.elements for c in other if c.phase == "backward") == 2 * states  # of the query, and of key and value at once
    if kind == "weights":
        assert [c.elements for c in plan.groups[0].communication if c.phase == "forward"] == [6 * 16, 6 * 6]


def test_sliced_layers_of_torch_compute_padded_samples_in_eval_mode() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
    encoder, x = nn.TransformerEncoder(layer, 1).eval(), torch.randn(2, 6, 16)
    padding = torch.arange(6) >= torch.tensor([[4], [6]])
    group = ModuleSlices("attention", (SlicedModule("layers.0.self_attn", "heads"),), (), 4, ())
    copies = [copy.deepcopy(encoder) for _ in range(2)]

    def work(mesh: simulated.SimulatedMesh) -> Tensor:
        sliced_modules.cut_modules(copies[mesh.get_local_rank()], [group], lambda group: mesh)
        with torch.no_grad():
            return copies[mesh.get_local_rank()](x, src_key_padding_mask=padding)

    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=padding)
    for output in simulated.Workers(2).run(work):
        torch.testing.assert_close(output[~padding], expected[~padding])


BLOCKS = {
    "basic": ["conv1 norm1 > conv2 : 8"],
    "basic, group norm": ["conv1 norm1 > conv2 : 2"],
    "basic, one group": [],
    "inverted": ["expand norm1 depthwise norm2 > project : 16"],
    "squeeze and excitation": ["expand excite norm1 depthwise norm2 > squeeze project : 16"],
    "grouped": ["conv1 act conv2 > conv3 : 4"],
    "halving": ["down > up : 16", "left right > last : 2"],
    "channel norm": [],
}
"""Convolutional block → what is found of it."""


@pytest.mark.parametrize("block", BLOCKS)
def test_convolutions_are_cut_by_channels(block: str) -> None:
    torch.manual_seed(1)
    plan = plan_of(Images(block, blocks=1), IMAGES)
    assert [line.replace("blocks.0.", "") for line in described(plan)] == [*BLOCKS[block], "head : 10"]
    assert bool(plan.rejected) == (not BLOCKS[block])


def test_outputs_side_by_side_are_sections_of_the_next_convolution() -> None:
    torch.manual_seed(1)
    plan = plan_of(Images("halving", blocks=1), IMAGES)
    assert [part.sections for part in plan.groups[1].modules] == [(), (), (4, 6)]


def test_convolutions_over_a_sequence_are_cut_before_a_linear_layer_of_their_flat_output() -> None:
    torch.manual_seed(1)
    plan = plan_of(Chain(), (lambda count: torch.randn(count, 16), "features"))
    assert described(plan) == ["convs.0 > convs.2 : 8", "last > head : 4"]


def test_columns_of_one_input_share_the_sum_of_its_gradient() -> None:
    plan = plan_of(Decoder(), TOKENS)
    found = [(c.operation, c.phase, c.elements) for c in plan.groups[0].communication]
    assert found == [("all_reduce", "forward", 6 * 16), ("all_reduce", "backward", 6 * 16)]


@pytest.mark.parametrize("kind", ["softmax", "layer_norm", "rms_norm", "squeeze", "sort", "branch"])
def test_what_mixes_features_in_between_is_rejected(kind: str) -> None:
    torch.manual_seed(1)
    plan = plan_of(Between(kind), FEATURES)
    assert described(plan) == ["second : 10"]  # the head, alone
    assert [set(rejected.modules) for rejected in plan.rejected] == [{"first", "second"}]
    assert plan.rejected[0].reason


EDITS: dict[str, tuple[dict[str, str], list[str]]] = {
    "a table whole": ({"embed": "none"}, ["layers.0.mlp.gate layers.0.mlp.up > layers.0.mlp.down : 24"]),
    "a pair whole": ({"layers.*.mlp.down": "none"}, ["embed : 20", "head : 20"]),
    "as found": ({"layers.*.mlp.up": "column", "layers.*.mlp.down": "row"}, []),
}
"""Name → edits, and what is found beside attention."""


def attention_of(layer: int) -> str:
    q, k, v, out = (f"layers.{layer}.attention.{part}" for part in ("q", "k", "v", "out"))
    return f"{q} {k} {v} > {out} : 4 / layers.{layer}.attention.num_heads"


class WithShippedPlan(Between):
    """As of Transformers: the plan says that the outputs of a projection are gathered, as OLMo2's before its norm."""

    tp_plan = {"first": "colwise_gather_output"}


def test_what_a_shipped_plan_gathers_is_cut_alone() -> None:
    assert described(plan_of(WithShippedPlan("layer_norm"), FEATURES)) == ["first : 16", "second : 10"]


@pytest.mark.parametrize("name", EDITS)
def test_edits_change_what_is_found(name: str) -> None:
    edits, expected = EDITS[name]
    torch.manual_seed(1)
    plan = find_plan(subject(Decoder(layers=1), TOKENS), edits)
    everything = ["layers.0.mlp.gate layers.0.mlp.up > layers.0.mlp.down : 24", "embed : 20", "head : 20"]
    assert described(plan) == [attention_of(0), *(expected or everything)]


def test_rows_are_edited_with_all_that_shares_their_slices() -> None:
    torch.manual_seed(1)
    whole = subject(Images("squeeze and excitation", blocks=1), IMAGES)
    rest = {f"blocks.*.{name}": "channel" for name in ("norm1", "depthwise", "norm2")}
    without = {"blocks.*.squeeze": "none", "blocks.*.excite": "column"}
    edits = {
        "blocks.*.expand": "column",
        **rest,
        "blocks.*.project": "row",
        "blocks.*.excite": "column",
        "blocks.*.squeeze": "row",
    }
    assert described(find_plan(whole, edits)) == described(find_plan(whole))
    with pytest.raises(SpecError, match=r"unknown style 'row'. Allowed: channel, none"):
        find_plan(whole, {"blocks.*.norm1": "row"})
    assert described(find_plan(whole, without)) == ["head : 10"]


def test_a_table_is_cut_by_features() -> None:
    torch.manual_seed(1)
    plan = find_plan(subject(Decoder(layers=1, tied=False), TOKENS), {"embed": "hidden", "head": "none"})
    assert "embed : 16" in described(plan)
    (table,) = (group for group in plan.groups if group.kind == "embedding")
    assert [(c.operation, c.phase, c.elements) for c in table.communication] == [("all_gather", "forward", 6 * 16)]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"layers.*.mlp.up": "row"}, "layers.0.mlp.up = row"),
        ({"layers.*.mlp.pu": "row"}, r"unknown module that can be cut 'layers\.\*\.mlp\.pu'; did you mean 'layers\.\*\.mlp\.up'"),
        ({"embed": "column"}, "unknown style 'column'"),
        ({"layers.0.norm1": "column"}, "unknown module that can be cut"),
        ({"embed": "hidden"}, "tied to a parameter that is cut along another dim"),
    ],
)
def test_wrong_edits_are_refused(edits: dict[str, str], message: str) -> None:
    torch.manual_seed(1)
    with pytest.raises(SpecError, match=message):
        find_plan(subject(Decoder(layers=1), TOKENS), edits)


def test_an_edit_that_computes_something_else_is_refused_with_the_tensor() -> None:
    torch.manual_seed(1)
    with pytest.raises(SpecError, match=r"first = column and second = row: .*(output|gradient).* differs by"):
        find_plan(subject(Between("softmax"), FEATURES), {"first": "column", "second": "row"})


def test_an_edit_that_does_not_run_is_refused_with_the_line_and_the_shapes() -> None:
    with pytest.raises(SpecError) as refused:
        find_plan(subject(Between("layer_norm"), FEATURES), {"first": "column"})
    sentence = str(refused.value)
    for part in (
        "first = column: the code fails in attention_zoo.py, line ",
        "first returns (",
        "gets (",
        "RuntimeError: ",
        "; without the edit: first = none; allowed: column, row, vocabulary or none for first",
    ):
        assert part in sentence, sentence


@pytest.mark.parametrize(
    ("units", "advice"),
    [
        ({"attention": 4, "up": 24, "head": 20}, "use a divisor of 4, with which all modules of its plan are cut"),
        ({"attention": 4, "up": 9, "head": 20}, "use 2, with which up stays whole"),
    ],
)
def test_the_suggested_number_of_workers_cuts_the_plan(units: dict[str, int], advice: str) -> None:
    groups = [ModuleSlices("columns and rows", (SlicedModule(path, "column"),), (), number, ()) for path, number in units.items()]
    with pytest.raises(SplitError, match=f"can be cut into 7 parts; {advice}$"):
        check_tensor(TensorOptions(size=7), ModelSummary("mine", (), tuple(groups)), RunSpec())


def test_a_trial_without_a_loss_is_noticed() -> None:
    trial = Trial(prepared(nn.Linear(4, 4)), Call((torch.randn(2, 4, dtype=torch.float64),)))
    with without_random_draws(), pytest.raises(AssertionError, match="proves nothing"):
        _ = trial.reference


class TestMutations:
    """Verification catches what is wrong with a plan that it has accepted."""

    @pytest.fixture
    def accepted(self) -> tuple[Trial, TensorPlan]:
        torch.manual_seed(1)
        whole = subject(Decoder("normed", layers=1), TOKENS)
        plan = find_plan(whole)
        trial = Trial(prepared(whole.root), whole.call(2))
        assert trial.difference(plan.groups, 2) is None
        return trial, plan

    def test_a_missing_all_reduce(self, accepted: tuple[Trial, TensorPlan], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(simulated.SimulatedMesh, "all_reduced", lambda mesh, x: x.clone())
        assert accepted[0].difference(accepted[1].groups, 2) is not None

    def test_an_average_in_the_place_of_a_sum(self, accepted: tuple[Trial, TensorPlan], monkeypatch: pytest.MonkeyPatch) -> None:
        total = simulated.SimulatedMesh.all_reduced
        monkeypatch.setattr(simulated.SimulatedMesh, "all_reduced", lambda mesh, x: total(mesh, x) / mesh.size())
        assert accepted[0].difference(accepted[1].groups, 2) is not None

    def test_a_forgotten_sum_of_gradients(self, accepted: tuple[Trial, TensorPlan]) -> None:
        trial, plan = accepted
        mutated = [replace(group, summed=()) for group in plan.groups]
        difference = trial.difference(mutated, 2)
        assert difference is not None
        assert "norm.weight" in difference.tensor

    def test_a_wrong_dim(self, accepted: tuple[Trial, TensorPlan]) -> None:
        trial, plan = accepted
        group = plan.groups[1]
        styles: dict[str, Style] = {"column": "row", "row": "column"}
        wrong = replace(group, modules=tuple(replace(part, style=styles[part.style]) for part in group.modules))
        with pytest.raises(RuntimeError, match=r"shape|dim"):
            trial.difference([wrong], 2)

    @pytest.fixture
    def convolutional(self) -> tuple[Trial, TensorPlan]:
        torch.manual_seed(1)
        whole = subject(Images("squeeze and excitation", blocks=1), IMAGES)
        plan = find_plan(whole)
        trial = Trial(prepared(whole.root), whole.call(2))
        assert trial.difference(plan.groups, 2) is None
        return trial, plan

    @pytest.mark.parametrize("wrong", ["order of sections", "missing sum"])
    def test_wrong_attention_of_torch(self, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(1)
        whole = subject(Translator(), TOKENS)
        group = next(group for group in find_plan(whole).groups if group.kind == "attention")
        trial = Trial(prepared(whole.root), whole.call(2))
        assert trial.difference([group], 2) is None
        if wrong == "missing sum":
            monkeypatch.setattr(attention_modules, "reduce_parts", lambda x, mesh: x)
        else:
            monkeypatch.setattr(sliced_modules, "sections_of", lambda module, part, name: part.sections)
        assert trial.difference([group], 2) is not None

    def test_a_batch_norm_that_stays_whole(self, convolutional: tuple[Trial, TensorPlan]) -> None:
        trial, plan = convolutional
        parts = tuple(part for part in plan.groups[0].modules if not part.path.endswith("norm1"))
        with pytest.raises(RuntimeError, match="running_mean should contain"):
            trial.difference([replace(plan.groups[0], modules=parts)], 2)

    def test_statistics_of_another_worker(self, convolutional: tuple[Trial, TensorPlan], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sliced_modules, "part_of", lambda whole, dim, sections, size, rank: whole.chunk(size)[0])
        for name in ("norm1", "norm2"):
            convolutional[0].module.get_submodule(f"blocks.0.{name}").running_mean.normal_()
        difference = Trial(convolutional[0].module, convolutional[0].call).difference(convolutional[1].groups, 2)
        assert difference is not None
        assert "running_mean" in difference.tensor or "output" in difference.tensor

    def test_a_missing_sum_of_a_squeeze(self, convolutional: tuple[Trial, TensorPlan], monkeypatch: pytest.MonkeyPatch) -> None:
        total = simulated.SimulatedMesh.all_reduced
        monkeypatch.setattr(
            simulated.SimulatedMesh, "all_reduced", lambda mesh, x: x.clone() if x.numel() == 2 * 4 else total(mesh, x)
        )
        assert convolutional[0].difference(convolutional[1].groups, 2) is not None

    def test_sections_in_another_order(self) -> None:
        torch.manual_seed(1)
        whole = subject(Images("halving", blocks=1), IMAGES)
        group = next(group for group in find_plan(whole).groups if len(group.modules) == 3)
        parts = tuple(replace(part, sections=tuple(reversed(part.sections))) for part in group.modules)
        trial = Trial(prepared(whole.root), whole.call(2))
        assert trial.difference([group], 2) is None
        assert trial.difference([replace(group, modules=parts)], 2) is not None

    def test_an_attribute_that_is_not_divided(self, accepted: tuple[Trial, TensorPlan]) -> None:
        trial, plan = accepted
        assert trial.has_shapes([replace(plan.groups[0], attributes=())], 2)

    def test_one_of_two_tied_tables_alone(self, accepted: tuple[Trial, TensorPlan]) -> None:
        trial, plan = accepted
        table = next(group for group in plan.groups if group.kind == "embedding")
        assert trial.difference([table], 2) is not None
