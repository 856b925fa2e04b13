"""What there is to choose from: models, datasets, strategies and schedules, with every option and its meaning."""

from __future__ import annotations

import click

from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family
from workbench.spec import describe


def _command(family_name: str, family: Family) -> click.Command:
    @click.command(family_name, help=f"All {family_name}, with every option and its meaning.")
    def command() -> None:
        _list(family)

    return command


def _list(family: Family) -> None:
    for plugin_name in family.names():
        plugin = family.get(plugin_name)
        summary = " ".join((plugin.__doc__ or "").split("\n\n")[0].split())
        click.echo(f"{click.style(plugin_name, bold=True)}  {summary}")
        for option in describe(plugin.Options):
            bounds = f", {option['bounds']}" if option["bounds"] else ""
            click.echo(f"    {option['name']} = {option['default']}  ({option['type']}{bounds})  {option['help']}")
        for name, preset in getattr(plugin.Options, "presets", {}).items():
            click.echo(f"    preset {name}: {preset.num_parameters:,} parameters  ({preset.source})")


models_command = _command("models", MODELS)
datasets_command = _command("datasets", DATASETS)
schedules_command = _command("schedules", SCHEDULES)


@click.command("strategies", help="All strategies, with every option and its meaning, and what works with what.")
@click.option("--markdown", is_flag=True, help="Only the table of what works, as docs/strategies.md has it.")
def strategies_command(markdown: bool) -> None:
    from workbench.cli import support

    if markdown:
        click.echo(support.markdown(), nl=False)
        return
    _list(STRATEGIES)
    click.echo(f"\n{support.text()}")
