"""Writes docs/reference/seams.md: how much windows show in the maps of the published geometries, with random weights.

Run `python docs/make_seams.py` (minutes; the largest networks take 4 GB); `tests/docs/test_generated.py` recomputes one
row of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "reference" / "seams.md"
IMAGES = 2
GEOMETRIES = (
    ("hiera_tiny_224", 224),
    ("hiera_small_224", 224),
    ("hiera_base_224", 224),
    ("hiera_base_plus_224", 224),
    ("hiera_large_224", 224),
    ("hiera_huge_224", 224),
    ("hiera_abswin_base_plus", 224),
    ("hiera_small_abswin_256", 256),
    ("hiera_base_abswin_256", 256),
    ("timm_hieradet_small", 256),
    ("hieradet_d_small", 224),
    ("hieradet_small", 448),
    ("sam2_hiera_tiny", 1024),
    ("sam2_hiera_small", 1024),
    ("sam2_hiera_base_plus", 1024),
    ("sam2_hiera_large", 1024),
)
COLUMNS = ("network", "input", "stage 1", "stage 2", "stage 3", "stage 4", "strip that padding enters")
INTRODUCTION = """# Seams of the published geometries

<!-- written by docs/make_seams.py; do not edit -->

How much more neighbouring cells differ across the borders of attention windows than inside windows, with **random
weights**: what the geometry does before anything is learned. 1 means that windows leave no trace. In parentheses the
windows in pixels; a stage whose cells are as large as its windows has no inside, and nothing to compare (-).

The published weights could not be reached where this was made. With them the same is one line:
`hierax eval seams -m sam2.1_hiera_small --size 1024 1024`; [what it measures](../tasks/explain.md#seams). timm's
networks begin with branch scales of 0.00001, so that their attention does almost nothing before training.

"""


def row(name: str, side: int) -> str:
    """One line of the table."""
    from hierax.evaluate import seams

    found = seams(name, size=side, images=IMAGES, random_weights=True).results
    cells = [f"`{name}`", f"{side} x {side}"]
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        cells.append(", ".join(told(each) for each in found if each["stage"] == stage))
    strips = {each["stage"]: each for each in found if each["strip"]}
    ratios = ", ".join(f"{each['strip_ratio']:.2f} in stage {stage[-1]}" for stage, each in strips.items())
    where = next((f"{each['strip']['right']} px at the right and at the bottom" for each in strips.values()), "none")
    return f"| {' | '.join([*cells, f'{where}: {ratios}' if strips else where])} |"


def told(found: dict[str, Any]) -> str:
    """A ratio with its window."""
    return "-" if found["ratio"] is None else f"{found['ratio']:.2f} ({found['window'][0]})"


def page() -> str:
    """The page."""
    head = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    rows = "\n".join(row(*geometry) for geometry in GEOMETRIES)
    note = f"\nMean of {IMAGES} rendered images at that size; one draw of weights (seed 0, `hierax.create`).\n"
    return INTRODUCTION + head + rows + "\n" + note


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
