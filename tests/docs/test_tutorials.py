"""Tutorials run, and print and draw what their pages say."""

from __future__ import annotations

import importlib.util
import re

import pytest
import torch

from ..blocks import difference
from ..peers import prepare
from .pages import DOCS, agrees, script

SCRIPTS = sorted((DOCS / "tutorials").glob("*.py"))
PEERS = re.compile(r"^(?:from|import) (birder|transformers)\b", re.M)


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", SCRIPTS, ids=lambda path: path.stem)
def test_tutorial(tutorial, tmp_path):
    """A tutorial that no longer gives what it shows teaches something wrong."""
    wanted = set(PEERS.findall(tutorial.read_text("utf-8")))
    missing = [name for name in wanted if not importlib.util.find_spec(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; they come with the parity group")
    if wanted:
        prepare()
    torch.manual_seed(0)
    maker = script("make_tutorials")
    page = maker.run(tutorial, tmp_path)
    found = difference(tutorial.with_suffix(".md").read_text("utf-8"), page)
    assert not found, f"{found}\n`python docs/make_tutorials.py {tutorial.stem}`"
    for name in maker.pictures(page):
        assert agrees(tutorial.parent / name, tmp_path / name), f"{name} is not what the tutorial draws"


def test_cells(tmp_path):
    """A cell that is lost, or text that is run, would go unnoticed in a page that only grows."""
    source = tmp_path / "x.py"
    source.write_text('"""Doc."""\n\n# %% [markdown]\n# # Title\n#\n# text\n\n# %%\na = 1\n\n\n# %%\nprint(a + 1)\n')
    maker = script("make_tutorials")
    assert list(maker.cells(source)) == [(True, "# Title\n\ntext"), (False, "a = 1"), (False, "print(a + 1)")]
    assert "```text output\n2\n```" in maker.run(source, tmp_path)
