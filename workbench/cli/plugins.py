"""Commands that list the models, datasets, strategies and schedules, with every option and its meaning."""

from __future__ import annotations

import click

from workbench.api.plugins import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family
from workbench.api.specs import describe
from workbench.errors import UsageError


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
    from workbench.cli import compatibility

    if markdown:
        click.echo(compatibility.markdown(), nl=False)
        return
    _list(STRATEGIES)
    click.echo(f"\n{compatibility.text()}")


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
