"""Every block of every page runs; what a page says it prints and shows is what it prints and draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ..blocks import blocks, check_python, check_shell, difference, same_line
from .pages import DOCS, agrees, pictures, run_page, workshop, written_pages

RUN = [page for page in written_pages() if any(block.language in ("sh", "python") for block in blocks(page))]


# Their commands start a cluster, or convert networks: ten to twenty seconds each, and tested where they live.
LONG = (
    "tasks/ray.md", "tasks/prepare.md", "tasks/export.md", "tasks/export-onnx.md", "tasks/export-openvino.md",
    "tasks/export-torch.md",
)  # fmt: skip


def marked(page: Path) -> Any:
    name = str(page.relative_to(DOCS))
    return pytest.param(page, id=name, marks=[pytest.mark.nightly] if name in LONG else [])


@pytest.mark.slow
@pytest.mark.parametrize("page", map(marked, RUN))
def test_page(page, tmp_path):
    """A command that fails, an output that nobody gets or a picture of something else misleads who follows the page."""
    with workshop(tmp_path):
        for block, printed in run_page(page, tmp_path):
            if block.output is not None:
                found = difference(block.output, printed)
                assert not found, f"{block.place}: {found}\n`python -m tests.docs.pages {os.path.relpath(page)}`"
        for shown, drawn in pictures(page):
            assert agrees(shown, tmp_path / drawn), f"{shown.name} is not what the page draws as {drawn}"


@pytest.mark.parametrize("page", LONG)
def test_long_page(page):
    """By day: its commands and options exist, its names are there."""
    namespace = {}
    for block in blocks(DOCS / page):
        if block.language == "sh":
            check_shell(block)
        elif block.language == "python":
            try:
                check_python(block, namespace)
            except ModuleNotFoundError as error:
                if str(error.name).startswith("hierax"):
                    raise
                pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize(
    ("wanted", "got", "same"),
    [
        ("loss 1.00", "loss 1.01", True),
        ("loss 1.00", "loss 1.10", False),
        ("16 of 16", "15 of 16", False),
        ("... 3 files", "a.jpg: 3 files", True),
        ("lr 5.0e-05 x", "lr 5.0e-05 y", False),
    ],
)
def test_lines(wanted, got, same):
    """A comparison that lets a wrong count pass would let the pages rot."""
    assert same_line(wanted, got) == same


def test_difference__missing_line():
    """An output that lacks what the page promises is a difference; `...` stands for any lines."""
    assert difference("a\nb\n", "a\n")
    assert not difference("a\n...\nd\n", "a\nb\nc\nd\n")


@pytest.mark.slow
@pytest.mark.parity
def test_convert__lines_for_timm_and_meta(tmp_path):
    """The lines of the page on conversions that no block runs."""
    import torch

    import hierax

    from ..peers import peer

    timm, hiera = peer("timm"), peer("hiera")
    predictor, x = hierax.load(), torch.randn(1, 3, 96, 96)
    predictor.save(tmp_path / "for_timm", format="timm")
    predictor.save(tmp_path / "x.pth", format="meta")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'for_timm'}", pretrained=True).eval()
    file = torch.load(tmp_path / "x.pth", weights_only=True)
    metas = hiera.Hiera(**file["config"]).eval()
    metas.load_state_dict(file["model_state"])
    with torch.inference_mode():
        wanted = predictor.model(x)
        assert torch.allclose(theirs(x), wanted, atol=1e-4)
        assert torch.allclose(metas(x), wanted.softmax(-1), atol=1e-5) or torch.allclose(metas(x), wanted, atol=1e-4)
