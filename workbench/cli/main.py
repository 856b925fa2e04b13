"""The command line's entry: each command's code is loaded when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from types import FrameType
from typing import Any

import click

from workbench.errors import PluginWarning, WorkbenchError

_COMMANDS = {
    "run": ("workbench.cli.run", "Run a spec, or with no argument the demonstration."),
    "ls": ("workbench.cli.runs", "List the runs of the store."),
    "show": ("workbench.cli.show", "Everything about one run."),
    "logs": ("workbench.cli.runs", "What the workers printed."),
    "compare": ("workbench.cli.runs", "Runs side by side, and what they teach."),
    "report": ("workbench.cli.report", "Runs as one HTML file or as Markdown, with charts."),
    "export": ("workbench.cli.runs", "Write runs and their tables as CSV or Parquet, or a trace of their workers."),
    "cancel": ("workbench.cli.runs", "End a run that has not ended."),
    "rm": ("workbench.cli.runs", "Delete runs."),
    "label": ("workbench.cli.runs", "Name, tag and annotate a run."),
    "import": ("workbench.cli.runs", "Take in runs of another store."),
    "calibrate": ("workbench.cli.calibrate", "Measure what this machine computes and moves."),
    "models": ("workbench.cli.plugins", "Models and their options."),
    "datasets": ("workbench.cli.plugins", "Datasets and their options."),
    "strategies": ("workbench.cli.plugins", "Strategies and their options."),
    "schedules": ("workbench.cli.plugins", "Pipeline schedules."),
    "notebooks": ("workbench.cli.notebooks", "List the notebooks of the course, or copy them to a directory."),
    "check-plugin": ("workbench.cli.check_plugin", "Run the conformance cases of a plugin's file."),
    "doctor": ("workbench.cli.system", "What a run here would stand on."),
    "dashboard": ("workbench.cli.system", "Open the runs in a page."),
}

EXIT_CODES = {
    0: "success",
    1: "a run failed",
    2: "bad spec or usage; nothing was started",
    3: "an --assert is false, parity failed, or the loss is not finite",
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
    """Find out how to split a neural network over several workers, by running it."""


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """A plugin that was left out is one sentence on stderr, as an error is; other warnings are as Python shows them."""
    if issubclass(category, PluginWarning):
        click.echo(f"workbench: {message}", err=True)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def _hang_up(number: int, frame: FrameType | None) -> None:
    """The terminal is gone, and writing to it an error that would take the interrupt's place."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    raise KeyboardInterrupt


def main() -> None:
    """Runs the command line; errors meant for the user are one sentence on stderr. SIGTERM is an interrupt, like Ctrl-C, and so
    is the end of the terminal, but under ``nohup``."""
    warnings.showwarning = _show_warning
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hang_up)
    try:
        code = cli.main(standalone_mode=False)
    except WorkbenchError as error:
        click.echo(f"workbench: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("workbench: interrupted; no process of the run is left", err=True)
        code = 130
    except BrokenPipeError:
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
