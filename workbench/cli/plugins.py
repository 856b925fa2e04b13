"""What there is to choose from: models, datasets, strategies and schedules, with every option and its meaning."""

from __future__ import annotations

import click

from workbench.errors import UsageError
from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family
from workbench.spec import describe


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
    @click.command(family_name, help=f"All {family_name}, with every option and its meaning.")
    def command() -> None:
        _list(family)

    return command


models_command = _command("models", MODELS)
datasets_command = _command("datasets", DATASETS)


@click.command("strategies", help="All strategies, with every option and its meaning, and what works with what.")
@click.option("--markdown", is_flag=True, help="Only the table of what works, as docs/strategies.md has it.")
def strategies_command(markdown: bool) -> None:
    from workbench.cli import support

    if markdown:
        click.echo(support.markdown(), nl=False)
        return
    _list(STRATEGIES)
    click.echo(f"\n{support.text()}")


@click.command("schedules")
@click.option("--actions", metavar="SCHEDULE", help="Write this one's actions, a file that the schedule csv can begin with.")
@click.option("--size", default=2, show_default=True, help="Workers of the pipeline whose actions are written.")
@click.option("--microbatches", default=4, show_default=True, help="Its microbatches.")
@click.option("--stages-per-worker", type=int, help="Its stages on each worker; by default as the schedule is made for.")
def schedules_command(actions: str | None, size: int, microbatches: int, stages_per_worker: int | None) -> None:
    """All schedules, with every option and its meaning; or the actions of one."""
    if actions is None:
        _list(SCHEDULES)
        return
    from workbench.runtime.orders import rows_of
    from workbench.spec import RunSpec

    pipeline = {"size": size, "schedule": actions, "num_microbatches": microbatches, "stages_per_worker": stages_per_worker}
    spec = RunSpec(split={"pipeline": pipeline})
    ((_, options),) = spec.split.items()
    schedule = SCHEDULES.get(actions, "--actions")(options)
    if not schedule.has_actions:
        raise UsageError(f"{actions} is no fixed order of actions; take another schedule")
    schedule.check(spec)
    for row in rows_of(schedule):
        click.echo(row)
