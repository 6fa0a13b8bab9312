"""A real browser for pages: Debian's Chromium, driven by Playwright; tests skip by name where either is missing."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Without a network Chromium's own services would try to reach theirs all the time.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]  # fmt: skip
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
MOST_BYTES = 200_000  # of a picture of the docs
PHONE = {"width": 390, "height": 844}


@contextmanager
def browser() -> Iterator[Any]:
    """One browser, for all tests of a module."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no {' or '.join(NAMES)} is installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A page in a context of its own; `page.asked` are the addresses that it asked for, `page.faults` its errors."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: page.faults.append(said.text) if said.type in ("error", "warning") else None)
    page.goto(address)
    yield page
    context.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds that is serious or critical, in a line each."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def pictured(page: Any, name: str) -> None:
    """Hold a screenshot against the docs: HIERAX_PICTURES=1 writes it there, for somebody to look at.

    Without, the committed picture must be there, of the same width, and small.
    """
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    if os.environ.get("HIERAX_PICTURES"):
        shot.quantize(256, kmeans=4, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)
    with Image.open(PICTURES / name) as kept:
        assert kept.width == shot.width
    assert (PICTURES / name).stat().st_size < MOST_BYTES
