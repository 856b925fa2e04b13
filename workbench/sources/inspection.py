"""What was found in a user's code: asked of a process of its own once, and kept with the code."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from workbench.errors import SpecError
from workbench.sources.code import INSPECTION, Code, check_recorded, nearby
from workbench.sources.process import TIME_LIMIT_S, ask
from workbench.sources.source import Source

F = TypeVar("F")


@dataclass(frozen=True)
class Refusal:
    """An object that cannot be used: the parts of a ``SpecError``."""

    field: str
    message: str


@dataclass(frozen=True)
class Inspection(Generic[F]):
    """The answer to a question."""

    code: Code
    found: F | None
    """None if the object was refused."""

    refusal: Refusal | None = None
    output: str = ""
    """What the user's code printed."""


class Inspector(Generic[F]):
    """Asks questions of one kind. An equal question about equal code has an equal answer.

    Args:
        module: Name of the module whose process answers.
        found: Type of what is found.
    """

    def __init__(self, module: str, found: type[F]) -> None:
        self.module, self.found = module, found
        self._known: dict[str, Inspection[F]] = {}

    @functools.cached_property
    def answers(self) -> TypeAdapter[Inspection[F]]:
        """The type of the answers."""
        return TypeAdapter(Inspection[self.found])  # type: ignore[name-defined]  # at run time

    def known(self, source: Source, question: dict[str, Any]) -> Inspection[F] | None:
        """Returns the answer if the question was asked before in this process, and the code is the same."""
        found = self._known.get(_text(source.name, question))
        return found if found and found.refusal is None and found.code.is_current else None

    def inspect(self, source: Source, folder: str, question: dict[str, Any], limit_s: float = TIME_LIMIT_S) -> Inspection[F]:
        """Returns what was found in a source. Asks a process, unless this was found before and the code is the same.

        Args:
            folder: Folder with recorded code; empty without one.
            question: Plain values, without the name of the source.

        Raises:
            SpecError: the object cannot be built or used, or takes longer; the message has the user's own file and line.
        """
        source.check_file()
        check_recorded(source, folder)
        key = _text(source.name, question)
        found = self._known.get(key) or self._recorded(source, folder, question)
        if found is None or not found.code.is_current:
            request = {"folder": str(source.folder) if source.path else "", "name": source.name, **question}
            answer = ask(source, self.module, json.dumps(request).encode(), limit_s)
            if answer.contents is None:
                found = Inspection(nearby(source), None, Refusal(source.field, answer.problem))
            else:
                found = dataclasses.replace(self.answers.validate_json(answer.contents), output=answer.output)
        if found.code.files or found.code.distribution:  # else nothing would show that the code was changed
            self._known[key] = found
        if found.refusal:
            raise SpecError(found.refusal.field, found.refusal.message)
        return found

    def recorded_form(self, source: Source, question: dict[str, Any], found: Inspection[F], folder: Path) -> bytes:
        """Returns the contents of the file from which ``inspect`` answers for code that is recorded in a folder, so that workers
        and readers of a run need not inspect it again."""
        found = dataclasses.replace(found, code=found.code.moved(folder) if source.path else found.code, output="")
        table = {"request": _text(source.label, question), "inspection": self.answers.dump_python(found, mode="json")}
        return json.dumps(table).encode()

    def _recorded(self, source: Source, folder: str, question: dict[str, Any]) -> Inspection[F] | None:
        """Returns the recorded answer; None if there is none to this question, or another version wrote it."""
        if not folder:
            return None
        try:
            table = json.loads((Path(folder) / INSPECTION).read_bytes())
            if table["request"] != _text(source.label, question):
                return None
            found = self.answers.validate_python(table["inspection"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None
        return dataclasses.replace(found, code=found.code.moved(Path(folder))) if source.path else found


def _text(name: str, question: dict[str, Any]) -> str:
    return json.dumps({"name": name, **question}, sort_keys=True)
