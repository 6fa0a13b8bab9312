"""The support table of the page on exports: every family in every target, as the cases that ran found it.

`python -m tests.export.table` runs every case and writes what it found into docs/tasks/export.md: minutes of two cores.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from hierax.errors import HieraxError

from .families import FAMILIES
from .matrix import SUFFIXES, all_outputs, check, exported

PAGE = Path(__file__).parents[2] / "docs" / "tasks" / "export.md"
_TABLE = re.compile(r"^\| family \|.*?(?=^\n|\Z)", re.M | re.S)
COLUMNS = tuple((to, dynamic) for to in SUFFIXES for dynamic in (False, True))


def measured(folder: Path, family: str, to: str, dynamic: bool) -> float:
    """Largest difference of a file that was written, compared in its runtime and run through `load`."""
    source, report = exported(folder, family, to, outputs=all_outputs(family), dynamic=dynamic)
    check(source, report, to)
    assert len(report.sizes) == (4 if dynamic else 1)
    return report.difference


def page_table() -> dict[tuple[str, str, bool], str]:
    """The cells of the page by family, target and whether every size was asked for."""
    found = _TABLE.search(PAGE.read_text("utf-8"))
    assert found is not None
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in found[0].splitlines()[2:]]
    return {(row[0], *column): cell for row in rows for column, cell in zip(COLUMNS, row[1:], strict=True)}


def as_text(cells: dict[tuple[str, str, bool], str]) -> str:
    """The table in Markdown."""
    heads = [f"{to}, every size" if dynamic else to for to, dynamic in COLUMNS]
    lines = [f"| family | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    lines += [f"| {family} | {' | '.join(cells[(family, *column)] for column in COLUMNS)} |" for family in FAMILIES]
    return "\n".join(lines) + "\n"


def main() -> None:
    cells = {}
    for family in FAMILIES:
        for to, dynamic in COLUMNS:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    cells[family, to, dynamic] = f"{measured(Path(folder), family, to, dynamic):.0e}"
                except (HieraxError, AssertionError) as error:
                    cells[family, to, dynamic] = "no"
                    sys.stderr.write(f"{family}, {to}, {dynamic}: {error}\n")
            sys.stderr.write(
                f"{family}, {to}, {'every size' if dynamic else 'one size'}: {cells[family, to, dynamic]}\n"
            )
    PAGE.write_text(_TABLE.sub(lambda _: as_text(cells), PAGE.read_text("utf-8"), count=1), "utf-8")


if __name__ == "__main__":
    main()
