"""The reference pages say what the source does: variables, errors, exit codes, limits, options."""

from __future__ import annotations

import ast
import importlib
import re

import pytest

import hierax
from hierax import errors
from hierax.cli import COMMANDS
from hierax.commands import MEANINGS
from hierax.data.decode import FORMATS, MAX_PIXELS
from hierax.provenance import provenance

from ..blocks import ROOT
from .pages import DOCS

SOURCES = sorted((ROOT / "src" / "hierax").rglob("*.py"))
REFERENCE = DOCS / "reference"
_VARIABLE = re.compile(r"\b(?:HIERAX|HF|XDG|OPENVINO)_[A-Z0-9_]*[A-Z0-9]\b|\bHTTPS_PROXY\b|\bNO_COLOR\b")
_DOTTED = re.compile(r"(?<![\w./@\"'-])hierax(?:\.[A-Za-z_]\w*)+")
# Names in the source that look like variables and are none.
_CONSTANTS = {"HF_HUB_DOWNLOAD"}


def strings() -> list[str]:
    """Every text in the source: what messages are made of."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "..." for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_variable_is_on_the_page():
    """A variable that nobody wrote down cannot be used, or surprises."""
    text = (REFERENCE / "environment.md").read_text("utf-8")
    used = {name for path in SOURCES for name in _VARIABLE.findall(path.read_text("utf-8"))} - _CONSTANTS
    assert used - set(_VARIABLE.findall(text)) == set()
    ours = {name for name in _VARIABLE.findall(text) if name.startswith("HIERAX_")}
    assert ours - used == set()


def test_every_error_class_has_an_entry():
    """A class without an entry is a message without a remedy."""
    text = (REFERENCE / "errors.md").read_text("utf-8")
    known = {name for name in dir(errors) if name.endswith("Error")}
    raised = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & known:
                raised.add(node.name)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                raised.add(ast.unparse(node.exc.func))
    public = {name for name in (known | raised) if name.endswith("Error") and (name in known or hasattr(hierax, name))}
    for name in public:
        assert f"## {name}\n" in text, f"errors.md has no entry for {name}"


def test_every_message_on_the_page_exists():
    """Advice about a message that was reworded is found by nobody."""
    known = [" ".join(text.split()) for text in strings()]
    rows = re.findall(r'^\| "(.+?)" \|', (REFERENCE / "errors.md").read_text("utf-8"), re.M)
    assert len(rows) > 50
    for row in rows:
        pattern = re.compile(".*?".join(re.escape(part.strip()) for part in row.split("...")))
        assert any(pattern.search(text) for text in known), f"no message says {row!r}"


def test_exit_codes():
    """Scripts rely on them."""
    text = (REFERENCE / "limits.md").read_text("utf-8")
    for code, meaning in MEANINGS.items():
        assert f"| {int(code)} | {meaning} |" in text


def test_limits_of_images():
    """A limit that changed in the source and not on the page refuses what the page allows."""
    assert f"{MAX_PIXELS:,}" in (REFERENCE / "limits.md").read_text("utf-8")
    text = (REFERENCE / "images.md").read_text("utf-8")
    for name in FORMATS:
        assert re.search(rf"\b{name}\b", text, re.IGNORECASE), name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_help(name):
    """The page of commands is made from this list."""
    assert f"```{{command-help}} {name}\n" in (REFERENCE / "commands.md").read_text("utf-8")


@pytest.mark.parametrize("name", sorted(set(hierax.__all__) - {"__version__"}))
def test_every_public_name_is_in_the_reference(name):
    """A name without a page is public for those only who read the source."""
    pages = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    if name.endswith("Error"):
        assert ".. automodule:: hierax.errors" in pages
    else:
        assert re.search(rf":: hierax\.{name}\n", pages), name


def found_as_typed(path: str) -> object:
    """What `import` and attributes make of a dotted name; raises where there is none."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(path)


@pytest.mark.parametrize(
    "page",
    [*sorted(DOCS.rglob("*.md")), *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_help_of_names_on_pages_resolves(page):
    """`hierax.x.y` on a page, in its code too, must find x.y, as a reader types it."""
    stored = provenance(hierax.load(), dtype="float32", normalize=True, normalized=True)
    keys = {f"hierax.{key}" for key in stored} if page.name == "outputs.md" else set()  # metadata, no names
    for path in set(_DOTTED.findall(page.read_text("utf-8"))) - keys:
        assert found_as_typed(path) is not None, path


def test_names_that_do_not_exist_are_found_out():
    """A test that resolves anything would let every page rot."""
    for path in ("hierax.lod", "hierax.train.nothing", "hierax.Predictor.embedd"):
        with pytest.raises((ModuleNotFoundError, AttributeError)):
            found_as_typed(path)
    assert _DOTTED.findall('`help(hierax.train.finetune)` hierax.load(x) src/hierax.x "hierax.model"') == [
        "hierax.train.finetune",
        "hierax.load",
    ]
