"""Models from configs of Transformers: what is built, recorded and refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import workbench as wb
from workbench.errors import SpecError
from workbench.models.user.positions_modules import CheckedPositions
from workbench.plan.resolve import plan
from workbench.sources.code import executed
from workbench.sources.config_source import model_source
from workbench.sources.source import built
from workbench.spec.files import load

transformers = pytest.importorskip("transformers", reason="requires the extra hf")

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 256,
    "use_cache": True,
    "torch_dtype": "bfloat16",
}
MIXTRAL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(tmp_path / "small-llama" / "config.json", LLAMA)


def write(path: Path, fields: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


def make(name: object, **options: Any) -> Any:
    return built(model_source(f"hf:{name}", "model.name"), options, "model.options")


def refusal(name: object, **options: Any) -> str:
    with pytest.raises(SpecError) as refused:
        make(name, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_config_builds_its_architecture_with_random_weights(config: Path) -> None:
    torch.manual_seed(0)
    model = make(config)
    assert type(model) is transformers.LlamaForCausalLM
    assert (model.config.use_cache, model.dtype, len(model.model.layers)) == (False, torch.float32, 2)
    torch.manual_seed(0)
    for one, other in zip(model.parameters(), make(config.parent).parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(make(config, num_hidden_layers=3).model.layers) == 3


@pytest.mark.parametrize(
    ("model_type", "options", "kind"),
    [
        ("gpt2", {"hidden_size": 16, "n_layer": 1, "n_head": 2}, "GPT2LMHeadModel"),
        (
            "vit",
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 10},
            "ViTForImageClassification",
        ),
        (
            "clip",
            {"text_config": {"num_hidden_layers": 1}, "vision_config": {"num_hidden_layers": 1}},
            "CLIPForImageClassification",
        ),
    ],
)
def test_a_model_type_has_a_default_config_and_class(model_type: str, options: dict[str, Any], kind: str) -> None:
    with torch.device("meta"):
        model = make(model_type, **options)
    assert type(model).__name__ == kind
    assert getattr(model.config, "hidden_size", 16) == 16, "also under another name than the config's own"
    assert getattr(model.config, "num_labels", 2) == options.get("num_labels", 2)


def test_the_fields_that_a_model_type_adds_are_arguments_with_the_values_of_the_file(config: Path) -> None:
    write(config, LLAMA)
    found = {a.name: (a.kind, a.default) for a in model_source(f"hf:{config}", "model.name").arguments()}
    assert found["hidden_size"] == ("integer", LLAMA["hidden_size"])
    assert found["rms_norm_eps"] == ("number", 1e-6)
    assert found["use_cache"] == ("flag", False), "as it is used"
    assert "output_attentions" not in found


def test_experts_compute_in_fp64() -> None:
    model = make("mixtral", **MIXTRAL, vocab_size=32, num_local_experts=4).double()
    model(torch.arange(12).reshape(2, 6)).logits.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("fields", "options", "words"),
    [
        ({}, {"hiden_size": 8}, r"model\.options\.hiden_size: .* has no field 'hiden_size'; did you mean 'hidden_size'\?"),
        ({}, {"hidden_size": "x"}, r"model\.options: .* no valid config of llama: .*expected int, got str"),
        ({}, {"hidden_size": 30}, r"hidden size \(30\) is not a multiple"),
        ({}, {"dtype": "float64"}, r"model\.options\.dtype: is set by train\.precision"),
        ({"auto_map": {"AutoModel": "code.Net"}}, {}, "requires code of its own .auto_map., which is never executed"),
        ({"quantization_config": {"bits": 4}}, {}, "is quantized"),
        ({"model_type": "llamaa"}, {}, "unknown model type: 'llamaa'; did you mean 'llama'"),
        ({"model_type": None}, {}, 'no config of Transformers: it has no "model_type"'),
        ({"architectures": ["LlamaForCausalLMs"]}, {}, "no model 'LlamaForCausalLMs'.*did you mean 'LlamaForCausalLM'"),
        ({"architectures": ["LlamaConfig"]}, {}, "no model 'LlamaConfig'"),
        (
            {
                "model_type": "detr",
                "architectures": ["DetrForObjectDetection"],
                "backbone": "resnet50",
                "use_timm_backbone": True,
            },
            {},
            "requires the timm library",
        ),
    ],
)
def test_what_is_refused(config: Path, fields: dict[str, Any], options: dict[str, Any], words: str) -> None:
    write(config, LLAMA | fields)
    with pytest.raises(SpecError, match=words):
        make(config, **options)
    assert refusal(config, **options)


def test_names_and_files_that_are_wrong(tmp_path: Path, config: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "config.json")
    config.write_text("{")
    assert "cannot be read as JSON" in refusal(config)
    with pytest.raises(SpecError, match=r"must be hf:PATH/config\.json, or hf:TYPE"):
        model_source("hf:two words", "model.name")
    with pytest.raises(SpecError, match="must be a path in"):
        model_source("hf:../config.json", "model.name", str(config.parent))


def test_without_the_package_the_sentence_says_what_to_install(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SpecError, match=r"pip install workbench\[hf\]"):
        make(config)


def test_a_download_is_refused(tmp_path: Path) -> None:
    net = "from transformers import AutoModel\n\ndef build():\n    return AutoModel.from_pretrained('nobody/nothing')\n"
    (tmp_path / "net.py").write_text(net)
    make("gpt2", n_layer=1, n_embd=8, n_head=1)  # from here on this process is offline
    with pytest.raises(SpecError, match=r"net\.py, line 4: it requires a download from the Hugging Face hub"):
        built(model_source("net.py:build", "model.name", str(tmp_path)), {}, "model.options")


def test_the_code_of_a_config_is_its_file_and_the_version(config: Path) -> None:
    source = model_source(f"hf:{config}", "model.name")
    code = executed(source)
    assert (source.label, list(code.files)) == ("hf:small-llama/config.json", ["small-llama/config.json"])
    assert (code.distribution, code.version, code.is_current) == ("transformers", transformers.__version__, True)
    write(config, LLAMA | {"rms_norm_eps": 1e-3})
    assert not code.is_current
    assert executed(source).sha256 != code.sha256
    default = executed(model_source("hf:llama", "model.name"))
    assert (default.distribution, default.files) == ("transformers", {})


def spec(name: str, split: dict[str, Any], **options: Any) -> wb.RunSpec:
    return wb.RunSpec(
        model={"name": name, "options": options},
        dataset={"name": "text", "sequence_length": 8},
        split=split,
        train={"num_steps": 2, "num_warmup_steps": 1, "global_batch_size": 8},
        measure={"num_trace_steps": 0, "num_memory_steps": 0},
        baseline={"mode": "none"},
    )


def test_a_run_of_a_config_repeats_from_its_copy(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "store"))
    monkeypatch.chdir(config.parent)
    run = wb.run(spec("hf:config.json", {"pipeline": 2}))
    assert (run.row()["model"], run.row()["parity_verdict"]) == ("hf:small-llama/config.json", "equal")
    copy = run.path / "code" / "small-llama" / "config.json"
    assert copy.read_bytes() == config.read_bytes()
    config.unlink()
    again = wb.run(load(run.directory.spec_path))
    assert again.row()["final_loss"] == run.row()["final_loss"]
    assert again.directory.code() == run.directory.code()
    copy.write_text(copy.read_text() + "\n")
    with pytest.raises(SpecError, match=r"recorded code of hf:small-llama/config\.json has changed"):
        plan(load(run.directory.spec_path))


def test_too_few_tokens_are_refused_before_a_run(config: Path) -> None:
    with pytest.raises(SpecError, match=r"model\.options\.vocab_size: must be at least 256"):
        plan(spec(f"hf:{config}", {"data": 2}, vocab_size=100))


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 256, "num_labels": 256}


@pytest.mark.parametrize(
    ("model_type", "options", "table", "most"),
    [
        ("gpt2", {"n_positions": 7}, "transformer.wpe", 7),
        ("opt", {"max_position_embeddings": 7, "word_embed_proj_dim": 8}, "model.decoder.embed_positions", 7),
        ("roberta", {"max_position_embeddings": 9}, "roberta.embeddings.position_embeddings", 7),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_sequences_beyond_the_learned_positions_are_refused(
    model_type: str, options: dict[str, Any], table: str, most: int, device: str
) -> None:
    with torch.device(device):
        model = make(model_type, **SMALL, **options)
        short, long = (torch.randint(3, 256, (2, length)) for length in (most, most + 1))
    if device == "cpu":
        with CheckedPositions("hf:small", model, most):
            model(short)
    words = rf"dataset\.name: provides sequences of {most + 1} tokens, but {table} of hf:small has {most} positions; use at most"
    with pytest.raises(SpecError, match=words), CheckedPositions("hf:small", model, most + 1):
        model(long)


def test_a_sequence_beyond_the_learned_positions_is_refused_before_a_run() -> None:
    with pytest.raises(SpecError, match=r"sequences of 8 tokens, but transformer\.wpe of hf:gpt2 has 7 positions; use at most 7"):
        plan(spec("hf:gpt2", {"data": 2}, **SMALL, n_positions=7))


def test_functional_dropout_is_off_in_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 drops attention weights inside a function, with masks that depend on the split."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "store"))
    run = wb.run(spec("hf:gpt2", {"data": 2}, n_embd=16, n_layer=1, n_head=2, vocab_size=256, attn_pdrop=0.3))
    assert run.row()["parity_verdict"] == "equal"
