"""CSV that no spreadsheet runs: a cell that it would take for a formula is marked, and the mark can be taken off again.

A file name or a label can come from anywhere; `=HYPERLINK(...)` in a cell is a program to a spreadsheet. See OWASP,
"CSV Injection". JSON lines have everything as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# What a spreadsheet takes for the beginning of a formula, or skips to find one; the wide forms in some languages.
_FORMULA = re.compile("['\\s]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|['\\s]*[\\t\\r\\n]")
_SEPARATES = re.compile('[",;\\t\\r\\n|]')  # in some language or other


def as_path(path: str) -> str:
    """A path that is no formula: `./` before it names the same file."""
    return f"./{path}" if _FORMULA.match(path) else path


def as_text(value: Any) -> Any:
    """A text that is no formula: an apostrophe before it, which `removeprefix("'")` takes off, marks it as text.

    Texts that begin with apostrophes before a formula get one more, so that taking one off always gives the text.
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def csv_line(cells: Iterable[Any]) -> str:
    """One line without its end; what any spreadsheet would split is quoted.

    Lines end as pandas and the tools of Unix end them, with a newline alone, although RFC 4180 wants a carriage return
    before it: `cut`, `awk` and `diff` take that for a part of the last cell. Every reader of CSV takes both.
    """
    return ",".join(_cell(cell) for cell in cells)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if _SEPARATES.search(text) else text
