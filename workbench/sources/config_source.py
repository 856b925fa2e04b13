"""A Transformers architecture as a source: ``hf:PATH/config.json``, or ``hf:TYPE`` for the default config of a model type."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.errors import SpecError
from workbench.messages import nearest_name
from workbench.sources.arguments import Argument, argument
from workbench.sources.live import callable_source
from workbench.sources.source import Source

PREFIX, PACKAGE = "hf:", "transformers"
_CONFIG = "config.json"
_HEADS = ("CAUSAL_LM", "IMAGE_CLASSIFICATION", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "SPEECH_SEQ_2_SEQ")
"""Kinds of models, in the order in which one is taken for a config that names no class."""
_CHANGED = {"use_cache": False}
"""Fields that are other than in the config: a cache is of no use in training, and would cross every cut."""
_MORE_NAMES = ("num_labels", "attn_implementation", "decoder_start_token_id")
"""Names that a config accepts besides its fields."""


@dataclass(frozen=True)
class ConfigSource(Source):
    """A config by its file or its model type; the callable builds its model with random weights, and the arguments override its
    fields. Nothing is downloaded, and no code that belongs to a config is executed."""

    @classmethod
    def parse(cls, text: str, field: str, folder: str = "") -> ConfigSource:
        origin = text.removeprefix(PREFIX)
        if not _is_path(origin):
            if not origin.replace("-", "_").replace(".", "_").isidentifier():
                raise SpecError(field, f"must be hf:PATH/{_CONFIG}, or hf:TYPE such as hf:llama, but got {text!r}")
            return cls(origin, "", field)
        path = Path(folder or ".", Path(origin).expanduser()).resolve()
        path = path if path.suffix == ".json" else path / _CONFIG
        if folder and not path.is_relative_to(Path(folder).resolve()):
            raise SpecError(field, f"must be a path in {folder}, but got {text!r}")
        return cls(str(path), "", field)

    @property
    def path(self) -> Path | None:
        return Path(self.origin) if _is_path(self.origin) else None

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.origin}"

    @property
    def label(self) -> str:
        """Name in messages and tables: ``hf:llama``, ``hf:my-llama/config.json``, ``hf:my_llama.json``."""
        return f"{PREFIX}{self.path.relative_to(self.folder).as_posix()}" if self.path else self.name

    @property
    def folder(self) -> Path:
        """The folder whose name says what the config is of, or that of a file with a name of its own."""
        if self.path is None:
            return Path.cwd()
        return self.path.parent.parent if self.path.name == _CONFIG else self.path.parent

    def check_file(self) -> None:
        if (path := self.path) is not None and not path.is_file():
            raise SpecError(self.field, f"there is no file {path}")

    def load(self) -> Callable[..., Any]:
        self.check_file()

        def build(**options: Any) -> Any:
            config = self._config(options, "model.options")
            # Experts one after the other: the grouped product that is the default refuses fp64, which parity runs in.
            return self._class(config)._from_config(config, dtype="float32", experts_implementation="eager")

        return build

    def arguments(self) -> tuple[Argument, ...]:
        """Returns the fields of the config that its model type adds to those of every config, with the values of its file."""
        kind, given = type(self._config({}, self.field)), self._given() | _CHANGED
        common = _transformers(self.field).PreTrainedConfig.__dataclass_fields__
        return tuple(
            argument(
                name,
                None if isinstance(each.type, str) else each.type,
                given.get(name, None if each.default is MISSING else each.default),
            )
            for name, each in kind.__dataclass_fields__.items()
            if name not in common and not name.startswith("_")
        )

    def check_options(self, target: Callable[..., Any], options: Mapping[str, Any], field: str) -> None:
        self._class(self._config(options, field))

    def _config(self, options: Mapping[str, Any], field: str) -> Any:
        """Returns the config with some fields overridden.

        Raises:
            SpecError: it is no config that this version knows, requires code, or has no such field or value.
        """
        given = self._given()
        kinds = _transformers(self.field).CONFIG_MAPPING
        model_type = given.get("model_type")
        if model_type not in kinds:
            raise SpecError(
                self.field,
                f"{self.label} is of an unknown model type: {model_type!r}{nearest_name(str(model_type), list(kinds))}",
            )
        kind = kinds[model_type]
        _check_names(kind, options, self.label, field)
        aliases = kind.attribute_map
        changed = {aliases.get(name, name): value for name, value in options.items()}
        if "use_cache" in _names(kind):
            changed = _CHANGED | changed
        try:
            return kind.from_dict(_merged(given, changed))
        except Exception as error:  # a config checks its values itself
            lines = str(error).splitlines() or [type(error).__name__]
            where = self.field if not options else field
            raise SpecError(where, f"{self.label} is no valid config of {model_type}: {lines[-1].strip()}") from error

    def _given(self) -> dict[str, Any]:
        """Returns the fields of the config before options."""
        if self.path is None:
            return {"model_type": self.origin}
        try:
            given = json.loads(self.path.read_bytes())
        except (OSError, ValueError) as error:
            raise SpecError(self.field, f"{self.path} cannot be read as JSON: {error}") from error
        if not isinstance(given, dict) or not isinstance(given.get("model_type"), str):
            raise SpecError(self.field, f'{self.path} is no config of Transformers: it has no "model_type"')
        if "auto_map" in given:
            raise SpecError(
                self.field,
                f"{self.label} requires code of its own (auto_map), which is never executed; name a callable that builds the"
                " model, as PATH.py:CALLABLE",
            )
        if given.get("quantization_config"):
            raise SpecError(self.field, f"{self.label} is quantized (quantization_config); remove this from a copy of the config")
        return given

    def _class(self, config: Any) -> Any:
        """Returns the class that the config names, else a causal language model, else the first other kind that there is."""
        package = _transformers(self.field)
        if config.architectures:
            name = str(config.architectures[0])
            found = getattr(package, name, None)
            if not (isinstance(found, type) and issubclass(found, package.PreTrainedModel)):
                known = [each for each in dir(package) if each.startswith(name[:1])]
                raise SpecError(
                    self.field,
                    f"Transformers {package.__version__} has no model {name!r}, which {self.label} names as its architecture"
                    f"{nearest_name(name, known)}".rstrip("."),
                )
            return found
        auto = import_module(f"{PACKAGE}.models.auto.modeling_auto")
        mappings = [getattr(auto, f"MODEL_FOR_{head}_MAPPING_NAMES") for head in _HEADS]
        names = [mapping.get(config.model_type) for mapping in (*mappings, auto.MODEL_MAPPING_NAMES)]
        if not any(names):
            raise SpecError(self.field, f"Transformers has no model for {self.label} alone; name its class in architectures")
        first = next(name for name in names if name)
        return getattr(package, first if isinstance(first, str) else first[0])


def check_classes(module: Any, data: Any) -> None:
    """Checks that a model of Transformers has an embedding for every token of the data: on the ``meta`` device a smaller one goes
    unnoticed.

    Raises:
        SpecError: it has fewer.
    """
    embed = module.get_input_embeddings() if data.kind == "tokens" and hasattr(module, "get_input_embeddings") else None
    count = getattr(embed, "num_embeddings", data.num_classes)
    if count < data.num_classes:
        raise SpecError(
            "model.options.vocab_size", f"must be at least {data.num_classes}, the tokens of the dataset, but is {count}"
        )


def _transformers(field: str) -> ModuleType:
    """Returns the package, which downloads nothing in this process.

    Raises:
        SpecError: it is not installed.
    """
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    try:
        return import_module(PACKAGE)
    except ModuleNotFoundError as error:
        if error.name != PACKAGE:
            raise
        raise SpecError(field, "requires Transformers, which is not installed: pip install workbench[hf]") from None


def _is_path(origin: str) -> bool:
    return "/" in origin or "\\" in origin or origin.endswith(".json")


def _names(kind: Any) -> set[str]:
    return {*kind.__dataclass_fields__, *kind.attribute_map, *kind.attribute_map.values(), *_MORE_NAMES}


def _check_names(kind: Any, options: Mapping[str, Any], label: str, field: str) -> None:
    """Checks that a config, and the configs in it, have these fields."""
    names = _names(kind)
    for name, value in options.items():
        if name not in names:
            raise SpecError(f"{field}.{name}", f"{label} has no field {name!r}{nearest_name(name, sorted(names))}".rstrip(". "))
        if name in ("dtype", "torch_dtype"):
            raise SpecError(f"{field}.{name}", "is set by train.precision")
        inner = kind.sub_configs.get(name)
        if isinstance(value, dict) and inner is not None and hasattr(inner, "__dataclass_fields__"):
            _check_names(inner, value, label, f"{field}.{name}")


def _merged(given: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given fields with the changed ones, also inside of fields that are configs themselves."""
    merged = dict(given)
    for name, value in changed.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def model_source(text: str, field: str, folder: str = "") -> Source:
    """Returns the source of a model that a text names.

    Raises:
        SpecError: the text has none of the forms.
    """
    return ConfigSource.parse(text, field, folder) if text.startswith(PREFIX) else callable_source(text, field, folder)
