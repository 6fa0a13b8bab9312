"""The site holds together: every page can be reached, every link leads somewhere, the build has no warning."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..blocks import ROOT
from .pages import DOCS

PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
_FENCES = re.compile(r"^(`{3,}).*?^\1 *$", re.M | re.S)
_LINK = re.compile(r'\]\(([^)\s]+)(?: "[^"]*")?\)')
_TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```", re.S)


def prose(page: Path) -> str:
    """A page without its code."""
    return _FENCES.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site and the hosts of repositories make them."""
    headings = re.findall(r"^#{1,3} (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("*.md"))], ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """A dead link is a page that nobody wrote; an address without https can be changed on its way."""
    for target in _LINK.findall(prose(page)):
        if "://" in target:
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {file.name} has no heading {anchor}; it has {anchors(file)}"


def test_every_page_is_in_a_table_of_contents():
    """A page in no toctree cannot be found."""
    named = set()
    for page in PAGES:
        for tree in _TOCTREE.findall(page.read_text(encoding="utf-8")):
            for line in tree.splitlines():
                if line and not line.startswith(":"):
                    named |= {found.resolve() for found in page.parent.glob(f"{line}.md")}
    missing = {str(page.relative_to(DOCS)) for page in PAGES} - {str(page.relative_to(DOCS)) for page in named}
    assert missing == {"index.md"}


def test_pictures_are_used_and_small():
    """A picture that no page shows is dead weight; large ones make every clone slow."""
    shown = {
        name for page in [*PAGES, ROOT / "README.md"] for name in re.findall(r"[\w-]+\.png", page.read_text("utf-8"))
    }
    for picture in [*(DOCS / "pictures").iterdir(), *(DOCS / "tutorials").glob("*.png")]:
        assert picture.name in shown, picture
        assert picture.stat().st_size < 400_000, picture


def test_pages_are_ascii():
    """Quotes and dashes that look like others break commands that are copied."""
    for page in PAGES:
        assert page.read_text(encoding="utf-8").isascii(), page


@pytest.mark.slow
def test_build(tmp_path):
    """A warning of the generator is a reference that leads nowhere, or a docstring that cannot be read."""
    missing = [
        name for name in ("sphinx", "myst_parser", "furo", "sphinx_copybutton") if not importlib.util.find_spec(name)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: dependency group docs, Python 3.11 and later")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "tasks" / "embed.html").exists()
    outside = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"')
    for page in tmp_path.rglob("*.html"):
        assert not outside.findall(page.read_text("utf-8")), f"{page.name} needs a network to be shown"
