"""Published sizes of the models, each with its source. Only the shapes: weights are newly initialized."""

from __future__ import annotations

from typing import Any

from workbench.spec.options import Preset


def _tokens(vocabulary: int, sequence: int) -> dict[str, Any]:
    return {"name": "synthetic", "kind": "tokens", "vocabulary_size": vocabulary, "sequence_length": sequence, "num_samples": 64}


def _images(size: int, channels: int, classes: int) -> dict[str, Any]:
    return {
        "name": "synthetic",
        "kind": "images",
        "channels": channels,
        "height": size,
        "width": size,
        "num_classes": classes,
        "num_samples": 64,
    }


def _gpt2(num_layers: int, hidden_dim: int, num_heads: int) -> dict[str, Any]:
    return {
        "num_layers": num_layers,
        "hidden_dim": hidden_dim,
        "num_heads": num_heads,
        "feedforward_dim": 4 * hidden_dim,
        "tied_head": True,
    }


def _llama(num_layers: int, hidden_dim: int, num_heads: int, num_kv_heads: int, feedforward_dim: int) -> dict[str, Any]:
    return {
        "num_layers": num_layers,
        "hidden_dim": hidden_dim,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "feedforward_dim": feedforward_dim,
        "feedforward": "gated",
        "positions": "rotary",
        "norm": "rms",
        "bias": False,
    }


def _vit(patch_size: int, num_layers: int, hidden_dim: int, num_heads: int) -> dict[str, Any]:
    return {
        "patch_size": patch_size,
        "num_layers": num_layers,
        "hidden_dim": hidden_dim,
        "num_heads": num_heads,
        "feedforward_dim": 4 * hidden_dim,
    }


_RADFORD = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2, and openai/gpt-2"
_DOSOVITSKIY = "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, table 1; 224 × 224, 1,000 classes"
_GPT2_DATA, _LLAMA3_DATA, _IMAGENET = _tokens(50257, 1024), _tokens(128_256, 8192), _images(224, 3, 1000)
_LLAMA3 = {"rotary_base": 500_000.0}

TRANSFORMER = {
    "gpt2-tiny": Preset(_gpt2(2, 64, 4), _tokens(256, 64), 120_576, "GPT-2's layout, small enough for a test"),
    "gpt2-124m": Preset(_gpt2(12, 768, 12), _GPT2_DATA, 124_439_808, _RADFORD),
    "gpt2-355m": Preset(_gpt2(24, 1024, 16), _GPT2_DATA, 354_823_168, _RADFORD),
    "gpt2-774m": Preset(_gpt2(36, 1280, 20), _GPT2_DATA, 774_030_080, _RADFORD),
    "gpt2-1.5b": Preset(_gpt2(48, 1600, 25), _GPT2_DATA, 1_557_611_200, _RADFORD),
    "llama3-tiny": Preset(
        _llama(2, 64, 4, 2, 128) | _LLAMA3, _tokens(256, 64), 106_816, "Llama 3's layout, small enough for a test"
    ),
    "llama3-1b": Preset(
        _llama(16, 2048, 32, 8, 8192) | _LLAMA3 | {"tied_head": True},
        _LLAMA3_DATA,
        1_235_814_400,
        "Llama 3.2 1B, meta-llama/Llama-3.2-1B config.json (without its scaling of rotary angles beyond 8,192 positions)",
    ),
    "llama3-8b": Preset(
        _llama(32, 4096, 32, 8, 14_336) | _LLAMA3,
        _LLAMA3_DATA,
        8_030_261_248,
        "Llama 3 8B, Grattafiori et al. 2024, The Llama 3 Herd of Models, table 3, and meta-llama/Meta-Llama-3-8B config.json",
    ),
}

MOE = {
    "mixtral-tiny": Preset(
        _llama(2, 64, 4, 2, 128) | {"num_experts": 4, "top_k": 2},
        _tokens(256, 64),
        254_784,
        "Mixtral's layout, small enough for a test",
    ),
    "mixtral-8x7b": Preset(
        _llama(32, 4096, 32, 8, 14_336) | {"rotary_base": 1e6, "num_experts": 8, "top_k": 2},
        _tokens(32_000, 8192),
        46_702_792_704,
        "Jiang et al. 2024, Mixtral of Experts, table 1, and mistralai/Mixtral-8x7B-v0.1 config.json",
    ),
}

VIT = {
    "vit-tiny": Preset(_vit(2, 2, 64, 4), _images(8, 1, 10), 102_218, "The vision transformer's layout, small enough for a test"),
    "vit-b16": Preset(_vit(16, 12, 768, 12), _IMAGENET, 86_567_656, _DOSOVITSKIY),
    "vit-l16": Preset(_vit(16, 24, 1024, 16), _IMAGENET, 304_326_632, _DOSOVITSKIY),
}
