"""Commands that list the models, datasets, strategies and schedules, with every option and its meaning, and the compatibility
of strategies and models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from workbench.api.plugins import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family
from workbench.api.specs import describe
from workbench.errors import UsageError

if TYPE_CHECKING:
    from workbench.api.plans import Support

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_LEGEND = (
    "✓: training and inference work on cpu (the GPU path has not been tested on hardware); otherwise the"
    " supported mode, with a note that gives the reason. Two workers, first example of each model."
)
_PAGE = """# Compatibility of strategies and models

`workbench strategies --markdown > docs/strategies.md` generates this page: the examples of each strategy go through the same
checks as a run. `tests/testing/test_conformance.py` runs the accepted ones.

"""


def _list(family: Family) -> None:
    for plugin_name in family.names():
        plugin = family.get(plugin_name)
        summary = " ".join((plugin.__doc__ or "").split("\n\n")[0].split())
        click.echo(f"{click.style(plugin_name, bold=True)}  {summary}")
        for option in describe(plugin.Options):
            bounds = f", {option['bounds']}" if option["bounds"] else ""
            click.echo(f"    {option['name']} = {option['default']}  ({option['type']}{bounds})  {option['help']}")
        for alias, options in getattr(plugin, "aliases", {}).items():
            click.echo(f"    {alias} = {plugin_name} with " + ", ".join(f"{key} = {value}" for key, value in options.items()))
        for name, preset in getattr(plugin.Options, "presets", {}).items():
            click.echo(f"    preset {name}: {preset.num_parameters:,} parameters  ({preset.source})")


def _command(family_name: str, family: Family) -> click.Command:
    @click.command(family_name, help=f"List the {family_name} and their options.")
    def command() -> None:
        _list(family)

    return command


models_command = _command("models", MODELS)
datasets_command = _command("datasets", DATASETS)


@click.command("strategies", help="List the strategies, their options and the combinations that are supported.")
@click.option("--markdown", is_flag=True, help="Print only the compatibility table, as Markdown (docs/strategies.md).")
def strategies_command(markdown: bool) -> None:
    if markdown:
        click.echo(_compatibility_page(), nl=False)
        return
    _list(STRATEGIES)
    click.echo(f"\n{_compatibility_text()}")


def _compatibility() -> tuple[list[list[str]], list[str]]:
    """Returns the rows of cells, headings first, and the notes that the numbers in the cells refer to."""
    from workbench.api.plans import support_table

    table, notes = support_table(), dict[str, int]()
    columns = next(iter(table.values()))
    cells = [["strategy", *columns]]
    for split, by_model in table.items():
        cells.append([split, *(_cell(support, notes) for support in by_model.values())])
    return cells, [f"{number} {note}" for note, number in notes.items()]


def _compatibility_page() -> str:
    """Returns the page as Markdown."""
    (heads, *body), notes = _compatibility()
    lines = [heads, ["---", *[":---:"] * (len(heads) - 1)], *body]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    numbered = "\n".join(note.replace(" ", ". ", 1) for note in notes)
    return f"{_PAGE}{_LEGEND}\n\n{table}\n\n{numbered}\n"


def _compatibility_text() -> str:
    """Returns the table as text for the terminal."""
    body, notes = _compatibility()
    widths = [max(len(line[column]) for line in body) for column in range(len(body[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in body]
    return "\n".join([_LEGEND, "", *lines, "", *notes])


def _cell(support: Support, notes: dict[str, int]) -> str:
    from workbench.api.plans import MODES

    modes = [mode for mode in MODES if mode in support.works]
    mark = "–" if not modes else "✓" if modes == list(MODES) else " ".join(modes)
    numbers = sorted(notes.setdefault(sentence, len(notes) + 1) for sentence in support.refusals)
    return mark + " ".join(str(number).translate(_SUPERSCRIPTS) for number in numbers)


@click.command("schedules")
@click.option("--actions", metavar="SCHEDULE", help="Print the actions of SCHEDULE in the format that the schedule csv reads.")
@click.option("--size", default=2, show_default=True, help="Number of pipeline workers for --actions.")
@click.option("--microbatches", default=4, show_default=True, help="Number of microbatches for --actions.")
@click.option("--stages-per-worker", type=int, help="Stages per worker for --actions; the default is the schedule's own.")
def schedules_command(actions: str | None, size: int, microbatches: int, stages_per_worker: int | None) -> None:
    """List the pipeline schedules and their options, or print the actions of one."""
    if actions is None:
        _list(SCHEDULES)
        return
    from workbench.api.plans import schedule_rows
    from workbench.api.specs import RunSpec

    pipeline = {"size": size, "schedule": actions, "num_microbatches": microbatches, "stages_per_worker": stages_per_worker}
    spec = RunSpec(split={"pipeline": pipeline})
    ((_, options),) = spec.split.items()
    schedule = SCHEDULES.get(actions, "--actions")(options)
    if not schedule.has_actions:
        raise UsageError(f"--actions: {actions} has no fixed order of actions; use another schedule")
    schedule.check(spec)
    for row in schedule_rows(schedule):
        click.echo(row)
