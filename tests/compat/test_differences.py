"""Where hierax differs from the packages that people come from, on purpose: both sides' values, and the page's table."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
import hierax.compat.birder as birder
import hierax.compat.transformers as transformers
from hierax.compat.birder.data.datasets.directory import class_to_idx_from_paths
from hierax.compat.birder.results.classification import Results
from hierax.data.datasets.folders import class_folders
from hierax.data.decode import decode_image
from hierax.errors import CheckpointError, InputError, UnknownNameError

from ..blocks import ROOT
from ..members import loud, photograph
from ..peer_files import real_birder, write_birder_pt, write_hf_folder
from ..peers import hf_config, hf_sam2, meta, peer
from ..tolerance import FP32, LOUD, distance
from .outputs import images

pytestmark = pytest.mark.parity
PAGE = ROOT / "docs" / "tasks" / "switch.md"
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1)}
DEPTHS, DIM = (1, 2, 3, 1), 16
ROWS: dict[str, Callable[[Path], None]] = {}


def row(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """The test of one row of the page's table, by the text of its first cell."""

    def keep(test: Callable[[Path], None]) -> Callable[[Path], None]:
        ROWS[name] = test
        return test

    return keep


def colour(image: Image.Image | Path | str) -> tuple[int, ...]:
    """The first pixel as hierax sees it."""
    return tuple(int(value) for value in decode_image(image)[0, 0])


def by_birder(image: Image.Image) -> list[float]:
    """The first pixel through birder's transform, in 0..1."""
    transform = peer("birder.data.transforms.classification").inference_preset((2, 2), PLAIN)
    return [round(float(value), 3) for value in transform(image)[:, 0, 0]]


def by_transformers(image: Image.Image) -> list[float]:
    """The first pixel through transformers' image processor, in 0..1."""
    processor = peer("transformers").BitImageProcessor(
        size={"height": 2, "width": 2}, do_center_crop=False, do_normalize=False
    )
    pixels = processor(image, return_tensors="pt").pixel_values
    return [round(float(value), 3) for value in pixels[0, :, 0, 0]]


def by_timm(path: Path) -> Image.Image:
    """The one image of a folder through timm's data set."""
    peer("timm")
    from timm.data import ImageDataset

    folder = path.with_suffix("") / "class"
    folder.mkdir(parents=True)
    (folder / path.name).write_bytes(path.read_bytes())
    return ImageDataset(str(folder.parent))[0][0]


@row("transparent pixels")
def alpha(place: Path) -> None:
    """White, as a person sees them: not the colour that a painting program left behind them."""
    hidden_red = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    hidden_red.save(place / "a.png")
    assert colour(place / "a.png") == (255, 255, 255)
    assert by_timm(place / "a.png").getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(RuntimeError, match="size of tensor"):
        by_birder(hidden_red)
    assert birder.classification_transform((2, 2), PLAIN)(hidden_red)[:, 0, 0].tolist() == [1, 1, 1]
    if sys.version_info >= (3, 11):  # the transformers that Python 3.10 can have drops alpha
        assert by_transformers(hidden_red) == [1, 1, 1]


@row("orientation tag (EXIF)")
def exif(place: Path) -> None:
    """Files are turned upright, but through the compatible functions as their package does."""
    image = Image.new("RGB", (40, 20))
    tag = image.getexif()
    tag[0x0112] = 6
    image.save(place / "e.jpg", exif=tag)
    assert decode_image(place / "e.jpg").shape == (40, 20, 3)
    assert by_timm(place / "e.jpg").size == Image.open(place / "e.jpg").size == (40, 20)
    peer("transformers")
    from transformers.image_utils import load_image

    assert load_image(str(place / "e.jpg")).size == (20, 40)
    seen: list[Any] = []
    network, note = birder_network(place), lambda image: seen.append(image.size) or torch.zeros(3, 64, 64)
    from hierax.compat.birder.inference.classification import infer_image

    infer_image(network[1], place / "e.jpg", note)
    peer("birder.inference.classification").infer_image(network[0], str(place / "e.jpg"), note)
    assert seen == [(40, 20), (40, 20)]


def birder_network(place: Path) -> tuple[Any, Any]:
    """birder's network and ours of one file."""
    small = {"depths": list(DEPTHS), "embed_dim": DIM, "num_heads": 1}
    module = real_birder("hiera_tiny", 4, (64, 64), **small)
    path = write_birder_pt(module, place / "net", size=(64, 64), classes=4, config=small)
    return module.requires_grad_(False), birder.load_pretrained_model("hiera_tiny", dst=path, inference=True)[0]


@row("palette GIF and PNG")
def palette(place: Path) -> None:
    """Colours, where birder takes the number of the colour for a grey."""
    image = Image.new("P", (2, 2), 5)
    image.putpalette([0] * 15 + [255, 0, 0])
    image.save(place / "p.png")
    assert colour(place / "p.png") == (255, 0, 0)
    assert by_birder(image) == [0.02, 0.02, 0.02]
    assert birder.classification_transform((2, 2), PLAIN)(image)[:, 0, 0].tolist() == [1, 0, 0]
    assert by_transformers(image) == [1, 0, 0]
    assert by_timm(place / "p.png").getpixel((0, 0)) == (255, 0, 0)


@row("16 bits")
def sixteen_bits(place: Path) -> None:
    """Middle grey stays middle grey, where Pillow's conversion makes it white."""
    grey = Image.fromarray(np.full((2, 2), 32768, np.uint16))
    grey.save(place / "i.png")
    assert colour(place / "i.png") == (128, 128, 128)
    assert by_timm(place / "i.png").getpixel((0, 0)) == (255, 255, 255)
    assert by_transformers(grey) == [1, 1, 1]
    assert by_birder(grey) == [0.5, 0.5, 0.5]


@row("damaged images")
def damaged(place: Path) -> None:
    """Refused, whatever a global switch of Pillow says: half an image must not become a vector."""
    from PIL import ImageFile

    photograph(300, 200).save(place / "whole.jpg")
    (place / "cut.jpg").write_bytes((place / "whole.jpg").read_bytes()[:3000])
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        assert by_timm(place / "cut.jpg").size == (300, 200)
        with pytest.raises(InputError):
            decode_image(place / "cut.jpg")
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


@row("maps of `HieraBackbone`")
def backbone(place: Path) -> None:
    """In image order; theirs are scrambled."""
    model = loud(peer("transformers").HieraModel(hf_config((64, 64), DEPTHS, DIM)))
    folder = write_hf_folder(model, place / "m")
    x = images(64, 64)
    with torch.no_grad():
        true = model(x, output_hidden_states=True).reshaped_hidden_states[-1].permute(0, 3, 1, 2)
        theirs = peer("transformers").HieraBackbone.from_pretrained(folder).eval()(x).feature_maps[-1]
        ours = transformers.HieraBackbone.from_pretrained(folder)(x).feature_maps[-1]
        matching = transformers.HieraBackbone.from_pretrained(folder, match_transformers=True)(x).feature_maps[-1]
    assert distance(ours, true) <= FP32
    assert distance(matching, theirs) <= FP32
    assert distance(theirs, true) > LOUD * FP32


@row("input size")
def sizes(place: Path) -> None:
    """Any multiple of 32, where Meta's network and transformers' backbone take the trained size alone."""
    x = images(96, 64)
    reference = meta()
    with pytest.raises((RuntimeError, AssertionError)):
        reference.module(x)
    assert reference.encoder()(x).shape == (2, 5)
    theirs = peer("transformers").HieraBackbone(hf_config((64, 64), DEPTHS, DIM)).eval()
    with pytest.raises(RuntimeError, match="size of tensor"):
        theirs(x)
    mine = transformers.HieraBackbone.from_pretrained(write_hf_folder(theirs, place / "b"))
    assert mine(x).feature_maps[0].shape == (2, 128, 3, 2)


@row("`Sam2VisionModel` of a whole SAM 2")
def whole_sam2(place: Path) -> None:
    """The encoder is found inside, where transformers goes on with random weights."""
    package = peer("transformers")
    vision = package.Sam2VisionConfig(
        backbone_config=hf_sam2().module.config, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32
    )
    whole = loud(package.Sam2Model(package.Sam2Config(vision_config=vision.to_dict())))
    folder, x = write_hf_folder(whole, place / "sam2"), images(64, 64)
    _, report = package.Sam2VisionModel.from_pretrained(folder, config=vision, output_loading_info=True)
    assert {"backbone.pos_embed", "neck.convs.0.weight"} <= set(report["missing_keys"])
    with torch.no_grad():
        mine = transformers.Sam2VisionModel.from_pretrained(folder)(x)
        assert distance(mine.fpn_hidden_states[0], whole.vision_encoder(x).fpn_hidden_states[0]) <= FP32


@row("`output_attentions` of SAM 2")
def attentions(place: Path) -> None:
    """Refused: what transformers gives under that name are outputs of the layers, (windows, h, w, c)."""
    model = hf_sam2().module
    model.set_attn_implementation("eager")
    with torch.no_grad():
        first = model(images(64, 64), output_attentions=True).attentions[0]
    assert first.shape[-1] == 16  # channels, where probabilities would have a row's 64 keys
    with pytest.raises(InputError, match="not probabilities"):
        transformers.Sam2HieraDetModel.from_pretrained(write_hf_folder(model, place / "m"))(
            images(64, 64), output_attentions=True
        )


@row("a misspelt option of `from_pretrained`")
def misspelt(place: Path) -> None:
    """Refused with the nearest name, where transformers' configs take no notice."""
    config = hf_config((64, 64), DEPTHS, DIM)
    config.save_pretrained(place)
    assert peer("transformers").AutoConfig.from_pretrained(place, out_featurs=["stage1"]).out_features == ["stage4"]
    with pytest.raises(UnknownNameError, match="'out_features'"):
        transformers.AutoConfig.from_pretrained(place, out_featurs=["stage1"])


@row("classes in folders 1, 2, 10")
def folders(place: Path) -> None:
    """By value, as timm; as text through the compatible function, as birder."""
    for name in ("1", "2", "10"):
        (place / "n" / name).mkdir(parents=True)
        photograph(40, 40).save(place / "n" / name / "a.png")
    assert class_folders(place / "n", "train").classes == ["1", "2", "10"]
    as_text = {"1": 0, "10": 1, "2": 2}
    assert peer("birder.data.datasets.directory").class_to_idx_from_paths([str(place / "n")]) == as_text
    assert class_to_idx_from_paths([str(place / "n")]) == as_text
    peer("timm")
    from timm.data import create_dataset

    assert create_dataset("", str(place / "n")).reader.class_to_idx == {"1": 0, "2": 1, "10": 2}


@row("`most_confused_pairs`")
def confused(place: Path) -> None:
    """Pairs that were mixed up alone, where birder fills up with a class and itself, at -1."""
    given = (["a", "b", "c"], [0, 1, 1], ["x", "y"], np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], np.float32))
    theirs = peer("birder.results.classification").Results(*given).most_confused_pairs()
    assert sorted(theirs["amount"].to_list()) in ([-1, -1, 1], [1])
    assert Results(*given).most_confused_pairs()["amount"].to_list() == [1]


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@row("code in a checkpoint")
def code(place: Path) -> None:
    """Never run, where `torch.load(..., weights_only=False)` runs it."""
    torch.save({"state": Harmful(str(place / "ran"))}, place / "x.pth")
    with pytest.raises(CheckpointError):
        hierax.load(place / "x.pth", name="hiera_tiny_224")
    assert not (place / "ran").exists()
    torch.load(place / "x.pth", weights_only=False)
    assert (place / "ran").exists()


@row("licence")
def licence(place: Path) -> None:
    """Kept through every conversion; transformers' own copy has none."""
    config = hf_config((64, 64), DEPTHS, DIM)
    folder = write_hf_folder(loud(peer("transformers").HieraModel(config)), place / "m")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    hierax.convert(folder, place / "ours", to="transformers")
    assert hierax.describe(place / "ours").license == "cc-by-nc-4.0"
    peer("transformers").HieraModel.from_pretrained(folder).save_pretrained(place / "theirs")
    assert hierax.describe(place / "theirs").license is None


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row whose values are no longer so misleads whoever switches."""
    caplog.set_level(logging.CRITICAL)
    ROWS[name](tmp_path)


def test_table__is_what_is_tested() -> None:
    """A row without a test is a claim; a test without a row tells nobody."""
    section = PAGE.read_text("utf-8").partition("## Differences by design")[2].partition("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1].strip() for line in section.splitlines() if line.startswith("|")]
    assert cells[2:] == list(ROWS)
