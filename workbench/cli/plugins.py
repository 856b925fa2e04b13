"""What there is to choose from: models, datasets, strategies and schedules, with every option and its meaning."""

from __future__ import annotations

import click

from workbench.registry import DATASETS, MODELS, SCHEDULES, STRATEGIES, Family
from workbench.spec import describe


def _command(family_name: str, family: Family) -> click.Command:
    @click.command(family_name, help=f"All {family_name}, with every option and its meaning.")
    def command() -> None:
        for plugin_name in family.names():
            plugin = family.get(plugin_name)
            summary = " ".join((plugin.__doc__ or "").split("\n\n")[0].split())
            click.echo(f"{click.style(plugin_name, bold=True)}  {summary}")
            for option in describe(plugin.Options):
                bounds = f", {option['bounds']}" if option["bounds"] else ""
                click.echo(f"    {option['name']} = {option['default']}  ({option['type']}{bounds})  {option['help']}")
            for alias, options in getattr(plugin, "aliases", {}).items():
                click.echo(f"    {alias} = {plugin_name} with " + ", ".join(f"{k} = {v}" for k, v in options.items()))
            for name, preset in getattr(plugin.Options, "presets", {}).items():
                click.echo(f"    preset {name}: {preset.num_parameters:,} parameters  ({preset.source})")

    return command


models_command = _command("models", MODELS)
datasets_command = _command("datasets", DATASETS)
strategies_command = _command("strategies", STRATEGIES)
schedules_command = _command("schedules", SCHEDULES)
