"""What ``model_zoo.py`` computes in processes of their own: whose packages do not import, or crash, harm no other model."""

from __future__ import annotations

import gc
import math
import signal
from collections.abc import Mapping
from typing import Any

import torch

from workbench.data.user.callable import INSPECTOR as OF_DATA
from workbench.errors import SpecError
from workbench.models.user.inspection import INSPECTOR
from workbench.plan.plan import Plan
from workbench.plan.resolve import plan
from workbench.runtime import dataset_process, inspection_process
from workbench.runtime.batches import Batches
from workbench.runtime.build import DTYPES, build_worker, make_mesh
from workbench.runtime.parity.check import check_parity
from workbench.runtime.step_loop import run_steps
from workbench.sources import inspection
from workbench.sources.config_source import ConfigSource
from workbench.sources.process import Answer
from workbench.spec import RunSpec
from workbench.testing.cases import CPU

_BUILD_S = 20
_ANSWERS = {module.__name__: module.answer for module in (inspection_process, dataset_process)}
_SIZES: dict[int, tuple[str, ...]] = {
    2: ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_experts_per_tok",
        "num_key_value_heads", "num_kv_heads"),
    4: ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads", "head_dim",
        "num_local_experts", "num_experts", "n_routed_experts", "state_size", "rotary_dim"),
    8: ("patch_size",),
    10: ("num_labels",),
    16: ("hidden_size", "d_model", "n_embd", "embedding_size", "word_embed_proj_dim", "dim", "emb_dim", "embed_dim",
         "moe_intermediate_size", "shared_expert_intermediate_size"),
    32: ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "vocab_size", "image_size"),
    64: ("max_position_embeddings", "n_positions"),
}  # fmt: skip
"""Size → the fields that have it in a config of the zoo, where the config has them."""


def small(model_type: str) -> dict[str, Any]:
    """Returns the sizes that the config of a model type has fields for, and a token for padding where its own is none of them."""
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    known = {*kind.__dataclass_fields__, *kind.attribute_map, "num_labels"}
    sizes = {kind.attribute_map.get(name, name): size for size, names in _SIZES.items() for name in names if name in known}
    padding = kind.__dataclass_fields__.get("pad_token_id")
    if padding is not None and isinstance(padding.default, int) and padding.default >= sizes.get("vocab_size", math.inf):
        sizes["pad_token_id"] = 0
    return sizes


def refusals(
    rank: int, recorder: Any, control: Any, specs: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Returns why each spec of a model is refused, None where it is accepted, and what was found in the model."""
    found: dict[str, str | None] = {}
    for name, spec in specs.items():
        try:
            _planned(spec)
            found[name] = None
        except SpecError as error:
            found[name] = str(error)
    return found, {**INSPECTOR._known, **OF_DATA._known}


def measured(
    rank: int, recorder: Any, control: Any, specs: Mapping[str, dict[str, Any]], found: dict[str, Any]
) -> list[tuple[dict[str, Any] | None, list[float], int]]:
    """Checks parity and takes the steps, of each spec. Returns the report on rank 0, the duration of each timed step in seconds,
    and the peak of this worker's memory in bytes.

    Args:
        found: What ``refusals`` found in the model.
    """
    INSPECTOR._known.update(found)
    OF_DATA._known.update(found)
    return [_measured(rank, recorder, control, _planned(spec)) for spec in specs.values()]


def _measured(rank: int, recorder: Any, control: Any, planned: Plan) -> tuple[dict[str, Any] | None, list[float], int]:
    mesh, dtype = make_mesh(planned, "cpu", recorder), DTYPES[planned.spec.train.precision]
    report = check_parity(planned, rank, mesh, recorder, CPU, control, planned.spec.measure.num_parity_steps)
    worker = build_worker(planned, rank, mesh, recorder, CPU, dtype)
    record = run_steps(planned, worker, Batches(planned, CPU, dtype), recorder, lambda **_: None)
    assert record.peak_memory is not None
    durations = [row["duration_s"] for row in record.steps if row["kind"] == "timed"]
    peak = record.peak_memory.figures()["peak_memory_bytes"]
    del worker, record
    gc.collect()
    return report and report.as_dict(), durations, peak


def further(
    rank: int, recorder: Any, control: Any, count: int, known: set[str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Returns the next model types in alphabetical order that build in the sizes of the zoo and compute two samples, with their
    kind of data and their ``options``; and those that do not, with the reason. They are at least ``count``, of which two thirds
    ship no tensor plan."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto as auto

    kinds = dict.fromkeys(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, "images")
    kinds |= dict.fromkeys([*auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, *auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES], "tokens")
    found, left_out, without = dict[str, dict[str, Any]](), dict[str, str](), 0
    for name in sorted(set(kinds) - known):
        if len(found) >= count and without >= 2 * count // 3:
            break
        try:
            has_plan = bool(CONFIG_MAPPING[name].base_model_tp_plan)
            found[name] = {"data": kinds[name], "options": options_of(name, kinds[name]), "has_plan": has_plan}
            without += not has_plan
        except Exception as error:  # noqa: BLE001 - whatever a model in sizes that its authors did not foresee raises
            left_out[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return found, left_out


def options_of(model_type: str, kind: str) -> dict[str, Any]:
    """Returns what a config needs besides ``small`` so that its model computes two samples: nothing, or as many heads of keys as
    of queries.

    Raises:
        Exception: what the model raises in the first case.
    """
    signal.signal(signal.SIGALRM, _out_of_time)
    samples = {"tokens": torch.randint(32, (2, 8)), "images": torch.randn(2, 3, 32, 32)}
    problem: Exception | None = None
    for options in ({}, {"num_key_value_heads": 4}):
        signal.alarm(_BUILD_S)
        try:
            model = ConfigSource.parse(f"hf:{model_type}", "model.name").load()(**small(model_type) | options)
            model.train()(samples[kind])
        except Exception as error:  # noqa: BLE001 - as above
            problem = problem or error
        else:
            return options
        finally:
            signal.alarm(0)
    assert problem is not None
    raise problem


def _planned(spec: dict[str, Any]) -> Plan:
    # This process is as good as another.
    inspection.ask = lambda source, module, request, limit_s: Answer(_ANSWERS[module](request), "", "")
    name = spec["model"]["name"]
    if name.startswith("hf:"):
        options = {**small(name.removeprefix("hf:")), **spec["model"]["options"]}
        spec = {**spec, "model": {"name": name, "options": options}}
    return plan(RunSpec(**spec))


def _out_of_time(*_: object) -> None:
    raise TimeoutError(f"not built within {_BUILD_S} s")
