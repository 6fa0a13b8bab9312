"""The viewer's page in a real browser, opened from the disk: its numbers are NumPy's, and keys do all that a mouse does."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.visualize.maps import pca_maps

from ..browsers import PHONE, browser, opened, pictured, violations

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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page__is_accessible(page_file, chromium, scheme):
    """A control without a name, or letters that are too faint, shut people out; on a phone nothing may be cut off."""
    with at(page_file, chromium, color_scheme=scheme, viewport=PHONE) as page:
        ready(page)
        page.get_by_role("button", name="Pin").click()
        assert violations(page) == []
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= PHONE["width"]
        page.set_viewport_size({"width": 1300, "height": 900})
        assert violations(page) == []
        assert not page.faults


def test_keys__do_all(page_file, chromium, maps, tmp_path):
    """What only a mouse can do, many people cannot: the probe, pin, stage, layer, lines, neighbours and export."""
    with at(page_file, chromium) as page:
        ready(page)
        first = page.locator("canvas[role=application]").first
        while not first.evaluate("(canvas) => canvas === document.activeElement"):
            page.keyboard.press("Tab")
        for key in ("Home", "PageUp", "ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowRight"):
            page.keyboard.press(key)
        settled(page)
        assert page.locator("p.probe").inner_text().startswith("A ring.png, row 2, column 1, norm")
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")  # the next image, where the reader now is
        for key in ("End", "PageDown", "ArrowUp"):
            page.keyboard.press(key)
        assert abs(value(page) - cosine(maps, "stage3", (0, 2, 1), (1, 4, 5))) <= 0.01
        assert "B dots.png, row 4, column 5" in page.locator("p.against").inner_text()
        page.locator("[role=status]", has_text="with B dots.png, row 4, column 5").wait_for(state="attached")
        page.keyboard.press("Escape")
        page.keyboard.press("n")
        settled(page)
        page.keyboard.press("2")
        page.locator(".facts", has_text="stage2:").wait_for()
        with page.expect_download() as found:
            page.keyboard.press("e")
        found.value.save_as(tmp_path / "view.png")
        assert found.value.suggested_filename == "hierax-stage2-similarity.png"
        with Image.open(tmp_path / "view.png") as picture:
            assert picture.width > 1700
        # What stands around the pictures is reached by Tab and worked by keys alone.
        page.evaluate("document.activeElement.blur()")
        reached, pressed = set(), {"windows": " ", "units": " ", "cells": " ", "fixed": " ", "others": " "}
        for _ in range(60):
            page.keyboard.press("Tab")
            name = page.evaluate("(document.activeElement.name || document.activeElement.textContent).split('-')[0]")
            if name in pressed and name not in reached:
                page.keyboard.press(pressed[name])
            if name == "layer" and name not in reached:
                page.keyboard.press("ArrowRight")
            reached.add(name)
        assert {"stage", "layer", "nearest", "Pin", "Export PNG", *pressed} <= reached
        state = {name: page.locator(f"input[name={name}]").is_checked() for name in pressed}
        assert all(state.values())
        assert page.get_by_role("radio", name="PCA").is_checked()
        assert "Equal colours are equal features" in page.locator("p.scale").inner_text()
        assert not page.faults


def test_nearest__are_those_of_numpy(page_file, chromium, maps):
    """Ranks by an unscaled product, or with the probe itself among them, name other cells."""
    with at(page_file, chromium) as page:
        ready(page)
        point(page, maps, "stage3", 1, 2, 2)
        settled(page)
        found = [row.split("\t") for row in page.locator("tbody").inner_text().splitlines() if "\t" in row]
        units = np.moveaxis(maps["stage3"], 1, -1)
        units = units / np.linalg.norm(units, axis=-1, keepdims=True)
        all_of_them = (units @ units[1, 2, 2]).astype(np.float64)
        all_of_them[1, 2, 2] = -2
        best = np.sort(all_of_them.ravel())[::-1][:5]
        assert len(found) == 5
        for (_, cell, cosine), wanted in zip(found, best, strict=True):
            image, row, column = re.fullmatch(r"([A-C]) (\d+), (\d+)", cell).groups()
            assert abs(float(cosine) - wanted) <= 0.01
            assert abs(all_of_them["ABC".index(image), int(row), int(column)] - wanted) <= 0.01
        page.get_by_role("checkbox", name="of other images only").check()
        settled(page)
        assert "B" not in page.locator("tbody").inner_text()


def drawn(page, image=0) -> np.ndarray:
    """Pixels of an image's canvas."""
    settled(page)
    address = page.locator("canvas[role=application]").nth(image).evaluate("(canvas) => canvas.toDataURL()")
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_layers__colours_norms_and_lines(page_file, chromium, maps):
    """Colours per image, a transposed grid or lines off the windows would show what is not there."""
    wanted = pca_maps(maps)["stage2"][2]
    with at(page_file, chromium, viewport={"width": 1400, "height": 900}) as page:
        ready(page)
        page.get_by_role("radio", name=re.compile("stage2")).check()
        page.locator(".facts", has_text="stage2:").wait_for()
        for name in ("PCA", "norms"):
            page.get_by_role("radio", name=name).check()
            page.get_by_role("checkbox", name="digits").uncheck()
            page.locator("input[name=nearest]").fill("1")
            assert page.get_by_label("Over the image").input_value() == "100"  # the image would tint the colours
            seen = drawn(page, 2)
            side = seen.shape[0] / 12
            middle = ((np.arange(12) + 0.5) * side).astype(int)
            cells = seen[middle][:, middle]
            if name == "PCA":
                assert (np.abs(cells - wanted).max(-1) <= 2).mean() > 0.95  # all but the marks
            else:
                norms = np.linalg.norm(maps["stage2"][2], axis=0)
                assert np.corrcoef(cells[..., 1].ravel(), norms.ravel())[0, 1] > 0.9
        before = drawn(page, 2)
        page.get_by_role("checkbox", name="windows").check()
        changed = (np.abs(drawn(page, 2) - before).max(-1) > 0).mean(0)  # by column
        columns = np.flatnonzero(changed > 0.9) / side
        assert len(columns)
        assert (np.abs(columns / 4 - np.round(columns / 4)) * 4 * side <= 2.1).all()  # windows of 4 x 4 cells


def test_names__are_text(tmp_path, chromium):
    """A file's name that runs as a script, or ends the page's data, owns whoever opens the page."""
    name = "<img src=x onerror=document.title='owned'>&\"'.png"
    bad = "<svg onload=document.title='owned'>.jpg"
    (tmp_path / name).write_bytes((EXAMPLES / "ring.png").read_bytes())
    (tmp_path / bad).write_bytes(b"</script><script>document.title='owned'</script>")
    page_file = hierax.view(None, [tmp_path / name, tmp_path / bad], tmp_path / "out.html", stages=["stage4"])
    with at(page_file, chromium) as page:
        ready(page)
        assert page.title() == "hierax view"
        assert name in page.locator("figcaption").inner_text()
        assert bad in page.locator("ul.missing").inner_text()
        assert str(tmp_path) not in page_file.read_text()
        assert not page.faults
        assert len(page.asked) == 1


def test_pictures_of_the_docs(page_file, chromium, maps):
    """The pages show the viewer as it is."""
    with at(page_file, chromium, viewport={"width": 1280, "height": 720}) as page:
        ready(page)
        point(page, maps, "stage3", 0, 2, 4, click=True)
        point(page, maps, "stage3", 2, 2, 1)
        settled(page)
        pictured(page, "view-cosines.png")
    with at(page_file, chromium, viewport={"width": 1280, "height": 720}, color_scheme="dark") as page:
        ready(page)
        page.get_by_role("radio", name=re.compile("stage1")).check()
        page.get_by_role("radio", name="PCA").check()
        page.get_by_role("checkbox", name="mask units").check()
        page.locator(".facts", has_text="stage1:").wait_for()
        point(page, maps, "stage1", 2, 9, 12)
        settled(page)
        pictured(page, "view-colours-dark.png")
