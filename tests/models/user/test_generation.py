"""Users' modules generate the tokens of one worker in every split, with the bytes of the formulas; what cannot is refused."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import workbench as wb
from tests.helpers import cases
from tests.helpers.process import rows, workbench
from tests.models.user import zoo
from tests.models.user.test_stages import TOKENS, Given
from workbench.data.base import DatasetSummary
from workbench.errors import SpecError, SplitError
from workbench.models.user import UserModel, UserModelOptions, decoder_modules
from workbench.models.user.decoder_modules import CachedDecoder
from workbench.models.user.inspect_modules import inspected
from workbench.models.user.outputs_modules import Result
from workbench.models.user.stage_modules import WholeModule
from workbench.plan.resolve import plan
from workbench.registry import STRATEGIES
from workbench.sources.config_source import model_source
from workbench.sources.source import built

pytest.importorskip("transformers", reason="requires the extra hf")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 256}
GROUPED = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 24}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"name": "hf:gpt2", "options": SMALL},
    "llama": {"name": "hf:llama", "options": GROUPED},
    "gemma2": {"name": "hf:gemma2", "options": {**GROUPED, "head_dim": 4, "sliding_window": 4}},
    "opt": {"name": "hf:opt", "options": {**SMALL, "ffn_dim": 24, "word_embed_proj_dim": 16}},
    "mamba": {"name": "hf:mamba", "options": {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 256, "state_size": 4}},
    "mixtral": {"name": "hf:mixtral", "options": {**GROUPED, "num_local_experts": 4}},
    "without a cache": {"name": f"{Path(zoo.__file__)}:TiedTransformer", "options": {"tokens": 256, "length": 12}},
}
PIPELINE = {"size": 2, "num_microbatches": 2}
SPLITS: dict[str, dict[str, Any]] = {
    "data": {"data": 2},
    "fsdp": {"fsdp": 2},
    "layer": {"layer": 2},
    "pipeline": {"pipeline": PIPELINE},
    "tensor": {"tensor": 2},
    "data, pipeline": {"data": 2, "pipeline": PIPELINE},
    "fsdp, layer": {"fsdp": 2, "layer": 2},
    "layer, tensor": {"layer": 2, "tensor": 2},
}
DEFAULT, SLOW = {("gpt2", "pipeline"), ("without a cache", "layer")}, {("llama", "tensor"), ("without a cache", "data")}
"""The others are part of the cross product."""


def marks_of(model: str, split: str) -> list[pytest.MarkDecorator]:
    if (model, split) in DEFAULT:
        return []
    return [pytest.mark.slow if (model, split) in SLOW else pytest.mark.cross]


def spec_of(model: str, split: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {
        "model": MODELS[model],
        "dataset": {"name": "text", "sequence_length": 12},
        "split": split,
        "mode": "inference",
        "inference": {"prompt_length": 5, "num_new_tokens": 4},
        "train": {"num_steps": 2, "num_warmup_steps": 0, "global_batch_size": 8},
        **options,
    }


@pytest.mark.parametrize(
    ("model", "split"),
    [pytest.param(model, split, marks=marks_of(model, split)) for model in MODELS for split in SPLITS],
)
def test_a_split_generates_the_tokens_of_one_worker_with_the_bytes_of_its_formulas(model: str, split: str) -> None:
    cases.assert_split_as_by_formula(spec_of(model, SPLITS[split]))


class Between(nn.Module):
    """Embedding, two layers and a head, with something between the layers that a test selects; for tokens."""

    def __init__(self, between: str = "") -> None:
        super().__init__()
        self.between = between  # outside of any unit
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))
        self.head = nn.Linear(8, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.layers[0](self.embed(tokens))
        if self.between == "mask of tokens":
            h = h * (tokens > 9)[..., None]
        if self.between == "mean":
            h = h + h.mean(1, keepdim=True)
        h = self.layers[1](h)
        return self.head(h.sum(1) if self.between == "sum" else h)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ("", {"no_cache": "the module's forward takes no cache of Transformers", "scores_last": False}),
        (
            "mask of tokens",  # which stages after the mask do not read
            {
                "not_staged": tuple(
                    (block, f"cut after {path}, it computes other scores without the values of the tokens")
                    for block, path in (("embed", "embed"), ("layers/0", "layers.0"))
                )
            },
        ),
        ("mean", {"refusal": "the scores of a position depend on later tokens, which a generation does not have"}),
        ("sum", {"refusal": "returns outputs of shape (20,) for a sample of 6 tokens, not the scores of each position"}),
    ],
)
def test_how_a_module_generates_is_tried(between: str, expected: dict[str, Any]) -> None:
    model = Given(type("Selected", (Between,), {"__init__": lambda self: Between.__init__(self, between)}), TOKENS)
    model.generates = True
    torch.manual_seed(0)
    generation = inspected(model)[1].generation
    assert expected.items() <= asdict(generation).items()
    assert asdict(generation).keys() - expected.keys()


def test_a_cut_that_needs_no_tokens_generates() -> None:
    model = Given(type("Masked", (Between,), {"__init__": lambda self: Between.__init__(self, "mask of tokens")}), TOKENS)
    model.generates = True
    torch.manual_seed(0)
    summary, layer = inspected(model)[1], STRATEGIES.get("layer")

    def check(*partition: int) -> None:
        layer(layer.Options(size=2, partition=partition))._check_generation(summary)

    check(3, 1)
    with pytest.raises(SplitError, match=r"values of the tokens; cut it after layers/1 with split\.layer\.partition"):
        check(2, 2)


def test_only_tokens_are_generated() -> None:
    model = Given(zoo.UNet, DatasetSummary("images", (1, 8, 8), 10, 100))
    model.generates = True
    assert "requires a dataset of tokens" in inspected(model)[1].generation.refusal


def make(name: str) -> Any:
    options = MODELS[name]
    torch.manual_seed(0)
    return built(model_source(options["name"], "model.name"), options["options"], "model.options").eval()


@pytest.mark.parametrize("name", ["gemma2", "mamba"])
def test_a_cache_gives_the_scores_of_one_pass(name: str) -> None:
    """Also beyond the window of sliding attention, and of a state other than keys and values."""
    module, tokens = make(name).double(), torch.randint(256, (2, 12))
    decoder = CachedDecoder(WholeModule(OrderedDict(model=module), Result()).eval())
    parts = torch.cat([decoder(part) for part in tokens.split([5, *[1] * 7], dim=1)], dim=1)
    torch.testing.assert_close(parts, module(tokens).logits[:, 4:], rtol=1e-6, atol=1e-6)


def test_a_stage_that_miscounts_cached_positions_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_modules, "_advance", lambda layer, length: None)
    model = UserModel(UserModelOptions(**MODELS["llama"]), DatasetSummary("tokens", (8,), 256, 100, tokens_per_sample=8))
    model.generates = True
    torch.manual_seed(0)
    generation = inspected(model)[1].generation
    assert (generation.no_cache, generation.scores_last) == ("", True)
    assert "it computes other scores" in dict(generation.not_staged)[generation.not_staged[0][0]]


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        ("gpt2", {"inference": {"prompt_length": 10, "num_new_tokens": 4}}, "need 14 positions, but the model has 12"),
    ],
)
def test_what_cannot_generate_is_refused(model: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        plan(wb.RunSpec(**spec_of(model, {}, **changes)))


@pytest.mark.slow
def test_a_run_without_a_cache_says_so(tmp_path: Path) -> None:
    model = f"{Path(zoo.__file__)}:TiedTransformer"
    options = ("--set=model.options={tokens=256, length=12}", "--dataset=text", "--set=dataset.sequence_length=12")
    generation = ("--set=mode=inference", "--set=inference.prompt_length=5", "--set=inference.num_new_tokens=4")
    result = workbench(
        tmp_path, "run", "--model", model, *options, *generation, "--split=layer=2", "--json", "--assert", "parity_ok == true"
    )
    assert result.returncode == 0, result.stderr
    run = rows(result)[-1]
    assert 0 < run["time_to_first_token_s"] < run["step_time_s"]
    shown = workbench(tmp_path, "show", run["run_id"]).stdout
    assert "a pass over all positions, without a key/value cache: the module's forward takes no cache" in " ".join(shown.split())
