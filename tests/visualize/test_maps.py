"""Colours of stage maps: equal features are equal colours, and differences are seen."""

from __future__ import annotations

import numpy as np
import pytest

from hierax.errors import InputError
from hierax.visualize.maps import pca_maps


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
