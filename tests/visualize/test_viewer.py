"""What lies in a viewer's page: whole numbers that give back the cosines, facts of stages, and no more bytes than said."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest

from hierax.config import STAGE_NAMES, ModelConfig
from hierax.visualize.maps import fit_basis
from hierax.visualize.viewer.cells import STEP, WORST, pack
from hierax.visualize.viewer.data import Shown, attention, map_bytes, view_data
from hierax.visualize.viewer.page import viewer_page

from ..members import noise, plain_config, small_det


def unpacked(packed, channels, count):
    """The cells (n, count, channels) as `cells.js` reads them."""
    images = []
    for text in packed.numbers:
        planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8).reshape(len(packed.planes), count)
        cells = np.zeros((count, channels))
        for (axis, weight), plane in zip(packed.planes, planes, strict=True):
            cells[:, axis] += weight * plane.astype(float)
        images.append(cells)
    return np.stack(images)


def cosines(cells):
    flat = cells.reshape(-1, cells.shape[-1]).astype(np.float64)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat / np.where(lengths > 0, lengths, 1)
    return flat @ flat.T


@pytest.mark.parametrize(
    "kind", ["noise", "one strong channel", "nearly one direction", "wide range of norms", "2 channels"]
)
def test_pack__cosines_of_all_pairs(kind):
    """One scale for all numbers would lose small ones beside a strong channel; a byte too few would wrap round."""
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(2, 2 if kind == "2 channels" else 24, 9, 7))
    if kind == "one strong channel":
        maps[:, 5] *= 1000
    elif kind == "nearly one direction":
        maps = 100 + maps
    elif kind == "wide range of norms":
        maps *= 10.0 ** rng.uniform(-15, 15, size=(2, 1, 9, 7))
    maps = maps.astype(np.float32)
    packed = pack(maps)
    cells = np.moveaxis(maps, 1, -1).reshape(2, 63, -1)
    wrong = np.abs(cosines(unpacked(packed, cells.shape[-1], 63)) - cosines(cells))
    assert wrong.max() <= 0.01
    assert packed.worst <= WORST
    assert wrong.max() == pytest.approx(packed.worst, abs=1e-6)  # so few cells are all measured
    assert packed.mean <= packed.worst
    assert pack(maps) == packed


def test_pack__norms_and_zeros():
    """A cell of zeros has no direction; divided by its length it would make every cosine NaN."""
    maps = np.random.default_rng(0).normal(size=(1, 8, 4, 4)).astype(np.float32)
    maps[0, :, 1, 2] = 0
    packed = pack(maps)
    assert not unpacked(packed, 8, 16)[0, 6].any()
    low, high = packed.norm_range
    shares = np.frombuffer(zlib.decompress(base64.b64decode(packed.norms[0])), "<u2") / 65535
    np.testing.assert_allclose(low + shares * (high - low), np.linalg.norm(maps[0], axis=0).ravel(), atol=high / 60000)
    empty = pack(np.zeros((2, 8, 4, 4), np.float32))
    assert (empty.planes, empty.norm_range, empty.worst) == ([], (0.0, 0.0), 0.0)


def test_pack__steps_are_halved_until_the_error_fits(monkeypatch):
    """An error that is stated and too large is still too large."""
    from hierax.visualize.viewer import cells

    maps = np.random.default_rng(0).normal(size=(1, 8, 20, 20)).astype(np.float32)
    coarse = pack(maps)
    monkeypatch.setattr(cells, "WORST", coarse.worst / 5)
    fine = pack(maps)
    assert fine.worst <= coarse.worst / 5
    monkeypatch.setattr(cells, "WORST", 0.0)  # impossible: it ends all the same
    assert pack(maps).worst < STEP / 20


def shown(config, count=2):
    rng = np.random.default_rng(1)
    grid = config.grid(config.input_size)
    maps = [
        {
            stage: rng.normal(size=(config.channels[k], grid[0] >> k, grid[1] >> k)).astype(np.float32)
            for k, stage in enumerate(STAGE_NAMES)
        }
        for _ in range(count)
    ]
    return [Shown(f"{k}.png", noise(*config.input_size, k), each) for k, each in enumerate(maps)]


def data_of(config, **options):
    images = shown(config)
    bases = {stage: fit_basis(stage, np.stack([image.maps[stage] for image in images])) for stage in STAGE_NAMES}
    return view_data(images, config, bases, about={"model": "m"}, colours_from="fitted here", **options)


def test_data__stages_and_lines():
    """Lines in cells of another stage, or height for width, would mark borders where there are none."""
    data = data_of(plain_config((64, 96), (1, 2, 3, 1), 8))
    first, second, third, fourth = data["stages"]
    assert [stage["name"] for stage in data["stages"]] == list(STAGE_NAMES)
    assert (first["rows"], first["columns"], first["stride"], first["channels"]) == (16, 24, 4, 8)
    assert [stage["window"] for stage in data["stages"]] == [[8, 8], [4, 4], None, None]
    assert [stage["unit"] for stage in data["stages"]] == [[8, 8], [4, 4], [2, 2], [1, 1]]
    assert first["attention"] == "1 block: 1 in windows of 32 x 32 px"
    assert second["attention"] == "2 blocks: 2 in windows of 32 x 32 px"
    assert third["attention"] == "3 blocks: 1 in windows of 32 x 32 px, 2 in the whole image"
    assert fourth["attention"] == "1 block: 1 in the whole image"
    json.dumps(data, allow_nan=False)


def test_attention__of_hieradet():
    """The first block of a stage looks through the window of the stage before, in its cells."""
    config = small_det((8, 4, 14, 7))
    assert (
        attention(config, 2)
        == "3 blocks: 1 in windows of 32 x 32 px, 1 in the whole image, 1 in windows of 224 x 224 px"
    )
    assert attention(config, 3) == "1 block: 1 in windows of 224 x 224 px"


def test_data__leaves_out_the_finest_first():
    """A page twice as large as said does not arrive; one without any stage shows nothing."""
    config = plain_config((64, 96), (1, 2, 3, 1), 8)
    whole = data_of(config)
    size = len(json.dumps(whole))
    assert whole["left_out"] == []
    some = data_of(config, most_bytes=size - 5000)
    assert some["left_out"] == ["stage1"]
    assert len(json.dumps(some)) < size - 5000
    least = data_of(config, most_bytes=1)
    assert [stage["name"] for stage in least["stages"]] == ["stage4"]
    assert least["left_out"] == ["stage1", "stage2", "stage3"]


def test_map_bytes():
    """An estimate that forgets an axis refuses nothing."""
    config = plain_config((64, 96), (1, 2, 3, 1), 8)
    assert map_bytes(config, (64, 96), ["stage1", "stage4"]) == 8 * 16 * 24 + 64 * 2 * 3


def test_page__is_one_file_with_a_policy():
    """A style or script that the policy does not name would not run; an address in it would be a request."""
    page = viewer_page(data_of(ModelConfig(input_size=(64, 64), embed_dim=8, depths=(1, 2, 3, 1))))
    assert page.isascii()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page
    assert "@@" not in page.partition('<script type="application/json"')[0]
    assert page.count("</script>") == 2


def test_page__names_end_no_script():
    """`</script>` in a name would end the data, and what follows would be the page's."""
    config = plain_config((64, 64), (1, 1, 1, 1), 8)
    images = shown(config, 1)
    evil = [Shown("</script><script>alert(1)</script>@@DATA@@", images[0].seen, images[0].maps)]
    bases = {"stage4": fit_basis("stage4", images[0].maps["stage4"][None])}
    page = viewer_page(view_data(evil, config, bases, about={}, colours_from=""))
    assert "<script>alert" not in page
    assert page.count("</script>") == 2
