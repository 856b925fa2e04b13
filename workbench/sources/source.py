"""Where a user's object comes from: a callable in a file, ``PATH.py:CALLABLE``, or in a package, ``package.module:CALLABLE``."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.errors import SpecError
from workbench.messages import nearest_name
from workbench.sources.arguments import Argument, arguments_of, check_arguments
from workbench.sources.failure import failure_text
from workbench.sources.places import is_installed

_CALLABLES = "PATH.py:CALLABLE or package.module:CALLABLE"
_FORMS = {"model.name": "PATH.py:CALLABLE, package.module:CALLABLE or hf:PATH/config.json"}


@dataclass(frozen=True)
class Source:
    """A callable by name."""

    origin: str
    """Absolute path of a file that ends in ``.py``, or the dotted name of a module."""

    attribute: str
    """Name of the callable in it, dotted for one inside a class."""

    field: str
    """Path of the spec's key that names it, for messages."""

    @classmethod
    def parse(cls, text: str, field: str, folder: str = "") -> Source:
        """Returns the source that a text names.

        Args:
            field: Path of the spec's key: ``model.name``.
            folder: Folder with the file, from which its path starts; by default the path starts from the current directory.

        Raises:
            SpecError: the text has neither form, or the file is not in the folder.
        """
        origin, _, attribute = text.rpartition(":")
        names_module = all(map(str.isidentifier, origin.split(".")))
        if not all(map(str.isidentifier, attribute.split("."))) or not (origin.endswith(".py") or names_module):
            raise SpecError(field, f"must be {_FORMS.get(field, _CALLABLES)}, but got {text!r}")
        if not origin.endswith(".py"):
            return cls(origin, attribute, field)
        path = Path(folder or ".", Path(origin).expanduser()).resolve()
        if folder and not path.is_relative_to(Path(folder).resolve()):
            raise SpecError(field, f"must be a path in {folder}, but got {text!r}")
        return cls(str(path), attribute, field)

    @property
    def name(self) -> str:
        """Name under which every process on this machine finds it."""
        return f"{self.origin}:{self.attribute}"

    @property
    def path(self) -> Path | None:
        """The file; None for a module of a package."""
        return Path(self.origin) if self.origin.endswith(".py") else None

    @property
    def label(self) -> str:
        """Name in messages and tables: ``my_model.py:build``, ``torchvision.models:resnet18``."""
        return f"{self._module_label}:{self.attribute}"

    @property
    def _module_label(self) -> str:
        return self.path.name if self.path else self.origin

    def check_file(self) -> None:
        """Checks that there is the file, without executing it.

        Raises:
            SpecError: there is none.
        """
        if (path := self.path) is None or path.is_file():
            return
        if path.is_dir():
            raise SpecError(self.field, f"{path} is a directory; name a file in it, {path.name}/FILE.py:{self.attribute}")
        others = [other.name for other in path.parent.glob("*.py")]
        raise SpecError(self.field, f"there is no file {path}{nearest_name(path.name, others)}".rstrip("."))

    def load(self) -> Callable[..., Any]:
        """Returns the callable; executes its file or imports its module, unless this process has.

        Raises:
            SpecError: there is no such file, module or callable, or executing the file failed; the message has the user's own
                file and line.
        """
        self.check_file()
        try:
            with self.imports():
                target: Any = self._from_file(self.path) if self.path else importlib.import_module(self.origin)
        except (Exception, SystemExit) as error:
            if isinstance(error, ModuleNotFoundError) and self.path is None and _is_part(error.name, self.origin):
                raise SpecError(self.field, self._unknown_module(str(error.name))) from None
            text = failure_text(error, f"importing {self._module_label}", self.folder, self.path)
            raise SpecError(self.field, text) from error
        for name in self.attribute.split("."):
            if not hasattr(target, name):
                callables = [key for key, value in vars(target).items() if callable(value) and not key.startswith("_")]
                raise SpecError(self.field, f"{self._module_label} has no {name!r}{nearest_name(name, callables)}".rstrip("."))
            target = getattr(target, name)
        if not callable(target):
            what = type(target).__name__
            raise SpecError(
                self.field, f"{self.label} is not callable, but of type {what}; name a function or class that returns the model"
            )
        return target

    def arguments(self) -> tuple[Argument, ...]:
        """Returns the keyword arguments of the callable, which it loads.

        Raises:
            SpecError: it cannot be loaded.
        """
        return arguments_of(self.load())

    def check_options(self, target: Callable[..., Any], options: Mapping[str, Any], field: str) -> None:
        """Checks that the callable takes these keyword arguments.

        Args:
            field: Path of the arguments in the spec: ``model.options``.

        Raises:
            SpecError: it does not.
        """
        check_arguments(target, options, self.label, field)

    @contextlib.contextmanager
    def imports(self) -> Iterator[None]:
        """Lets imports find the modules beside the file, as when Python runs the file itself. Modules of the same names that the
        file of another folder imported are imported anew."""
        if self.path is None:
            yield
            return
        folder, writes_bytecode = self.path.parent, sys.dont_write_bytecode
        _forget_others(folder)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True  # nothing is written beside the user's file
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.dont_write_bytecode = writes_bytecode
            with contextlib.suppress(ValueError):  # the user's code removed it
                sys.path.remove(str(folder))

    @property
    def folder(self) -> Path:
        """The folder whose files are the user's own."""
        if self.path:
            return self.path.parent
        spec = find_spec(self.origin.split(".")[0])
        return Path(spec.origin).parent if spec and spec.origin else Path.cwd()

    def _from_file(self, path: Path) -> ModuleType:
        """Returns the file as a module, under a name that no other file and no other contents have."""
        contents = path.read_bytes()
        name = f"{path}#{hashlib.sha256(contents).hexdigest()[:12]}"
        if name not in sys.modules:
            spec = spec_from_file_location(name, path)
            assert spec is not None
            sys.modules[name] = module_from_spec(spec)
            try:
                exec(compile(contents, path, "exec"), vars(sys.modules[name]))
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]

    def _unknown_module(self, missing: str) -> str:
        if "." in missing:
            return f"the module {self.origin} does not exist: there is no {missing}"
        return (
            f"the package {missing!r} is not installed, or not on the import path (PYTHONPATH); name a module of an installed"
            f" package, or a file as {missing}.py:{self.attribute}"
        )


def built(source: Source, options: Mapping[str, Any], field: str, *inputs: Any) -> Any:
    """Returns what the callable returns for these keyword arguments.

    Args:
        inputs: Arguments before them.
        field: Path of the arguments in the spec: ``model.options``.

    Raises:
        SpecError: the callable does not take the arguments, or raises an exception; the message has the user's own file and line.
    """
    target = source.load()
    try:
        source.check_options(functools.partial(target, *inputs) if inputs else target, options, field)
        with source.imports():
            return target(*inputs, **options)
    except SpecError:
        raise
    except (Exception, SystemExit) as error:
        text = failure_text(error, f"building {source.label}", source.folder, source.path)
        raise SpecError(source.field, text) from error


def _is_part(missing: str | None, module: str) -> bool:
    """Whether the missing module is the named one or a package around it, rather than what that imports."""
    return missing is not None and f"{module}.".startswith(f"{missing}.")


def _forget_others(folder: Path) -> None:
    """Removes from ``sys.modules`` the user's modules of other folders whose names this folder has too."""
    has: dict[str, bool] = {"__main__": False}
    for name, module in list(sys.modules.items()):
        top, file = name.split(".")[0], getattr(module, "__file__", None)
        if not file or name.startswith("/"):
            continue
        if top not in has:  # asked once a package: there are thousands of modules
            has[top] = (folder / f"{top}.py").is_file() or (folder / top).is_dir()
        if has[top] and not is_installed(Path(file)) and not Path(file).is_relative_to(folder):
            del sys.modules[name]
