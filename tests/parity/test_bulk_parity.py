"""The same images through every door give the same vectors."""

from __future__ import annotations

import numpy as np
import pytest

import hierax
import hierax.compat.birder as birder
from hierax.compat.birder.inference.classification import infer_image

from ..members import write_png

pytest.importorskip("pyarrow")


def test_embed__predictor__and_infer_image(tmp_path):
    """Two of three preprocessings that differ put one photograph in two places of a search."""
    paths = []
    for number in range(4):
        paths.append(tmp_path / "album" / f"{number}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        write_png(paths[-1], number)
    predictor = hierax.load()
    hierax.embed(tmp_path / "album", tmp_path / "out", model=predictor, progress=False)
    vectors = hierax.open_store(tmp_path / "out").vectors()
    np.testing.assert_allclose(vectors, predictor.embed(paths), atol=1e-5)
    file = predictor.save(tmp_path / "file", format="birder")
    net, info = birder.load_pretrained_model("hiera_nano_96", dst=str(file), inference=True, progress_bar=False)
    size = birder.get_size_from_signature(info.signature)
    transform = birder.classification_transform(size, info.rgb_stats)
    found = [infer_image(net, str(path), transform, return_embedding=True)[1][0] for path in paths]
    np.testing.assert_allclose(vectors, np.stack(found), atol=1e-5)
