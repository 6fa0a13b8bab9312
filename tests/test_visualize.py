"""Pictures: the numbers in them are checked, not their looks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.config import ARCHITECTURES, DecoderConfig, PreprocessSpec
from hierax.errors import InputError
from hierax.model.mae import MaskedAutoencoder
from hierax.visualize import (
    confusion_matrix_picture,
    contact_sheet,
    curves,
    feature_sheet,
    masked_triptych,
    pca_maps,
    reconstruction,
    stack_sheets,
)
from hierax.visualize.paper import PAPER


def _two_regions(c=16, noise=0.05):
    """Left and right half differ along one direction; a louder constant hides it from an uncentred basis."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=c)
    maps = rng.normal(size=(2, c, 8, 8)) * noise + 50 * rng.normal(size=c)[:, None, None]
    maps[..., 4:] += direction[:, None, None]
    return maps.astype(np.float32)


def test_pca_maps__separate_two_regions():
    """The weakest direction, or one of uncentred features, would colour both halves alike."""
    red = pca_maps({"stage1": _two_regions()})["stage1"][..., 0].astype(int)
    left, right = red[:, :, :4], red[:, :, 4:]
    assert abs(left.mean() - right.mean()) > 150
    assert max(left.std(), right.std()) < 30


def test_pca_maps__wrong_basis_would_not_separate():
    """Negative control: the least direction of the same features does not separate the halves."""
    maps = _two_regions()
    cells = maps.transpose(0, 2, 3, 1).reshape(-1, 16)
    weakest = np.linalg.svd(cells - cells.mean(0), full_matrices=False)[2][-1]
    values = ((cells - cells.mean(0)) @ weakest).reshape(2, 8, 8)
    assert abs(values[..., :4].mean() - values[..., 4:].mean()) < values.std()


def test_pca_maps__shared_basis_and_shape():
    """A basis per image would give an image's copy, in another batch place, another colour."""
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(3, 5, 4, 6)).astype(np.float32)
    maps[2] = maps[0]
    colors = pca_maps({"stage1": maps, "stage2": maps[:, :, :2, :3]})
    assert colors["stage1"].shape == (3, 4, 6, 3)
    assert colors["stage2"].shape == (3, 2, 3, 3)
    assert colors["stage1"].dtype == np.uint8
    np.testing.assert_array_equal(colors["stage1"][0], colors["stage1"][2])


def test_pca_maps__sign_is_stable():
    """Taking the solver's sign would flip colours when cells come in another order or with rounding."""
    maps = _two_regions()
    plain = pca_maps({"s": maps})["s"]
    mirrored = pca_maps({"s": maps[..., ::-1].copy()})["s"][:, :, ::-1]
    assert np.abs(plain[..., 0].astype(int) - mirrored[..., 0]).max() <= 1
    jittered = pca_maps({"s": maps * np.float32(1 + 1e-6)})["s"]
    assert np.abs(plain.astype(int) - jittered).max() <= 2


def test_pca_maps__outlier_keeps_contrast():
    """Scaling by minimum and maximum would let one cell flatten all others to one colour."""
    maps = np.repeat(_two_regions(), 8, axis=2)
    maps[0, :, 0, 0] += 4 * (maps[0, :, 0, 7] - maps[0, :, 0, 0])
    red = pca_maps({"s": maps})["s"][1, ..., 0].astype(int)
    assert abs(red[:, :4].mean() - red[:, 4:].mean()) > 150


def test_pca_maps__constant_and_narrow_features():
    """Division by a zero range would give NaN, which turns into an arbitrary byte."""
    assert set(np.unique(pca_maps({"s": np.full((1, 4, 3, 3), 2.5, np.float32)})["s"])) <= {127, 128}
    two = pca_maps({"s": np.random.default_rng(0).normal(size=(1, 2, 5, 5))})["s"]
    assert set(np.unique(two[..., 2])) <= {127, 128}
    assert two[..., 0].max() == 255


@pytest.mark.parametrize(
    "maps", [np.zeros((3, 4, 4)), np.zeros((0, 3, 4, 4)), np.full((1, 3, 2, 2), np.nan), np.full((1, 3, 2, 2), np.inf)]
)
def test_pca_maps__refuses(maps):
    """An unbatched map would be read with its axes shifted; NaN has no colour."""
    with pytest.raises(InputError, match="stage3"):
        pca_maps({"stage3": maps})


def test_feature_sheet__cells_are_enlarged_exactly():
    """Smooth scaling would mix neighbouring cells into colours that no cell has."""
    cells = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    sheet = np.asarray(feature_sheet(np.zeros((64, 64, 3), np.uint8), {"stage1": cells}, tile=64))
    panel = sheet[12:76, 12 + 64 + 12 : 12 + 64 + 12 + 64]
    np.testing.assert_array_equal(panel, cells.repeat(32, 0).repeat(32, 1))


def test_feature_sheet__stretched_images():
    """A panel of zero pixels, or one sized by the image itself, would break on extreme shapes."""
    maps = {"stage1": np.zeros((3, 5, 3), np.uint8)}
    sheets = [feature_sheet(np.zeros((h, w, 3), np.uint8), maps, tile=80) for h, w in ((1, 900), (900, 1), (60, 80))]
    assert max(sheet.height for sheet in sheets) < 200
    stack = stack_sheets(sheets)
    assert stack.height == sum(sheet.height for sheet in sheets)
    assert stack.width == max(sheet.width for sheet in sheets)
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
    rebuilt = reconstruction(
        x[0], output.visible[0], output.target[0], pixels=model.pixels, unit=model.unit, normalized=True
    )
    np.testing.assert_allclose(rebuilt, x[0].numpy(), atol=1e-5)


def test_reconstruction__places_units(masked):
    """Visible pixels stay; a prediction of zeros becomes each hidden square's own mean."""
    model, x, output = masked
    rebuilt = reconstruction(
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
    rebuilt = reconstruction(x[0], output.visible[0], target[0], pixels=model.pixels, unit=model.unit, normalized=False)
    np.testing.assert_allclose(rebuilt, x[0].numpy(), atol=1e-6)


def test_masked_triptych__panels(masked):
    """The first panel undoes mean and std; the second hides exactly the units that were not kept."""
    model, _, output = masked
    spec = PreprocessSpec()
    rgb = np.full((64, 96, 3), (200, 100, 50), np.uint8)
    rgb[:32] = (20, 120, 220)
    image = ((rgb / 255 - np.array(spec.mean)) / np.array(spec.std)).transpose(2, 0, 1)
    picture = masked_triptych(
        image, output.visible[0], output.prediction[0], pixels=model.pixels, unit=model.unit, tile=96
    )
    sheet = np.asarray(picture)
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
def test_masked_triptych__refuses(masked, change, word):
    """Shapes that do not belong together would be drawn in the wrong places."""
    model, x, output = masked
    arguments = {"image": x[0], "visible": output.visible[0], "prediction": output.prediction[0], **change}
    with pytest.raises(InputError, match=word):
        masked_triptych(**arguments, pixels=model.pixels, unit=model.unit)


def test_confusion_matrix__rows_are_true_classes():
    """A transposed picture would put the mistake on the other side of the diagonal."""
    matrix = np.array([[10, 0, 0], [0, 10, 0], [10, 0, 0]])
    sheet = np.asarray(confusion_matrix_picture(matrix, ["a", "b", "c"]))
    rows, columns = np.nonzero((sheet == (38, 98, 196)).all(-1))

    def corner(row: int, column: int):
        return sheet[rows.min() + 40 * row + 6, columns.min() + 40 * column + 6]

    assert (corner(0, 0) == (38, 98, 196)).all()
    assert (corner(2, 0) == (206, 60, 40)).all()
    assert (corner(0, 2) == 255).all()


def test_confusion_matrix__many_classes():
    """Cells that keep their size would make the picture of 1000 classes 40000 pixels wide."""
    picture = confusion_matrix_picture(np.eye(1000, dtype=int), [f"class {k}" for k in range(1000)])
    assert max(picture.size) < 2200
    assert confusion_matrix_picture(np.zeros((1, 1), int), ["only"]).width > 0


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((0, 0))])
def test_confusion_matrix__refuses(matrix):
    """Labels that do not fit would name the wrong rows."""
    with pytest.raises(InputError, match="per label"):
        confusion_matrix_picture(matrix, ["a", "b"])


def test_contact_sheet__holds_every_image():
    """A grid one row short would drop the last images."""
    colors = [(k * 20 + 10, 0, 255 - k * 20) for k in range(11)]
    images = [np.full((30, 30, 3), color, np.uint8) for color in colors]
    sheet = np.asarray(contact_sheet(images, ["a very long caption " * 9 + "\nsecond"] * 11, tile=60))
    present = {tuple(color) for color in sheet.reshape(-1, 3)}
    assert set(colors) <= present
    assert PAPER in present
    with pytest.raises(InputError, match="one caption"):
        contact_sheet(images, ["x"])
    with pytest.raises(InputError):
        contact_sheet([], [])


def _blue(path):
    """Where the first line's colour is, as (x, y)."""
    pixels = np.asarray(Image.open(path)).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - (38, 98, 196)).sum(-1) < 60)
    return columns, rows


def test_curves__falling_loss_falls(tmp_path):
    """An upside-down axis, or points in the wrong order, would draw a rising line."""
    history = [{"step": step, "train/loss": 3 - step / 50} for step in range(100)]
    path = curves(history, tmp_path / "curves.png", baselines={"loss": 0.9987})
    columns, rows = _blue(path)
    assert np.corrcoef(columns, rows)[0, 1] > 0.99
    assert [entry.name for entry in tmp_path.iterdir()] == ["curves.png"]


def test_curves__gaps_text_and_flat_lines(tmp_path):
    """NaN in a coordinate, a constant, text or a missing step must not stop the end of a run."""
    history: list[dict[str, object]] = [
        {"step": 1, "loss": 1.0, "lr": 1e-3, "note": "warm", "done": False},
        {"step": 2, "loss": float("nan"), "lr": 1e-3},
        {"step": 3, "loss": float("inf"), "lr": 1e-3},
        {"step": 4, "loss": np.float32(0.5), "lr": 1e-3, "accuracy": 0.0},
        {"loss": 0.1},
    ]
    assert Image.open(curves(history, tmp_path / "c.png")).width == 960
    assert Image.open(curves([{"loss": 2.0}], tmp_path / "d.png")).width == 480
    assert Image.open(curves([{"epoch": 0, "loss": -1e-9}, {"epoch": 1, "loss": 3e12}], tmp_path / "e.png")).width


@pytest.mark.parametrize("history", [[], [{"step": 1}], [{"step": 1, "loss": float("nan")}], [{"name": "x"}]])
def test_curves__refuses_nothing_to_draw(tmp_path, history):
    """An empty picture would look like a run that went nowhere."""
    with pytest.raises(InputError, match="at least one"):
        curves(history, tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []
