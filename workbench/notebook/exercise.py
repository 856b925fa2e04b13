"""Exercises: checks of a learner's answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

A = TypeVar("A")


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
