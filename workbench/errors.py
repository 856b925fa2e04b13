"""Errors shown to users. Each message states what is wrong, where, what was given and what is allowed."""

from __future__ import annotations

from typing import ClassVar


class WorkbenchError(Exception):
    """Base class of all errors shown to users. The command line prints the message as one sentence."""

    exit_code: ClassVar[int] = 1


class SpecError(WorkbenchError):
    """The spec is invalid. Raised before any process is started."""

    exit_code = 2

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        """Dotted path of the spec's key, as in the file."""
        self.message = message


class SplitError(SpecError):
    """The split is incompatible with the model, batch size or hardware. The message includes the numbers."""


class UsageError(WorkbenchError):
    """The request is invalid, such as an unknown run id."""

    exit_code = 2


class PluginError(UsageError):
    """The class does not satisfy the contract of the plugin kind that it is registered as."""


class PluginWarning(UserWarning):
    """A plugin was skipped. The message gives the reason."""


class DamagedRunError(UsageError):
    """The run directory cannot be read."""


class RunFailedError(WorkbenchError):
    """The run failed, was cancelled or was lost."""


class AssertionFailedError(WorkbenchError):
    """An ``--assert`` is false, parity failed or the loss is not finite."""

    exit_code = 3
