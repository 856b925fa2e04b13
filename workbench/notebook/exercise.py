"""Exercises: a learner's answer is tested."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

A = TypeVar("A")


def check(answer: A, holds: Callable[[A], object], hint: str) -> None:
    """Says whether an answer is right; ``...`` is none yet.

    Args:
        holds: whether the answer is right, by what was measured.
        hint: said when it is not.

    Raises:
        AssertionError: it is not right, or not of the kind that is asked for.
        SpecError: it is a spec that cannot be.
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
