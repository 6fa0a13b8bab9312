"""Every block of the README runs as it is printed; those of the site are in `tests/docs`."""

from __future__ import annotations

import re
import shutil

import pytest

from .blocks import ROOT, blocks, check_python, check_shell, run_python, run_shell

README = ROOT / "README.md"


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A folder with the examples in it, as a user has after cloning."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks(workshop):
    """A block that names something gone misleads the first reader; names from the blocks above may be used.

    Blocks marked `no-network` load published weights; of them syntax, imports and names are checked.
    """
    namespace = {}
    for block in blocks(README):
        if block.language == "python":
            (check_python if "no-network" in block.options else run_python)(block, namespace)


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in blocks(README) if b.language == "sh"], ids=lambda b: f"line {b.line}")
def test_shell_blocks(block, workshop):
    """A command line that fails on a fresh clone is the worst first impression.

    Blocks marked `no-network` need published weights, a server or hours; of them commands and options are checked.
    """
    if "no-network" in block.options:
        check_shell(block)
    else:
        run_shell(block, workshop)


def test_links_exist():
    """A dead link in the README is a page that nobody wrote."""
    for target in re.findall(r"\]\(([^)#]+)", README.read_text()):
        if "://" not in target:
            assert (README.parent / target).exists(), f"README.md links to {target}"
