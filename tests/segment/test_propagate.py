"""Labels that follow a clip: the step against the protocol written out, and what is written of a clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import hierax
from hierax.data.masks import read_mask, write_mask
from hierax.dense.track import Following
from hierax.errors import InputError
from hierax.model.affinity import spread_labels
from hierax.segment import propagate

from ..members import write_clip


def reference(features, context, radius, top_k, temperature):
    """DINO's label propagation with the whole affinity matrix, cell by cell."""
    _, height, width = features.shape
    out = torch.zeros(context[0][1].shape[0], height, width)
    for y in range(height):
        for x in range(width):
            near = []
            for keys, labels in context:
                for v in range(max(0, y - radius), min(height, y + radius + 1)):
                    for u in range(max(0, x - radius), min(width, x + radius + 1)):
                        near.append((float(features[:, y, x] @ keys[:, v, u]), labels[:, v, u]))
            near.sort(key=lambda each: -each[0])
            weights = [np.exp(cosine / temperature) for cosine, _ in near[:top_k]]
            out[:, y, x] = sum(w * labels for w, (_, labels) in zip(weights, near, strict=False)) / sum(weights)
    return out


@pytest.mark.parametrize(("radius", "top_k"), [(1, 5), (2, 3), (12, 5), (0, 2)])
def test_step__equals_the_protocol(radius, top_k):
    """A disk in place of a square, a frame too few, or labels before the choice of cells would differ."""
    g = torch.Generator().manual_seed(radius)
    unit = torch.nn.functional.normalize
    context = [(unit(torch.randn(6, 5, 7, generator=g), dim=0), torch.rand(3, 5, 7, generator=g)) for _ in range(3)]
    features = unit(torch.randn(6, 5, 7, generator=g), dim=0)
    found = spread_labels(features, context, radius=radius, top_k=top_k, temperature=0.1)
    assert torch.allclose(found, reference(features, context, radius, top_k, 0.1), atol=1e-5)


def test_step__the_same_map_keeps_its_labels():
    """Cells that are most like themselves keep what they have."""
    features = torch.nn.functional.normalize(torch.randn(16, 6, 6, generator=torch.Generator().manual_seed(0)), dim=0)
    labels = torch.nn.functional.one_hot(torch.arange(36).reshape(6, 6) % 3).permute(2, 0, 1).float()
    found = spread_labels(features, [(features, labels)], radius=12, top_k=1, temperature=0.1)
    assert torch.equal(found, labels)


def frames(count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A disk that moves over a ground, and its masks with the numbers 3 and 7."""
    ground = np.random.default_rng(0).integers(80, 120, (64, 96, 3))
    y, x = np.mgrid[:64, :96]
    disks = np.stack([(y - 30) ** 2 + (x - 20 - 5 * place) ** 2 < 200 for place in range(count)])
    pixels = np.where(disks[..., None], (220, 40, 30), ground[None]).astype(np.uint8)
    return pixels, np.where(disks, 7, 3)


@pytest.mark.parametrize("kind", ["folder", "video"])
def test_clip(kind, tmp_path):
    """The numbers and the palette of the first mask in every frame; frame10 after frame9."""
    pixels, masks = frames(11)
    colors = {3: (10, 20, 30), 7: (200, 100, 0)}
    write_mask(masks[0], colors, tmp_path / "first.png")
    if kind == "video":
        source = write_clip(tmp_path / "clip.mp4", pixels[:3])
        names = ["00000", "00001", "00002"]
    else:
        source, names = tmp_path / "clip", [f"frame{n}" for n in range(11)]
        source.mkdir()
        for name, frame in zip(names, pixels, strict=True):
            Image.fromarray(frame).save(source / f"{name}.png")
    done = propagate(source, tmp_path / "first.png", tmp_path / "masks", hierax.load(), size=96)
    assert [mask.stem for _, mask in done.masks] == names
    for (_, place), wanted in zip(done.masks, masks, strict=False):
        found = read_mask(place)
        assert found.palette is not None
        assert (found.palette[3], found.palette[7]) == (colors[3], colors[7])
        assert ((found.values == 7) & (wanted == 7)).sum() > 0.6 * ((found.values == 7) | (wanted == 7)).sum()
    assert (read_mask(done.masks[0][1]).values == masks[0]).all()
    with pytest.raises(InputError, match="already exists"):
        propagate(source, tmp_path / "first.png", tmp_path / "masks", hierax.load(), size=96)


def test_clip__refused(tmp_path):
    """Each before a mask is written."""
    pixels, masks = frames(3)
    (tmp_path / "clip").mkdir()
    for place, frame in enumerate(pixels):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{place}.png")
    write_mask(masks[0][:32], {}, tmp_path / "small.png")
    write_mask(np.zeros((64, 96)), {}, tmp_path / "one.png")
    write_mask(masks[0], {}, tmp_path / "first.png")
    for first, match in (("small.png", "the size of the frames"), ("one.png", "two classes")):
        with pytest.raises(InputError, match=match):
            propagate(tmp_path / "clip", tmp_path / first, tmp_path / "masks")
    Image.fromarray(pixels[0][:32]).save(tmp_path / "clip" / "1.png")
    with pytest.raises(InputError, match="one size"):
        propagate(tmp_path / "clip", tmp_path / "first.png", tmp_path / "masks", size=64)
    with pytest.raises(InputError, match="does not exist"):
        propagate(tmp_path / "nowhere", tmp_path / "first.png", tmp_path / "masks")
    with pytest.raises(InputError, match="temperature"):
        Following(temperature=0)
