"""``workbench inspect``: what a model consists of, and which strategies can split it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from workbench.api.specs import RunSpec, override
from workbench.cli.run import DATASET_HELP
from workbench.messages import counted, listed

if TYPE_CHECKING:
    from workbench.api.inspection import ExpertSplit, ModelReport, TensorPlan
    from workbench.cli.terminal import Terminal


@click.command("inspect")
@click.argument("model")
@click.option("--dataset", help=DATASET_HELP)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="PATH=VALUE",
    help="Set a key of the spec, such as model.options.width=64; can be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def inspect_command(model: str, dataset: str | None, sets: tuple[str, ...], as_json: bool) -> None:
    """Show the blocks of MODEL, and which strategies can split it over two workers.

    MODEL is PATH.py:CALLABLE or package.module:CALLABLE, a function or class that returns an nn.Module; hf:PATH/config.json, a
    config of Transformers; or the name of a model.
    """
    spec = RunSpec(**override({}, model=model, dataset=dataset, splits=(), sets=sets))
    from workbench.api.inspection import inspect_model

    report = inspect_model(spec)
    if as_json:
        click.echo(json.dumps(_document(report, spec)))
    else:
        _print(report, spec)


def _document(report: ModelReport, spec: RunSpec) -> dict[str, Any]:
    model = report.summary
    return {
        "model": model.name,
        "dataset": report.dataset,
        "num_parameters": model.num_parameters,
        "blocks": [
            {
                "name": block.name,
                "num_parameters": block.num_parameters,
                "output_shape": shape,
                "forward_flops": block.forward_flops,
                "crossing": crossing,
            }
            for block, shape, crossing in zip(model.blocks, report.output_shapes, report.crossings, strict=True)
        ],
        "loss_reduction": model.loss_reduction,
        "ties": [{"parameter": tie.parameter, "source": tie.source} for tie in model.ties],
        "frozen": report.parameter_notes["frozen"],
        "unused": report.parameter_notes["unused"],
        "state": None if model.state is None else asdict(model.state),
        "num_workers": report.num_workers,
        "refusals": report.refusals,
        "notes": {name: note for name, note in report.notes.items() if note},
        "tensor_plan": None if report.tensor_plan is None else asdict(report.tensor_plan),
        "experts": None if report.experts is None else asdict(report.experts),
        "code": report.code,
        "output": report.output,
    }


def _print(report: ModelReport, spec: RunSpec) -> None:
    from rich.table import Table

    from workbench.api.inspection import shape_text
    from workbench.cli.output import printable
    from workbench.cli.render import whole
    from workbench.cli.terminal import Terminal

    console, model = Terminal(), report.summary
    console.print(
        f"{model.name} on {report.dataset}: {counted(len(model.blocks), 'block')},"
        f" {counted(f'{model.num_parameters:,}', 'parameter')}"
    )
    console.print()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    heads = ("block", "parameters", "output shape\nper sample", "forward MFLOP\nper sample", "crossing a cut\nper sample")
    for head in heads:
        table.add_column(head, justify="left" if head == "block" else "right", no_wrap=True)
    for block, shape, shapes in zip(model.blocks, report.output_shapes, report.crossings, strict=True):
        crossing = "–" if shapes is None else ", ".join(map(shape_text, shapes))
        flops = f"{block.forward_flops / 1e6:,.3f}"
        table.add_row(block.name, f"{block.num_parameters:,}", shape_text(shape), flops, crossing)
    whole(console, table)
    if report.loss_text:
        console.print(f"\nloss: {report.loss_text}")
    for name, values in report.parameter_notes.items():
        if values:
            console.print(f"\n{name}: {', '.join(values)}", soft_wrap=True)
    console.print()
    splits = Table("strategy", f"on {report.num_workers} workers", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name, why in report.refusals.items():
        splits.add_row(name, why or f"accepted{report.notes[name] and f': {report.notes[name]}'}")
    console.print(splits)
    if report.tensor_plan is not None:
        _print_tensor_plan(console, report.tensor_plan)
    if report.experts is not None:
        _print_experts(console, report.experts)
    if report.output.strip():
        console.print(f"\nprinted: {printable(report.output.strip())}", soft_wrap=True)


def _print_tensor_plan(console: Terminal, plan: TensorPlan) -> None:
    from rich.table import Table

    from workbench.api.inspection import plan_rows
    from workbench.cli.render import whole

    if plan.groups:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for head in ("tensor plan", "cut by", "workers divide"):
            table.add_column(head, justify="right" if head == "workers divide" else "left", no_wrap=True)
        for row in filter(lambda row: row.units, plan_rows(plan)):
            table.add_row(row.path, row.style, str(row.units))
        console.print()
        whole(console, table)
    if plan.rejected:
        console.print()
    for rejected in plan.rejected:
        console.print(f"not cut: {listed(rejected.modules) or 'any module'}: {rejected.reason}", soft_wrap=True)


def _print_experts(console: Terminal, split: ExpertSplit) -> None:
    from rich.table import Table

    from workbench.cli.render import whole

    if split.mixtures:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for head in ("mixture", "experts"):
            table.add_column(head, justify="right" if head == "experts" else "left", no_wrap=True)
        for mixture in split.mixtures:
            table.add_row(mixture.path, str(mixture.num_experts))
        console.print()
        whole(console, table)
    if split.rejected:
        console.print()
    for rejected in split.rejected:
        console.print(f"experts not divided: {rejected.path}: {rejected.reason}", soft_wrap=True)
