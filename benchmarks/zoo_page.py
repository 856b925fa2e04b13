"""Writes ``docs/model_zoo.md`` from the files of ``model_zoo.py``."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "model_zoo.md"
HEAD = """# Model zoo

Models that nobody wrote for the workbench, in tiny sizes with random weights, under each strategy on CPU processes. A cell has
the parity error (in fp64, see [parity.md](parity.md)), the step time as a multiple of that on one worker, and the memory of the
largest worker. Two timed steps on a machine with two cores that other programs share say little about time: they show that a
split runs, not that it pays. *Per shard* means that the batch matters: parity then compares with one worker on the same shards. A
number in brackets is the reason of a refusal, below the tables.

`python benchmarks/model_zoo.py RESULTS --find 30`, with {versions}, measures this.
The command resumes where it ended, and writes the page.
"""


def write_page(results: Path, names: list[str], strategies: list[str], more: list[str]) -> None:
    """Writes the page.

    Args:
        results: Directory with a file per model.
        names: All models, in the order of the table.
    """
    records = {name: _read(results / f"{name.replace(' ', '-')}.json") for name in names}
    ran = {name: record for name, record in records.items() if record is not None}
    reasons: list[str] = []
    parts = [HEAD.format(versions=", ".join(f"{name} {number}" for name, number in versions().items())), _totals(ran, strategies)]
    for family in dict.fromkeys(record["family"] for record in ran.values()):
        parts.append(f"## {family}\n\n| model | one worker | {' | '.join(strategies)} |\n|{'---|' * (len(strategies) + 2)}")
        for name, record in ran.items():
            if record["family"] == family:
                rows = record["rows"]
                cells = [_cell(rows.get(strategy), reasons) for strategy in ("one worker", *strategies)]
                parts[-1] += f"\n| {name} | {' | '.join(cells)} |"
        parts[-1] += "\n"
    parts.append("## Reasons\n\n" + "\n".join(f"{index}. {reason}" for index, reason in enumerate(reasons, 1)) + "\n")
    if missing := [name for name in names if name not in ran]:
        parts.append(f"Not run yet: {', '.join(missing)}.\n")
    PAGE.write_text("\n".join(parts))


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _totals(ran: dict[str, Any], strategies: list[str]) -> str:
    """Returns a sentence with how many pairs run and how many are refused."""
    impossible = [record for record in ran.values() if "refused" in record["rows"]["one worker"]]
    rows = [record["rows"][strategy] for record in ran.values() for strategy in strategies if strategy in record["rows"]]
    equal = sum(row.get("verdict") == "equal" for row in rows)
    shards = sum(row.get("verdict") == "equal per shard" for row in rows)
    other = sum("verdict" in row for row in rows) - equal - shards
    failed = sum("failed" in row for row in rows)
    return (
        f"{len(rows)} pairs of {len(ran) - len(impossible)} models and {len(strategies)} strategies:\n\n"
        f"- {equal} run and are equal to one worker;\n"
        f"- {shards} run and are equal to one worker on the same shards;\n"
        f"- {other} run and differ;\n- {failed} fail while they run;\n"
        f"- {len(rows) - equal - shards - other - failed} are refused.\n"
    )


def _cell(row: dict[str, Any] | None, reasons: list[str]) -> str:
    if row is None:
        return "–"
    if reason := row.get("refused") or row.get("failed"):
        reason = re.sub(r"(\S*zoo_modules\.py|hf):[\w-]+", "the model", reason.split("\n")[0]).replace("|", "\\|")
        if reason not in reasons:
            reasons.append(reason)
        return f"{'refused' if 'refused' in row else '**failed**'} [{reasons.index(reason) + 1}]"
    figures = f"{row.get('ratio', 1):.1f}×, {row['memory'] / 2**20:.2f} MiB"
    if row["verdict"] in ("equal", "equal per shard"):
        return f"{row['error']:.0e}{' per shard' if row['verdict'] != 'equal' else ''}, {figures}"
    return f"**{row['verdict']} {row['error']:.0e}** ({row['cause'] or 'no cause known'}), {figures}"


def versions() -> dict[str, str]:
    """Returns the versions of the packages here that models come from."""
    found = {}
    for package in ("torch", "transformers", "torchvision", "timm"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
