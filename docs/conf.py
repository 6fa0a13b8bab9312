"""Sphinx: the site from the Markdown pages here and the docstrings in `src`. `make docs` builds it strictly.

Nothing is fetched while building; tutorials are run by our tests (`docs/make_tutorials.py`), not by Sphinx.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

import hierax
from hierax.cli import COMMANDS, help_text, main

project = "hierax"
author = "the hierax authors"
copyright = author
version = release = hierax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # "No heading deeper than the next" does not hold for quoted change logs

# Docstrings are Google's, with Markdown's single backticks.
default_role = "code"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes stand in the class, once
napoleon_custom_sections = [("Source", "notes")]
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

# Strict: every reference must resolve, but for names that are not ours. Other projects' inventories would make the
# build need a network, so their names are shown without a link.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|pa|PIL|pathlib|collections|typing|jaxtyping|os|nn|abc)\..*"),
    ("py:class", r"Path|Tensor|Any|Self|Callable|Iterator|Sequence|Mapping|Image|Image\.Image|Literal|Float|Int|UInt8"),
    # Axes of jaxtyping's shapes, an alias, and what a class holds that is ours to read.
    ("py:class", r"' ?\w+'|ndarray|Answers?|Levels|Encoder|Batch|Callback|(hierax\.weights\.files\.)?RawCheckpoint"),
    ("py:class", r"LoadingInfo|Request|Index|hierax\.store\.read\.Store"),
]

smartquotes = False  # quotes are code as often as not
html_theme = "furo"
html_title = "hierax"
html_static_path: list[str] = []
html_show_sphinx = False

# Pages that stand for a file in the root.
ROOT_FILES = {"contributing": "CONTRIBUTING.md", "changes": "CHANGELOG.md", "security": "SECURITY.md"}


class CommandHelp(Directive):
    """What `hierax COMMAND --help` prints, of every command or of one."""

    has_content = False
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The text as a literal block."""
        printed = help_text() if not self.arguments else _help(self.arguments[0])
        block = nodes.literal_block(printed, printed)
        block["language"] = "text"
        return [block]


def _help(command: str) -> str:
    if command not in COMMANDS:
        raise ValueError(f"no command {command!r}")
    os.environ |= {"COLUMNS": "100", "NO_COLOR": "1"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main([*command.split(), "--help"])
    return printed.getvalue().rstrip()


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_directive("command-help", CommandHelp)
    app.connect("autodoc-process-signature", _plain_signature)
    app.connect("source-read", _from_the_root)


def _from_the_root(_app: Any, page: str, source: list[str]) -> None:
    """Fill a page with the file in the root that it stands for; links are relative to that file."""
    if page in ROOT_FILES:
        text = (Path(__file__).parents[1] / ROOT_FILES[page]).read_text(encoding="utf-8")
        for name, file in ROOT_FILES.items():
            text = text.replace(f"]({file})", f"]({name}.md)")
        source[0] = text.replace("](docs/", "](").replace("](README.md)", "](index.md)")


def _plain_signature(_app: Any, what: str, _name: str, obj: Any, *_: Any) -> tuple[str, str] | None:
    """Of settings the fields are listed with their meaning; the constructor's line would repeat them with bounds."""
    return ("", "") if what in ("class", "exception") and dataclasses.is_dataclass(obj) else None
