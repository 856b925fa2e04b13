"""The compatibility table of strategies and models, for the terminal and for ``docs/strategies.md``."""

from __future__ import annotations

from workbench.api.plans import MODES, Support, support_table

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LEGEND = (
    "✓: training and inference work on cpu (the GPU path has not been tested on hardware); otherwise the"
    " supported mode, with a note that gives the reason. Two workers, first example of each model."
)
_MARKDOWN = """# Compatibility of strategies and models

`workbench strategies --markdown > docs/strategies.md` generates this page: the examples of each strategy go through the same
checks as a run. `tests/testing/test_conformance.py` runs the accepted ones.

"""


def rows() -> tuple[list[list[str]], list[str]]:
    """Returns the rows of cells, headings first, and the notes that the numbers in the cells refer to."""
    table, notes = support_table(), dict[str, int]()
    columns = next(iter(table.values()))
    cells = [["strategy", *columns]]
    for split, by_model in table.items():
        cells.append([split, *(_cell(support, notes) for support in by_model.values())])
    return cells, [f"{number} {note}" for note, number in notes.items()]


def markdown() -> str:
    """Returns the page as Markdown."""
    (heads, *body), notes = rows()
    lines = [heads, ["---", *[":---:"] * (len(heads) - 1)], *body]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    numbered = "\n".join(note.replace(" ", ". ", 1) for note in notes)
    return f"{_MARKDOWN}{LEGEND}\n\n{table}\n\n{numbered}\n"


def text() -> str:
    """Returns the table as text for the terminal."""
    body, notes = rows()
    widths = [max(len(line[column]) for line in body) for column in range(len(body[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in body]
    return "\n".join([f"{LEGEND}", "", *lines, "", *notes])


def _cell(support: Support, notes: dict[str, int]) -> str:
    modes = [mode for mode in MODES if mode in support.works]
    mark = "–" if not modes else "✓" if modes == list(MODES) else " ".join(modes)
    numbers = sorted(notes.setdefault(sentence, len(notes) + 1) for sentence in support.refusals)
    return mark + " ".join(str(number).translate(_SUPERSCRIPTS) for number in numbers)
