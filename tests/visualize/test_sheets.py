"""Sheets of images: the numbers in them are checked, not their looks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import ARCHITECTURES, DecoderConfig, PreprocessSpec
from hierax.errors import InputError
from hierax.model.mae import MaskedAutoencoder
from hierax.visualize.reconstruction import reconstruction
from hierax.visualize.sheets import (
    PAPER,
    contact_sheet,
    feature_sheet,
    masked_triptych,
    stack_sheets,
    write_picture,
)


def test_feature_sheet__cells_are_enlarged_exactly():
    """Smooth scaling would mix neighbouring cells into colours that no cell has."""
    cells = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    sheet = feature_sheet(np.zeros((64, 64, 3), np.uint8), {"stage1": cells})
    panel = sheet[12 : 12 + 224, 12 + 224 + 12 : 12 + 224 + 12 + 224]
    np.testing.assert_array_equal(panel, cells.repeat(112, 0).repeat(112, 1))


def test_feature_sheet__stretched_images():
    """A panel of zero pixels, or one sized by the image itself, would break on extreme shapes."""
    maps = {"stage1": np.zeros((3, 5, 3), np.uint8)}
    sheets = [feature_sheet(np.zeros((h, w, 3), np.uint8), maps) for h, w in ((1, 900), (900, 1), (60, 80))]
    assert max(len(sheet) for sheet in sheets) < 350
    stack = stack_sheets(sheets)
    assert stack.shape == (sum(len(sheet) for sheet in sheets), max(sheet.shape[1] for sheet in sheets), 3)
    with pytest.raises(InputError):
        stack_sheets([])


@pytest.fixture(scope="module")
def masked():
    """A tiny masked autoencoder, an image that is not square, and its output."""
    torch.manual_seed(0)
    config = dataclasses.replace(
        ARCHITECTURES["hiera_nano_96"],
        input_size=(64, 96),
        embed_dim=8,
        depths=(1, 1, 1, 1),
        q_pool=2,
        head="pool",
        decoder=DecoderConfig(dim=16, depth=1, num_heads=2),
    )
    model = MaskedAutoencoder(config).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        return model, x, model(x, visible=torch.tensor([[1, 4]]))


def test_reconstruction__exact_for_a_perfect_prediction(masked):
    """Wrong patch order, statistics, channel order or variance would not give the image back."""
    model, x, output = masked
    rebuilt, _ = reconstruction(
        x[0], output.visible[0], output.target[0], pixels=model.pixels, unit=model.unit, normalized=True
    )
    np.testing.assert_allclose(rebuilt, x[0].numpy(), atol=1e-5)


def test_reconstruction__places_units(masked):
    """Visible pixels stay; a prediction of zeros becomes each hidden square's own mean."""
    model, x, output = masked
    rebuilt, _ = reconstruction(
        x[0], output.visible[0], torch.zeros_like(output.target[0]), pixels=model.pixels, unit=model.unit
    )
    image = x[0].double().numpy()
    np.testing.assert_array_equal(rebuilt[:, :32, 32:64], image[:, :32, 32:64])
    np.testing.assert_array_equal(rebuilt[:, 32:, 32:64], image[:, 32:, 32:64])
    np.testing.assert_allclose(rebuilt[:, :16, :16], image[:, :16, :16].mean(), atol=1e-6)


def test_reconstruction__plain_targets(masked):
    """Targets that were not normalised must not be scaled again."""
    model, x, output = masked
    plain = MaskedAutoencoder(dataclasses.replace(model.config, decoder=DecoderConfig(normalize_target=False)))
    target = plain.targets(x).take_along_dim(model.masked_tokens(output.visible, (64, 96))[..., None], dim=1)
    rebuilt, _ = reconstruction(
        x[0], output.visible[0], target[0], pixels=model.pixels, unit=model.unit, normalized=False
    )
    np.testing.assert_allclose(rebuilt, x[0].numpy(), atol=1e-6)


def test_masked_triptych__panels(masked, monkeypatch):
    """The first panel undoes mean and std; the second hides exactly the units that were not kept."""
    model, _, output = masked
    spec = PreprocessSpec()
    rgb = np.full((64, 96, 3), (200, 100, 50), np.uint8)
    rgb[:32] = (20, 120, 220)
    image = ((rgb / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    monkeypatch.setattr("hierax.visualize.sheets._PANEL", 96)
    shape = {"pixels": model.pixels, "unit": model.unit}
    rebuilt, visible = reconstruction(image, output.visible[0], output.prediction[0], **shape)
    sheet = masked_triptych(image, rebuilt, visible, spec, normalized=True)
    np.testing.assert_array_equal(sheet[12 : 12 + 64, 12 : 12 + 96], rgb)
    seen = sheet[12 : 12 + 64, 12 + 96 + 12 : 12 + 96 + 12 + 96]
    np.testing.assert_array_equal(seen[:, 32:64], rgb[:, 32:64])
    assert (seen[:, :32] == 205).all()
    assert (seen[:, 64:] == 205).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"visible": np.array([6])}, "0..5"),
        ({"visible": np.array([[1, 4]])}, "one image"),
        ({"image": np.zeros((3, 60, 96))}, "whole mask units"),
        ({"prediction": np.zeros((3, 768))}, "hidden tokens"),
    ],
)
def test_reconstruction__refuses(masked, change, word):
    """Shapes that do not belong together would be drawn in the wrong places."""
    model, x, output = masked
    arguments = {"image": x[0], "visible": output.visible[0], "prediction": output.prediction[0], **change}
    with pytest.raises(InputError, match=word):
        reconstruction(**arguments, pixels=model.pixels, unit=model.unit)


def test_contact_sheet__holds_every_image():
    """A grid one row short would drop the last images."""
    colors = [(k * 20 + 10, 0, 255 - k * 20) for k in range(11)]
    images = [np.full((30, 30, 3), color, np.uint8) for color in colors]
    sheet = contact_sheet(images, ["a very long caption " * 9 + "\nsecond"] * 11)
    present = {tuple(color) for color in sheet.reshape(-1, 3)}
    assert set(colors) <= present
    assert PAPER in present
    with pytest.raises(InputError, match="one caption"):
        contact_sheet(images, ["x"])
    with pytest.raises(InputError):
        contact_sheet([], [])


def test_write_picture__whole_or_not_at_all(tmp_path):
    """A suffix in capitals must not cost the picture; an unknown one must leave nothing behind."""
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_picture(picture, tmp_path / "a.PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.PNG")), picture)
    with pytest.raises(ValueError):
        write_picture(picture, tmp_path / "a.nonsense")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.PNG"]
