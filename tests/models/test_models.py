"""The models by themselves: published sizes, FLOPs, attention, generation, and the mixture of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workbench.errors import SpecError
from workbench.models.kv_cache import Decoder, generate
from workbench.models.moe_modules import Experts, MixtureOfExperts, Router, balance_loss
from workbench.models.transformer_modules import Attention, Embedding, FeedForward, Rotary, causal_attention
from workbench.plan import compatibility
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.registry import MODELS as FAMILY
from workbench.runtime.build import build_blocks
from workbench.spec import RunSpec
from workbench.spec.files import dumps, load, override

HIDDEN, TOKENS = 16, 12
MODELS = compatibility.models()
PRESETS = [(name, preset) for name in FAMILY.names() for preset in FAMILY.get(name).Options.presets]
DECODERS = [name for name in MODELS if MODELS[name]["model"]["name"] in ("transformer", "moe") and "dropping" not in name]
VITS = [name for name in MODELS if MODELS[name]["model"]["name"] == "vit"]


def planned(model: str) -> Plan:
    return plan(RunSpec(**MODELS[model], train={"global_batch_size": 2}))


def built(model: str) -> nn.Sequential:
    return build_blocks(planned(model), (b.name for b in planned(model).full_model.blocks), torch.float64).eval()


def inputs_of(model: str, batch: int = 2) -> Tensor:
    summary = planned(model).dataset.summary()
    if summary.kind == "tokens":
        return torch.randint(summary.num_classes, (batch, *summary.input_shape))
    return torch.randn(batch, *summary.input_shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_has_the_published_number_of_parameters(name: str, preset: str) -> None:
    summary = plan(RunSpec(model={"name": name, "preset": preset})).full_model

    assert summary.num_parameters == FAMILY.get(name).Options.presets[preset].num_parameters


@pytest.mark.parametrize(("preset", "giga_multiply_adds"), [("vit-b16", 17.56), ("vit-l16", 61.55)])
def test_a_vision_transformer_has_the_published_multiply_adds(preset: str, giga_multiply_adds: float) -> None:
    """As torchvision lists them for its ``vit_b_16`` and ``vit_l_16``."""
    blocks = plan(RunSpec(model={"name": "vit", "preset": preset})).full_model.blocks

    assert sum(b.forward_flops for b in blocks) / 2e9 == pytest.approx(giga_multiply_adds, abs=0.01)


def test_options_that_are_given_win_over_the_presets(tmp_path: Path) -> None:
    spec = RunSpec(model={"name": "transformer", "preset": "llama3-1b", "num_layers": 2, "num_kv_heads": None})
    (tmp_path / "spec.toml").write_text(dumps(spec))

    assert (spec.model.num_layers, spec.model.num_kv_heads, spec.model.hidden_dim) == (2, 8, 2048)  # type: ignore[attr-defined]
    assert load(tmp_path / "spec.toml") == spec
    assert spec.as_dict()["model"]["preset"] == "llama3-1b"
    assert spec.as_dict()["dataset"]["vocabulary_size"] == 128_256


def test_a_preset_from_the_command_line_replaces_the_files_options() -> None:
    file = RunSpec(model={"name": "transformer", "preset": "gpt2-124m"}).as_dict()
    sets = ["model.num_layers=3", "model.preset=gpt2-tiny"]

    table = override(file, model=None, dataset=None, splits=[], sets=sets)

    model: Any = RunSpec(**table).model
    assert (model.preset, model.num_layers, model.hidden_dim) == ("gpt2-tiny", 3, 64)


@pytest.mark.parametrize("model", ["transformer", "mlp"])
def test_an_unknown_preset_is_refused(model: str) -> None:
    with pytest.raises(SpecError, match="unknown preset 'gpt2-124'") as error:
        RunSpec(model={"name": model, "preset": "gpt2-124"})
    assert error.value.field == "model.preset"


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ({"name": "transformer", "num_heads": 4, "num_kv_heads": 3}, "model.num_kv_heads"),
        ({"name": "transformer", "hidden_dim": 12, "positions": "rotary"}, "model.positions"),
        ({"name": "moe", "num_experts": 2, "top_k": 3}, "model.top_k"),
        ({"name": "vit", "patch_size": 5}, "model.patch_size"),
        ({"name": "vit", "num_heads": 3}, "model.num_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(model: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as error:
        plan(RunSpec(model=model))
    assert error.value.field == field


def test_grouped_queries_are_full_attention_with_each_key_and_value_repeated() -> None:
    grouped = Attention(HIDDEN, 4, 2, causal_attention, bias=True, rotary=Rotary(100.0))
    full = Attention(HIDDEN, 4, 4, causal_attention, bias=True, rotary=Rotary(100.0))
    full.output = grouped.output
    for name, parameter in grouped.qkv.named_parameters():
        q, k, v = parameter.detach().unflatten(0, (2, 4, 4)).split([2, 1, 1], dim=1)  # (kv head, q q k v, head_dim, …)
        heads = torch.stack([q, k.expand_as(q), v.expand_as(q)], dim=2)  # (kv head, head of it, q k v, head_dim, …)
        setattr(full.qkv, name, nn.Parameter(heads.flatten(0, 3)))
    x = torch.randn(2, TOKENS, HIDDEN)

    torch.testing.assert_close(grouped(x), full(x))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_slice_of_qkv_and_output_is_attention_over_some_of_the_heads(num_workers: int) -> None:
    whole = Attention(HIDDEN, 4, 2, causal_attention, bias=False)
    x = torch.randn(2, TOKENS, HIDDEN)
    parts = []
    for index in range(num_workers):
        part = Attention(HIDDEN, 4, 2, causal_attention, bias=False)
        part.qkv.weight = nn.Parameter(whole.qkv.weight.chunk(num_workers, dim=0)[index])
        part.output.weight = nn.Parameter(whole.output.weight.chunk(num_workers, dim=1)[index])
        parts.append(part(x))

    torch.testing.assert_close(sum(parts), whole(x))


def test_a_gated_feed_forward_is_swiglu_of_interleaved_gates_and_values() -> None:
    feedforward, x = FeedForward(HIDDEN, 24, "gated", bias=False), torch.randn(TOKENS, HIDDEN)
    gate, value, down = feedforward.up.weight[0::2], feedforward.up.weight[1::2], feedforward.down.weight

    torch.testing.assert_close(feedforward(x), (torch.sigmoid(x @ gate.T) * (x @ gate.T) * (x @ value.T)) @ down.T)


def test_rotary_attention_depends_on_distances_alone() -> None:
    attention = Attention(HIDDEN, 2, 2, causal_attention, bias=True, rotary=Rotary(100.0)).double()
    x = torch.randn(2, TOKENS, HIDDEN, dtype=torch.float64)
    assert attention.rotary is not None
    at_the_start = attention(x)

    attention.rotary.positions = torch.arange(TOKENS) + 1000
    torch.testing.assert_close(attention(x), at_the_start)
    attention.rotary.positions = torch.arange(TOKENS) * 2
    assert (attention(x) - at_the_start).abs().max() > 1e-3


def test_a_part_of_the_sequence_is_computed_where_positions_and_attention_fn_say_so() -> None:
    embedding = Embedding(10, HIDDEN, TOKENS)
    attention = Attention(HIDDEN, 4, 2, causal_attention, bias=True, rotary=Rotary(100.0))
    tokens, half = torch.randint(10, (2, TOKENS)), TOKENS // 2
    whole = attention(embedding(tokens))
    earlier: list[Tensor] = []

    def keep(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        earlier.extend((k, v))
        return causal_attention(q, k, v)

    attention.attention_fn = keep
    first = attention(embedding(tokens[:, :half]))
    embedding.positions = attention.rotary.positions = torch.arange(half, TOKENS)
    attention.attention_fn = lambda q, k, v: causal_attention(q, torch.cat([earlier[0], k], 2), torch.cat([earlier[1], v], 2))
    second = attention(embedding(tokens[:, half:]))

    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize("model", DECODERS)
def test_no_output_depends_on_a_later_token(model: str) -> None:
    blocks, x, changed = built(model), inputs_of(model), 7
    other = x.clone()
    other[:, changed] = (x[:, changed] + 1) % 256

    difference = (blocks(x) - blocks(other)).abs().amax(dim=(0, 2))  # (sequence,)

    assert difference[:changed].max() == 0
    assert difference[changed:].min() > 0


@pytest.mark.parametrize("model", VITS)
def test_a_vision_transformer_looks_at_every_patch_from_every_position(model: str) -> None:
    *encoder, _ = built(model)
    for corner in (0, -1):
        x = inputs_of(model, batch=1)
        other = x.clone()
        other[..., corner, corner] += 1

        difference = nn.Sequential(*encoder)(x) - nn.Sequential(*encoder)(other)  # (1, sequence, hidden)

        assert difference.abs().amax(dim=(0, 2)).min() > 0


@pytest.mark.parametrize("model", [pytest.param(model, marks=[pytest.mark.slow] * (model != "moe")) for model in DECODERS])
def test_cached_generation_gives_the_tokens_of_the_whole_forward_pass(model: str) -> None:
    blocks, prompt, num_tokens = built(model), inputs_of(model)[:, :5], 11
    want = prompt
    for _ in range(num_tokens):
        want = torch.cat([want, blocks(want)[:, -1:].argmax(dim=-1)], dim=1)

    got = generate(Decoder(blocks, 15), prompt, num_tokens)

    assert torch.equal(got, want[:, 5:])
    assert len(set(got.flatten().tolist())) > 1
    torch.testing.assert_close(blocks(prompt), blocks(want)[:, :5])  # nothing is left in the blocks


@pytest.mark.parametrize("model", DECODERS)
def test_a_sequence_fed_in_parts_has_the_outputs_of_the_whole(model: str) -> None:
    blocks, x = built(model), inputs_of(model)

    decoder = Decoder(blocks, x.shape[1], last_only=False)
    parts = [decoder(part) for part in x.split([6, 1, 4, 5], dim=1)]

    torch.testing.assert_close(torch.cat(parts, dim=1), blocks(x))


def mixture(num_experts: int, top_k: int, capacity_factor: float | None = None, loss_weight: float = 0.0) -> MixtureOfExperts:
    experts = Experts(num_experts, HIDDEN, 32, "gated", bias=True)
    return MixtureOfExperts(Router(HIDDEN, num_experts, top_k, loss_weight), experts, capacity_factor).double()


def expert(experts: Experts, index: int) -> FeedForward:
    """One of the experts as a plain feed-forward part."""
    plain = FeedForward(HIDDEN, 32, "gated", bias=True).double()
    plain.load_state_dict({name: stacked[index] for name, stacked in experts.state_dict().items()})
    return plain


def test_one_expert_is_a_plain_feed_forward() -> None:
    moe = mixture(1, 1)
    x = torch.randn(2, TOKENS, HIDDEN, dtype=torch.float64)

    torch.testing.assert_close(moe(x), expert(moe.experts, 0)(x))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_a_token_is_the_weighted_sum_of_its_likeliest_experts(top_k: int) -> None:
    moe, x = mixture(4, top_k), torch.randn(TOKENS, HIDDEN, dtype=torch.float64)
    probabilities = (x @ moe.router.weight.T).softmax(dim=-1)
    for token, outputs in enumerate(moe(x)):
        chosen = probabilities[token].argsort(descending=True)[:top_k]
        total = probabilities[token][chosen].sum() if top_k > 1 else 1.0
        want = sum(probabilities[token][e] / total * expert(moe.experts, int(e))(x[token]) for e in chosen)
        torch.testing.assert_close(outputs, want)


def test_tokens_beyond_an_experts_capacity_are_dropped_last_ones_first_and_counted() -> None:
    moe, x = mixture(2, 1, capacity_factor=0.75), torch.randn(2, TOKENS, HIDDEN, dtype=torch.float64)
    with torch.no_grad():
        moe.router.weight.copy_(torch.stack([torch.ones(HIDDEN), -torch.ones(HIDDEN)]))
        x[:, :, 0] += 100.0  # every token takes expert 0, which has room for ceil(0.75 × 24 / 2) = 9
    outputs = moe(x).flatten(0, 1)

    assert (outputs[:9] != 0).all()
    assert (outputs[9:] == 0).all(), "nothing is added to the residual"
    assert moe.dropped == 2 * TOKENS - 9
    moe(x)
    assert moe.dropped == 2 * (2 * TOKENS - 9)
    moe.capacity_factor, moe.dropped = None, 0
    moe(x)
    assert moe.dropped == 0


def test_parts_of_the_experts_elsewhere_are_reached_through_dispatch() -> None:
    moe, x = mixture(4, 2), torch.randn(2, TOKENS, HIDDEN, dtype=torch.float64)
    want = moe(x)
    halves = [mixture(4, 2).experts for _ in range(2)]
    for index, half in enumerate(halves):
        for name, stacked in moe.experts.named_parameters():
            layer, attribute = name.split(".")
            setattr(half.get_submodule(layer), attribute, nn.Parameter(stacked.detach().chunk(2)[index]))

    def elsewhere(experts: Experts, tokens: Tensor, counts: list[int]) -> Tensor:
        parts = tokens.split([sum(counts[:2]), sum(counts[2:])])
        return torch.cat([half(part, c) for half, part, c in zip(halves, parts, (counts[:2], counts[2:]), strict=True)])

    moe.dispatch = elsewhere
    torch.testing.assert_close(moe(x), want)


def test_the_balance_loss_is_one_when_even_and_the_number_of_experts_when_all_go_to_one() -> None:
    even = torch.full((8, 4), 0.25, dtype=torch.float64)
    to_one = torch.eye(4, dtype=torch.float64)[torch.zeros(8, dtype=torch.int64)]

    assert balance_loss(even, torch.arange(8)[:, None] % 4) == pytest.approx(1)
    assert balance_loss(to_one, torch.zeros(8, 1, dtype=torch.int64)) == pytest.approx(4)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_router_loss_adds_its_gradient_whatever_the_losss_scale(scale: float) -> None:
    x = torch.randn(2, TOKENS, HIDDEN, dtype=torch.float64)
    moe = mixture(4, 2, loss_weight=0.5)
    probabilities = (x.flatten(0, 1) @ moe.router.weight.T).softmax(dim=-1)
    loss = 0.5 * balance_loss(probabilities, probabilities.topk(2).indices)
    (of_the_loss,) = torch.autograd.grad(loss, moe.router.weight)

    (with_loss,) = torch.autograd.grad(scale * moe(x).square().sum(), moe.router.weight)
    moe.router.loss_weight = 0.0
    (without,) = torch.autograd.grad(scale * moe(x).square().sum(), moe.router.weight)

    torch.testing.assert_close(with_loss - without, of_the_loss)


def test_presets_are_listed_with_their_sources() -> None:
    from click.testing import CliRunner

    from workbench.cli.main import cli

    listing = CliRunner().invoke(cli, ["models"]).output

    assert "preset gpt2-124m: 124,439,808 parameters  (Radford et al. 2019" in listing
    for _, preset in PRESETS:
        assert f"preset {preset}: " in listing
