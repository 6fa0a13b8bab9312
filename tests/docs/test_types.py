"""The Python of the README and of every page has no error of types: an editor underlines nothing that we show."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hierax

from ..blocks import ROOT, blocks
from .pages import DOCS

# What an answer of ours may be made of: by day the types of other packages are left out.
OURS = {"hierax", "matplotlib", "numpy", "pandas", "PIL", "pyarrow", "torch"}
PAGES = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if "decisions" not in page.parts)]


def checked(folder: Path) -> list[str]:
    """The errors of a type checker in a folder of Python files, as `FILE:LINE: MESSAGE`."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed; it comes with the dev group")
    settings = {
        "typeCheckingMode": "standard",
        "extraPaths": [str(Path(hierax.__file__).parents[1])],
        "reportMissingImports": "none",  # packages that a page compares with
        "reportPossiblyUnboundVariable": "none",  # what a loop gives a value
        "reportUnusedExpression": "none",  # what a notebook would show
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(folder), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.lstrip().startswith("{"):  # it fetches its own program once
        pytest.skip(f"pyright cannot run here: {done.stderr[-200:]}")
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [
        f"{Path(each['file']).name}:{each['range']['start']['line'] + 1}: {each['message']}"
        for each in found
        if each["severity"] == "error"
    ]


def leave_others_out(folder: Path) -> None:
    """Put stubs that take and give anything in the place of packages that a page compares with: to read the types of
    transformers and its like takes more than all of ours.
    """
    trees = [ast.parse(path.read_text("utf-8")) for path in folder.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    for package in {name.partition(".")[0] for name in names} - OURS - sys.stdlib_module_names:
        stub = folder / "typings" / package / "__init__.pyi"  # where pyright looks first
        stub.parent.mkdir(parents=True)
        stub.write_text("from typing import Any\n\ndef __getattr__(name: str) -> Any: ...\n")


@pytest.mark.slow
@pytest.mark.parametrize("others", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_blocks(tmp_path, others):
    """`predictor.labels[:3]` where labels may be None, or a size that a signature does not take."""
    for page in PAGES:
        lines: list[str] = []
        for block in blocks(page):
            if block.language == "python":  # at its own place, so that a line number is the page's
                lines += [""] * (block.line - len(lines)) + block.code.splitlines()
        if lines:
            (tmp_path / f"{'-'.join(page.relative_to(ROOT).parts)}.py").write_text("\n".join(lines), "utf-8")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import hierax\n\nhierax.load(input_size='big')\nhierax.load().labels[:3]\nhierax.lod()\n")
    assert len(list(tmp_path.glob("*.py"))) > 15
    if not others:
        leave_others_out(tmp_path)
    found = checked(tmp_path)
    assert {line.split(":")[1] for line in found if line.startswith("wrong.py")} == {"3", "4", "5"}  # it does look
    assert [line for line in found if not line.startswith("wrong.py")] == []
