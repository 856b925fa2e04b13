"""The entry point of the command line. The module of a command is imported when the command is used."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import click

from workbench.cli.output import printable
from workbench.errors import PluginWarning, WorkbenchError

_COMMANDS = {
    "run": ("workbench.cli.run", "Run a spec; without arguments, the demonstration."),
    "attach": ("workbench.cli.attach", "Show the progress and the result of a run that was started elsewhere."),
    "ls": ("workbench.cli.runs", "List the runs in the store."),
    "show": ("workbench.cli.show", "Show one run in detail."),
    "logs": ("workbench.cli.runs", "Show the output of the workers."),
    "compare": ("workbench.cli.runs", "Compare runs side by side."),
    "measure-again": ("workbench.cli.measure_again", "Measure disturbed runs again, once the machine is quiet."),
    "report": ("workbench.cli.report", "Write a report of runs, with charts, as HTML or Markdown."),
    "export": ("workbench.cli.runs", "Export runs and their tables as CSV or Parquet, or a trace of the workers."),
    "cancel": ("workbench.cli.runs", "Cancel runs."),
    "rm": ("workbench.cli.runs", "Delete runs."),
    "gc": ("workbench.cli.runs", "Remove batches that no run refers to."),
    "label": ("workbench.cli.runs", "Set the name, tags and note of a run."),
    "import": ("workbench.cli.runs", "Import runs from another store."),
    "calibrate": ("workbench.cli.calibrate", "Measure the compute, memory and communication speed of this machine."),
    "inspect": ("workbench.cli.inspect", "Show the blocks of a model and which strategies can split it."),
    "models": ("workbench.cli.plugins", "List the models and their options."),
    "datasets": ("workbench.cli.plugins", "List the datasets and their options."),
    "strategies": ("workbench.cli.plugins", "List the strategies and their options."),
    "schedules": ("workbench.cli.plugins", "List the pipeline schedules and their options."),
    "notebooks": ("workbench.cli.notebooks", "List the course notebooks, or copy them to a directory."),
    "check-plugin": ("workbench.cli.check_plugin", "Run the conformance cases of a plugin."),
    "doctor": ("workbench.cli.system", "Show the versions and hardware that runs on this machine use."),
    "dashboard": ("workbench.cli.system", "Start the dashboard."),
}

_STORE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Of a disk that is full or only readable."""
EXIT_CODES = {
    0: "success",
    1: "a run failed",
    2: "bad spec or usage; nothing was started",
    3: "an --assert is false, parity failed or the loss is not finite",
    130: "interrupted; no process of the run is left",
}


class LazyGroup(click.Group):
    """Imports a command's module only when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


@click.group(cls=LazyGroup)
@click.version_option(package_name="workbench")
def cli() -> None:
    """Run, measure and compare ways of splitting a neural network over several workers."""


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """Shows a skipped plugin as one sentence on stderr, like an error, and other warnings as Python does."""
    if issubclass(category, PluginWarning):
        click.echo(printable(f"workbench: {message}"), err=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def _sentence(error: click.ClickException) -> str:
    """Returns click's error in the form of all others, with the command that explains the usage."""
    message = error.format_message().rstrip(".")
    command = getattr(getattr(error, "ctx", None), "command_path", "workbench")
    return f"workbench: {message[:1].lower()}{message[1:]}; see `{command} --help`"


def _hang_up(number: int, frame: FrameType | None) -> None:
    """Detaches the standard streams and interrupts: the terminal is gone, and an error from writing to it would replace the
    interrupt."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command line. Errors meant for the user are one sentence on stderr. SIGTERM is an interrupt, like Ctrl-C, and so
    is the end of the terminal, except under ``nohup``."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)
    try:
        code = cli.main(standalone_mode=False)
    except WorkbenchError as error:
        click.echo(printable(f"workbench: {error}"), err=True)
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        click.echo(printable(_sentence(error)), err=True)
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("workbench: interrupted; no process of the run is left", err=True)
        code = 130
    except BrokenPipeError:
        code = 0
    except OSError as error:
        if error.errno not in _STORE_ERRORS:
            raise
        from workbench.api.store import home

        click.echo(printable(f"workbench: cannot write {error.filename or f'to the store {home()}'}: {error.strerror}"), err=True)
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
