"""Exercises: checks of a learner's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TypeVar

A = TypeVar("A")


@dataclass(frozen=True)
class Exercise:
    """An exercise of the course, with its solution."""

    answer: str
    """An expression over the names of the notebook."""

    why: str
    """Why it is right, in one sentence."""

    hint: str
    """What a wrong answer gets to read."""

    holds: Callable[..., object]
    """Returns whether an answer is right; its other arguments are what the notebook passes to ``check_exercise``."""


def exercises() -> dict[str, Exercise]:
    """Returns the exercises of the course by notebook and number, such as ``04.2``; their file is beside the notebooks."""
    return import_module("workbench.course.solutions").EXERCISES


def check_exercise(name: str, answer: object, **measured: object) -> None:
    """Checks the answer to an exercise of the course, and says why it is right or gives a hint.

    Args:
        name: notebook and number, such as ``04.2``.
        answer: ``...`` means that there is none yet.
        measured: specs, runs and tables of the notebook by which the answer is checked.

    Raises:
        AssertionError: the answer is wrong, or not of the requested kind.
        SpecError: the answer is an invalid spec.
    """
    exercise = exercises()[name]
    check(answer, lambda given: exercise.holds(given, **measured), exercise.hint)
    if answer is not ...:
        print(exercise.why)


def check(answer: A, holds: Callable[[A], object], hint: str) -> None:
    """Checks an answer; ``...`` means that there is none yet.

    Args:
        holds: returns whether the answer is right, by what was measured.
        hint: part of the message if it is not.

    Raises:
        AssertionError: the answer is wrong, or not of the requested kind.
        SpecError: the answer is an invalid spec.
    """
    if answer is ...:
        print("No answer yet: replace the dots in the cell above with your answer and run both cells.")
        return
    try:
        is_right = holds(answer)
    except (AttributeError, LookupError, TypeError) as error:
        raise AssertionError(f"{answer!r} is not a valid answer. {hint}") from error
    assert is_right, f"{answer!r} is not correct. {hint}"
    print("Correct.")
