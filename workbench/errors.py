"""Every error that a user can see. Each says what is wrong, where, what was given and what is allowed."""

from __future__ import annotations

from typing import ClassVar


class WorkbenchError(Exception):
    """Base of all errors meant for the user; the command line prints it in one sentence."""

    exit_code: ClassVar[int] = 1


class SpecError(WorkbenchError):
    """A spec that cannot be run. Raised before anything starts."""

    exit_code = 2

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        """Dotted path of the spec's key, as in the file."""
        self.message = message


class SplitError(SpecError):
    """A split that the model, the batch or the machine cannot serve; the message carries the arithmetic."""


class UsageError(WorkbenchError):
    """A request that names something that does not exist or cannot be done, such as an unknown run."""

    exit_code = 2


class PluginError(UsageError):
    """A class that cannot be the plugin it is registered as; the message says what it lacks."""


class PluginWarning(UserWarning):
    """A plugin that was left out, and why."""


class DamagedRunError(UsageError):
    """A run directory that cannot be read."""


class RunFailedError(WorkbenchError):
    """A run ended as failed, cancelled or lost."""


class AssertionFailedError(WorkbenchError):
    """An ``--assert`` was false, parity failed, or the loss was not finite."""

    exit_code = 3
