"""What is written where something lies already, and what goes along: nobody's files are lost, nor the licence."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import pytest
import torch

import hierax
from hierax import registry
from hierax.errors import CheckpointError
from hierax.weights.files import read, write_safetensors
from hierax.weights.formats import FORMAT_NAMES
from hierax.weights.network import to_module
from hierax.weights.understand import read_weights
from hierax.weights.write import write_weights

from ..members import MEMBERS, tiny_sam2, weights_of
from .refused import REFUSED

__all__ = ["tiny_sam2"]


def member_for(to: str) -> str:
    """A network that a format holds."""
    return "SAM 2 trunk" if to == "sam2" else "Hiera"


@pytest.mark.usefixtures("tiny_sam2")
@pytest.mark.parametrize("to", FORMAT_NAMES)
def test_save__again_over_an_earlier_save(to: str, tmp_path: Path) -> None:
    """Every epoch's save goes into one folder; refusing the second would stop a training script."""
    weights = weights_of(MEMBERS[member_for(to)])
    first = write_weights(weights, tmp_path / "x", to=to)
    changed = {**weights.tensors, "patch_embed.proj.bias": weights.tensors["patch_embed.proj.bias"] + 1}
    again = hierax.Predictor(to_module(weights), weights)
    again.model.load_state_dict(changed, strict=False)
    assert again.save(tmp_path / "x", format=to) == first
    assert (read_weights(first).tensors["patch_embed.proj.bias"] == changed["patch_embed.proj.bias"]).all()


@pytest.mark.parametrize("to", ["hierax", "transformers"])
def test_save__somebodys_readme_stays(to: str, tmp_path: Path) -> None:
    """A card that a person wrote is work that cannot be downloaded again; ours is renewed."""
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntags: [birds]\n---\nMy notes.\n")
    (folder / "notes.txt").write_text("mine")
    predictor = hierax.Predictor(hierax.load().model, hierax.load().weights())
    for _ in range(2):
        predictor.save(folder, format=to)
        assert "My notes." in (folder / "README.md").read_text()
    assert (folder / "notes.txt").read_text() == "mine"
    assert hierax.load(folder).labels == predictor.labels
    (folder / "README.md").unlink()
    predictor.save(folder, format=to)
    predictor.card = predictor.weights().with_card(license="cc0-1.0").card
    predictor.save(folder, format=to)
    assert "license: cc0-1.0" in (folder / "README.md").read_text()


@pytest.mark.parametrize(("to", "name"), [("hierax", "config.json"), ("transformers", "model.safetensors"), ("birder", "custom.pt"), ("meta", "custom.pth")])  # fmt: skip
def test_save__other_files_are_in_the_way(to: str, name: str, tmp_path: Path) -> None:
    """Another model's weights would be gone for ever; nothing at all may be written then."""
    (tmp_path / name).write_bytes(b"{}")
    weights = weights_of(MEMBERS["Hiera"])
    with pytest.raises(CheckpointError, match=name):
        write_weights(weights, tmp_path, to=to)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"{}"


def test_save__companions_of_a_file_are_files_too(tmp_path: Path) -> None:
    """A `.safetensors` for timm writes its settings beside it, where a JSON file of the same name may lie."""
    (tmp_path / "x.json").write_text('{"mine": 1}')
    with pytest.raises(CheckpointError, match=r"x\.json"):
        hierax.load().save(tmp_path / "x.safetensors", format="timm")
    assert (tmp_path / "x.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.usefixtures("tiny_sam2")
@pytest.mark.parametrize("suffix", ["", ".safetensors"])
@pytest.mark.parametrize("to", FORMAT_NAMES)
def test_licence__goes_along(to: str, suffix: str, tmp_path: Path) -> None:
    """A conversion that drops the licence turns weights for research into weights for anything."""
    if suffix and to in ("hierax", "transformers", "sam2"):
        pytest.skip("these are folders, or torch files")
    member = member_for(to)
    assert (member, to) not in REFUSED
    known = {"license": "cc-by-nc-4.0", "commercial": False, "dataset": "birds", "base_model": "a/b", "citation": "@x"}
    path = write_weights(weights_of(MEMBERS[member]).with_card(**known), tmp_path / f"x{suffix}", to=to)
    card = read_weights(path).card
    assert {key: getattr(card, key) for key in known} == known
    again = hierax.convert(path, tmp_path / "copy", to="hierax")
    assert hierax.describe(again).license == "cc-by-nc-4.0"
    if to in ("hierax", "transformers"):
        assert "license: cc-by-nc-4.0" in (path / "README.md").read_text()


def test_backup__half_a_copy_goes(tmp_path, monkeypatch):
    """Where links are impossible and the disk fills up, half a `.bak` left behind would stop every later attempt."""
    file = tmp_path / "x.pt"
    file.write_bytes(b"whole")

    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    def full(_: Path, to: Path) -> None:
        to.write_bytes(b"wh")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", no_link)
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(CheckpointError, match="No space left"), registry._kept(file):
        pytest.fail("the file would be replaced without a copy")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    assert file.read_bytes() == b"whole"


def test_readme__names_without_utf8(tmp_path):
    """A lone surrogate, as in the name of a file that is no UTF-8, must not end the saving of a trained network."""
    weights = weights_of(MEMBERS["Hiera"])
    odd = dataclasses.replace(
        weights, card=dataclasses.replace(weights.card, dataset="photos-\udcff", name="net-\udcff")
    )
    folder = write_weights(odd, tmp_path / "net", to="hierax")
    assert "\\udcff" in (folder / "README.md").read_text("utf-8") or hierax.load(folder).card.name


def test_safetensors__one_element_of_a_stride(tmp_path):
    """A slice of one element counts as contiguous with a stride of two; seen as bytes it is an error of torch's."""
    tensors = {"part": torch.arange(2.0)[::2], "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3)[:, :1][1:]}
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    found = read(path).tensors
    assert {key: value.tolist() for key, value in found.items()} == {"part": [0.0], "half": [[3.0]]}
