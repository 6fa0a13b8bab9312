"""The viewer's page in a real browser, opened from the disk: its numbers are NumPy's, and keys do all that a mouse does."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import hierax

from ..browsers import browser, opened

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("ring.png", "dots.png", "star.jpg")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    return hierax.view(None, [EXAMPLES / name for name in NAMES], tmp_path_factory.mktemp("view") / "view.html")


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def maps():
    return hierax.load().features([EXAMPLES / name for name in NAMES])


def at(file, chromium, **options):
    return opened(chromium, f"file://{file}", **options)


def cosine(maps, stage, one, other) -> float:
    a, b = (maps[stage][image, :, row, column].astype(np.float64) for image, row, column in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def ready(page):
    page.wait_for_selector("#viewer[data-ready=yes]")


def point(page, maps, stage, image, row, column, *, click=False):
    """Move the mouse to the middle of a cell."""
    box = page.locator("canvas[role=application]").nth(image).bounding_box()
    rows, columns = maps[stage].shape[2:]
    where = (box["x"] + (column + 0.5) * box["width"] / columns, box["y"] + (row + 0.5) * box["height"] / rows)
    (page.mouse.click if click else page.mouse.move)(*where)


def settled(page):
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def value(page) -> float:
    settled(page)
    return float(page.locator("output.value").inner_text().replace("\u2212", "-"))


def test_hover__cosine_of_numpy(page_file, chromium, maps):
    """Axes that are exchanged, a wrong scale or cells of another image would give another number."""
    with at(page_file, chromium) as page:
        ready(page)
        for stage, one, other in (
            ("stage3", (0, 1, 4), (2, 4, 1)),
            ("stage2", (1, 10, 3), (0, 2, 11)),
            ("stage1", (2, 23, 0), (2, 0, 23)),
            ("stage4", (1, 2, 0), (1, 0, 2)),
        ):
            page.get_by_role("radio", name=re.compile(stage)).check()
            page.locator(".facts", has_text=f"{stage}:").wait_for()
            point(page, maps, stage, *one, click=True)
            point(page, maps, stage, *other)
            assert abs(value(page) - cosine(maps, stage, one, other)) <= 0.01
            page.keyboard.press("Escape")
        assert not page.faults
        assert page.asked == [f"file://{page_file}"]
