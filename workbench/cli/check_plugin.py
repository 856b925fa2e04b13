"""``workbench check-plugin``: runs the conformance cases of a plugin, for its author."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.testing.plugin_check import CaseResult

FAILED = 1
_MOST_REASONS = 3


@click.command("check-plugin")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--only", metavar="TEXT", default="", help="Run only the cases whose name contains TEXT, such as mlp.")
@click.option(
    "--list", "only_list", is_flag=True, help="List the cases and the rejected configurations without running anything."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def check_plugin_command(file: Path, only: str, only_list: bool, as_json: bool) -> None:
    """Run the conformance cases of the plugins in FILE, and list the configurations that their checks reject.

    Exit codes: 0 all cases passed; 1 a case failed; 2 no case was run.
    """
    from workbench.messages import counted
    from workbench.testing.plugin_check import load_plugins, plugin_cases, run_plugin_case

    plugins = load_plugins(file)
    cases, refused = plugin_cases(plugins)
    chosen = [case for case in cases if only in case.name]
    names = ", ".join(f"{cls.plugin_kind} {cls.name}" for cls in plugins)  # type: ignore[attr-defined]
    if not as_json:
        click.echo(f"{names}: {counted(len(cases), 'case')}, {sum(refused.values())} rejected", err=True)
    if not chosen and not only_list:
        reason = (
            f"no case name contains {only!r}; --list shows all cases" if cases else f"all cases are rejected: {_reasons(refused)}"
        )
        raise UsageError(f"no case was run: {reason}")
    results: list[CaseResult] = []
    if only_list:
        for case in chosen if not as_json else ():
            click.echo(case.name)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from workbench.cli.terminal import Terminal

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=len(chosen))
            for case in chosen:
                progress.update(task, description=case.name)
                results.append(run_plugin_case(case))
                progress.advance(task)
    if as_json:
        click.echo(json.dumps(_document([case.name for case in chosen], results, refused)))
    else:
        _show(results, refused)
    if not all(result.passed for result in results):
        raise click.exceptions.Exit(FAILED)


def _document(names: list[str], results: list[CaseResult], refused: Counter[str]) -> dict[str, Any]:
    cases = [{**asdict(r), "passed": r.passed} for r in results]
    return {"schema_version": 1, "names": names, "cases": cases, "refused": dict(refused)}


def _show(results: list[CaseResult], refused: Counter[str]) -> None:
    """Prints a table of the cases that were run, every mistake below it, and the reasons for rejections."""
    from rich.table import Table
    from rich.text import Text

    from workbench.cli.terminal import Terminal

    console = Terminal()
    checks = list(dict.fromkeys(check for r in results for check in r.mistakes))
    if results:
        table = Table("case", *checks, box=None)
        for r in results:
            cells = ["" if c not in r.mistakes else Text("wrong", style="red") if r.mistakes[c] else "ok" for c in checks]
            if r.error:
                cells = [Text("failed", style="red"), *[""] * (len(checks) - 1)] if checks else []
            table.add_row(r.name, *cells)
        console.print(table)
    for r in results:
        mistakes = [f"{check}: {text}" for check, texts in r.mistakes.items() for text in texts]
        for text in [r.error] if r.error else mistakes:
            console.print(Text.assemble((f"{r.name}:", "red"), f" {text}"))
    num_failed = sum(not r.passed for r in results)
    if results:
        console.print(f"\n{len(results) - num_failed} of {len(results)} cases passed")
    if refused:
        console.print("\nrejected configurations:")
        for sentence, number in refused.most_common():
            console.print(f"  {number} × {sentence}")


def _reasons(refused: Counter[str]) -> str:
    return "; ".join(sentence for sentence, _ in refused.most_common(_MOST_REASONS))
