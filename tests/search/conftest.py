"""One album of rendered images, embedded once for all tests of a module."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import hierax
from hierax.data.datasets.shapes import render_folder

pytest.importorskip("pyarrow")


@pytest.fixture(scope="session")
def _album():
    with tempfile.TemporaryDirectory() as folder:
        yield written_album(Path(folder).resolve())


def written_album(folder):
    """Fills a folder with `photos` and a `store` of them."""
    photos = render_folder(folder / "photos", count=24, seed=5, size=96, image_format="jpg")
    for number, path in enumerate(sorted(photos.rglob("*.jpg"))[:4]):
        with Image.open(path) as image:
            image.resize((64, 64)).save(path.with_name(f"{path.stem}-small.jpg"), quality=90)
            if number == 0:
                image.resize((192, 192)).save(path.with_name(f"{path.stem}-large.jpg"), quality=90)
    (photos / "broken.jpg").write_text("this is no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        hierax.embed("photos", "store/", workers=0, progress=False, columns=("embedding", "stage2"))
    return folder


@pytest.fixture
def album(_album, tmp_path, monkeypatch):
    """A folder, and the present one, with `photos`, 30 files of which some are copies and one is broken, and a `store`."""
    folder = shutil.copytree(_album, tmp_path / "album", copy_function=shutil.copy2)
    monkeypatch.chdir(folder)
    about = folder / "store" / "_store.json"
    about.write_text(about.read_text().replace(str(_album), str(folder)))
    for part in (folder / "store").glob("part-*"):
        part.touch()  # the copied images are new, which is taken for a change
    return folder
