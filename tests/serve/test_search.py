"""A store behind HTTP answers what `Store.search` answers, and shows nothing but its rows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.errors import InputError
from hierax.serve import Settings
from hierax.serve.model import load

from ..members import encoded, picture, save_learner
from .conftest import Served, served
from .test_dialects import data_address

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(7):
        picture((300, 120), seed).save(folder / f"{seed}.png")
    (folder / "broken.png").write_bytes(b"no image")
    hierax.embed(folder, folder.parent / "store", workers=0, max_error_rate=1.0, progress=False)
    return folder


@pytest.fixture(scope="module")
def searching(photos) -> Iterator[Served]:
    with served(Settings(store=str(photos.parent / "store"))) as found:
        yield found


def test_search__equals_the_store(searching, photos):
    """Another order, or rows counted with the broken ones, would name other files."""
    store = hierax.open_store(photos.parent / "store")
    wanted = store.search(3, k=4)
    image = encoded(picture((300, 120), 3))
    bodies = (
        {"content": image, "headers": {"Content-Type": "image/png"}},
        {"json": {"inputs": data_address(image)}},
        {"json": {"row": 3}},
        {"json": {"vector": store.vectors()[3].tolist()}},
    )
    for body in bodies:
        said = searching.client.post("/search?k=4", **body).json()
        assert [(each["path"], each["row"]) for each in said] == [(hit.path, hit.row) for hit in wanted]
        assert max(abs(each["score"] - hit.score) for each, hit in zip(said, wanted, strict=True)) < 1e-5
    assert searching.client.get("/v2").json()["store"] == {"rows": 7}


def test_thumbnails__are_named_by_rows_alone(searching, photos):
    said = searching.client.get("/search/images/2")
    assert said.headers["content-type"] == "image/jpeg"
    shown = Image.open(io.BytesIO(said.content))
    assert shown.size == (256, 102)
    assert np.abs(np.asarray(shown.resize((300, 120))).astype(float) - np.asarray(picture((300, 120), 2))).mean() < 12
    (photos / "6.png").unlink()
    for row in ("7", "-1", "6", "x", "1e0", "..%2F..%2Fetc%2Fpasswd", "99999999999999"):
        refused = searching.client.get(f"/search/images/{row}")
        assert refused.status_code == 404
        assert str(photos) not in refused.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/search?k=0", {"row": 1}),
        ("/search?column=stage9", {"row": 1}),
        ("/search?column=stage1", {"row": 1}),
        ("/search", {"row": 7}),
        ("/search", {"row": True}),
        ("/search", {"row": 1, "vector": [1.0]}),
        ("/search", {"vector": [1.0, 2.0]}),
        ("/search", {"vector": "x"}),
        ("/search", {"path": "/etc/passwd"}),
        ("/search", {"inputs": "/etc/passwd"}),
        ("/search", {"inputs": []}),
    ],
)
def test_search__refused(searching, path, body, photos):
    said = searching.client.post(path, json=body)
    assert said.status_code == 422, said.text
    assert str(photos.parent) not in said.text


def test_no_store__is_said(server, images):
    said = server.post("/search", images[0])
    assert (said.status_code, said.json()["error_type"]) == (404, "NotFound")
    assert "--store" in said.json()["error"]


def test_another_model__is_refused(photos, tmp_path):
    """Vectors of two models must not be compared."""
    named = str(save_learner(tmp_path / "learner"))
    with pytest.raises(InputError, match="the model that made the store"):
        load(Settings(model=named, store=str(photos.parent / "store")))
