"""Tables of facts that the code knows are what their scripts write."""

from __future__ import annotations

import pytest

import hierax

from .pages import DOCS, script


def test_models__up_to_date():
    """A checkpoint that is added, or measured anew, must show: run `python docs/make_models.py`."""
    assert (DOCS / "models.md").read_text(encoding="utf-8") == script("make_models").page()


def test_models__every_weight_once():
    """A published checkpoint that the page leaves out cannot be chosen; one that stands twice confuses."""
    rows = [line for line in (DOCS / "models.md").read_text("utf-8").splitlines() if line.startswith("| `")]
    names = [row.split("`")[1] for row in rows if row.count("|") == 9]
    assert sorted(names) == sorted(hierax.list_models(pretrained=True))


@pytest.mark.parametrize("name", ["hieradet_d_small_dino-v2", "hiera_base_224", "sam2.1_hiera_small"])
def test_models__advice_names_what_exists(name):
    """Advice to take a model that is gone would be the first thing a newcomer tries."""
    assert f"`{name}`" in (DOCS / "models.md").read_text("utf-8")
    assert hierax.describe(name).pretrained
