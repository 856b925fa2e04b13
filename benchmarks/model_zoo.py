"""Models that nobody here wrote, under every strategy: what ``docs/model_zoo.md`` shows.

``python benchmarks/model_zoo.py RESULTS [NAME …]`` runs the models (all, or those named), each in processes of its own with a
time limit, and writes a file per model to the directory RESULTS; what has its result there is not run again. Then it writes the
page from the files. ``--find N`` first takes N further architectures in alphabetical order from Transformers' list.

Every model runs on one worker, then under each strategy: a step to warm up, two timed ones and one that records memory, of eight
samples; before, parity compares the split with one worker in fp64.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from dataclasses import dataclass, field
from importlib.util import find_spec
from math import prod
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from statistics import median
from typing import Any

from zoo_page import versions, write_page
from zoo_plans import model_types, shipped_plan
from zoo_worker import further, measured, refusals

from workbench.testing.workers import PRELOADED, run_in_workers

_PIPELINE = {"size": 2, "num_microbatches": 2}
STRATEGIES: dict[str, dict[str, Any]] = {
    "data=2": {"data": 2},
    "fsdp=2": {"fsdp": 2},
    "layer=2": {"layer": 2},
    "pipeline=2": {"pipeline": _PIPELINE},
    "tensor=2": {"tensor": 2},
    "data=2, pipeline=2": {"data": 2, "pipeline": _PIPELINE},
    "data=2, tensor=2": {"data": 2, "tensor": 2},
}
FOUR: dict[str, dict[str, Any]] = {"tensor=4": {"tensor": 4}, "tensor=2, pipeline=2": {"tensor": 2, "pipeline": _PIPELINE}}
"""More strategies, of the few models whose sizes are for them."""
_TRANSFORMERS = ("transformers", "transformers.modeling_utils", "transformers.models.auto.modeling_auto")
# Transformers would import torchvision before its operators are declared.
ALSO_PRELOADED = ("zoo_worker", *(() if find_spec("torchvision") else _TRANSFORMERS))
TOKENS = {"name": "synthetic", "kind": "tokens", "sequence_length": 8, "vocabulary_size": 32, "num_samples": 64}
IMAGES = {"name": "synthetic", "kind": "images", "height": 32, "width": 32, "num_samples": 64}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
_SPEECH = {"num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 64, **_SPECIAL}
FEATURES = {"name": "synthetic", "kind": "features", "num_features": 32, "num_samples": 64}


@dataclass(frozen=True)
class Entry:
    """A model of the zoo."""

    family: str
    name: str
    """``model.name`` of the spec."""

    dataset: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    also: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Strategies besides those of all models."""


def entries(results: Path) -> dict[str, Entry]:
    """Returns all models by their names in the table."""
    modules = str(Path(__file__).parent / "zoo_modules.py")
    data = {"tokens": TOKENS, "images": IMAGES, "features": FEATURES}
    tutorial = {
        "tokens": ("LSTM", "Seq2SeqGRU", "Transformer", "TiedWeights"),
        "images": ("UNet", "FrozenBackbone"),
        "features": ("DLRM", "DictOutput", "DataDependent", "TwoDtypes"),
    }
    found = {
        name: Entry("Modules as in tutorials", f"{modules}:{name}", data[kind])
        for kind, names in tutorial.items()
        for name in names
    }
    named: dict[str, dict[str, Any]] = {
        "gpt2": {},
        "llama": {},
        "qwen3": {},
        "gemma": {"pad_token_id": 0},
        "phi": {},
        "opt": {},
        "bert": {"architectures": ["BertForMaskedLM"]},
        "roberta": {"architectures": ["RobertaForMaskedLM"], "pad_token_id": 1},
        "mixtral": {},
        "mamba": {},
    }
    for name, options in named.items():
        also = FOUR if name in ("gpt2", "opt", "bert") else {}
        found[name] = Entry("Transformers", f"hf:{name}", TOKENS, options, also)
    found["vit"] = Entry("Transformers", "hf:vit", IMAGES)
    several: dict[str, tuple[str, dict[str, Any]]] = {
        "t5": ("sequences", {"num_decoder_layers": 2, "decoder_start_token_id": 0}),
        "bart": ("sequences", {"architectures": ["BartForConditionalGeneration"]}),
        "whisper": ("speech", {"architectures": ["WhisperForConditionalGeneration"], **_SPEECH}),
    }
    batches = Path(__file__).parent / "zoo_batches.py"
    for name, (batch, options) in several.items():
        found[name] = Entry("Transformers", f"hf:{name}", {"name": f"{batches}:{batch}"}, options)
    found["clip"] = Entry("Transformers", f"{modules}:CLIP", {"name": f"{batches}:captions"})
    transformer = {"num_layers": 2, "num_heads": 4, "hidden_dim": 16, "mlp_dim": 32}
    vision: dict[str, dict[str, Any]] = {
        "resnet18": {},
        "VisionTransformer": {"image_size": 32, "patch_size": 8, **transformer},
        "ConvNeXt": {},
        "mobilenet_v3_small": {},
        "lraspp_mobilenet_v3_large": {"weights_backbone": None},
    }
    for name, options in vision.items():
        chosen = {"name": name, "num_classes": 10, **options}
        found[f"torchvision {name}"] = Entry("torchvision and timm", f"{modules}:torchvision_model", IMAGES, chosen)
    tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    for name, options in {"vit_tiny_patch16_224": tiny, "efficientnet_lite0": {}, "resnet10t": {}}.items():
        found[f"timm {name}"] = Entry("torchvision and timm", f"{modules}:timm_model", IMAGES, {"name": name, **options})
    further = results / "further.json"
    for name, model in json.loads(further.read_text()).items() if further.exists() else ():
        found[name] = Entry("Transformers, in alphabetical order", f"hf:{name}", data[model["data"]], model["options"])
    return found


def spec_of(entry: Entry, split: dict[str, Any]) -> dict[str, Any]:
    """Returns the spec of a model under a strategy."""
    return {
        "model": {"name": entry.name, "options": entry.options},
        "dataset": entry.dataset,
        "split": split,
        "train": {"num_steps": 2, "num_warmup_steps": 1, "global_batch_size": 8},
        "measure": {"num_trace_steps": 0, "num_memory_steps": 1},
        "launch": {"device": "cpu"},
    }


def rows_of(
    entry: Entry, strategies: dict[str, dict[str, Any]] = STRATEGIES, known: dict[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Returns what a model does on one worker and under each strategy: ``verdict``, ``error``, ``cause``, ``ratio`` and
    ``memory``; or why it is ``refused``; or how it ``failed``. What is known already does not run again."""
    rows = dict(known or {})
    splits = {name: split for name, split in {"one worker": {}, **strategies}.items() if name not in rows}
    specs = {name: spec_of(entry, split) for name, split in splits.items()}
    try:
        ((refused, found),) = run_in_workers(1, refusals, specs)
    except AssertionError as error:
        return rows | {name: {"failed": _last_line(error)} for name in specs}
    accepted = dict[int, dict[str, dict[str, Any]]]()
    for name, spec in specs.items():
        if refused[name] is None:
            accepted.setdefault(prod(_size(s) for s in spec["split"].values()), {})[name] = spec
        else:
            rows[name] = {"refused": refused[name]}
    for num_workers, together in accepted.items():
        measured_rows = _measured_rows(num_workers, together, found)
        for name in together:
            rows[name] = measured_rows[name]
            if "seconds" in rows[name] and "seconds" in rows.get("one worker", {}):
                rows[name]["ratio"] = rows[name]["seconds"] / rows["one worker"]["seconds"]
    return {name: rows[name] for name in ("one worker", *strategies) if name in rows} | rows


def _measured_rows(num_workers: int, specs: dict[str, dict[str, Any]], found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Runs specs one after the other in the same workers; after a failure each in workers of its own."""
    try:
        results = run_in_workers(num_workers, measured, specs, found)
    except AssertionError as error:
        if len(specs) == 1:
            return {name: {"failed": _last_line(error)} for name in specs}
        alone = (_measured_rows(num_workers, {name: spec}, found) for name, spec in specs.items())
        return {name: row for rows in alone for name, row in rows.items()}
    rows = {}
    for index, name in enumerate(specs):
        workers = [result[index] for result in results]
        report = workers[0][0]
        rows[name] = {
            "verdict": report["verdict"],
            "error": report["max_error"],
            "tensor": report["tensor"],
            "cause": report["cause"],
            "seconds": median(max(steps) for steps in zip(*(durations for _, durations, _ in workers), strict=True)),
            "memory": max(peak for _, _, peak in workers),
        }
    return rows


def _size(options: int | dict[str, Any]) -> int:
    return options if isinstance(options, int) else int(options["size"])


def _last_line(error: AssertionError) -> str:
    return str(error).strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--find", type=int, default=0)
    parser.add_argument("--plans", action="store_true", help="also compare the tensor plans that Transformers ships")
    parser.add_argument("--again", action="store_true", help="also run what has its result")
    chosen = parser.parse_args()
    results = chosen.results
    results.mkdir(exist_ok=True)
    multiprocessing.get_context("forkserver").set_forkserver_preload([*PRELOADED, *ALSO_PRELOADED])
    ensure_running()
    if chosen.find and not (results / "further.json").exists():
        ((found, left_out),) = run_in_workers(1, further, chosen.find, set(entries(results)))
        (results / "further.json").write_text(json.dumps(found))
        (results / "left_out.json").write_text(json.dumps(left_out))
    models = entries(results)
    for name in chosen.names or models:
        record = results / f"{name.replace(' ', '-')}.json"
        known = json.loads(record.read_text())["rows"] if record.exists() and not chosen.again else {}
        strategies = STRATEGIES | models[name].also
        if strategies.keys() - known.keys():
            rows = rows_of(models[name], strategies, known)
            record.write_text(json.dumps({"family": models[name].family, "versions": versions(), "rows": rows}, indent=1))
            print(name, {key: row.get("verdict") or next(iter(row)) for key, row in rows.items()}, flush=True)
    if chosen.plans:
        _compare_plans(results / "plans.json")
    write_page(results, list(models), list(STRATEGIES), list(FOUR))


def _compare_plans(record: Path) -> None:
    """Writes the comparison of each shipped tensor plan, resuming where it ended."""
    plans = json.loads(record.read_text()) if record.exists() else {}
    (types,) = run_in_workers(1, model_types)
    for name in types:
        if name not in plans:
            (plans[name],) = run_in_workers(1, shipped_plan, name)
            record.write_text(json.dumps(plans, indent=1))
            print(name, plans[name], flush=True)


if __name__ == "__main__":
    main()
