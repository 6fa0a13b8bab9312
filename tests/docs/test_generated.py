"""Tables of facts that the code knows are what their scripts write."""

from __future__ import annotations

import re

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


def test_seams__row():
    """A measure that changed with the table left behind would be compared with numbers of another kind."""
    wanted = next(
        line for line in (DOCS / "reference" / "seams.md").read_text("utf-8").splitlines() if "hieradet_d_small" in line
    )
    found = script("make_seams").row("hieradet_d_small", 224)
    numbers = [[float(number) for number in re.findall(r"\d+\.\d+", line)] for line in (found, wanted)]
    assert len(numbers[0]) == 3
    assert numbers[0] == pytest.approx(numbers[1], abs=0.03)
    assert re.sub(r"\d+\.\d+", "", found) == re.sub(r"\d+\.\d+", "", wanted)
