"""What a threshold of `hierax duplicates` finds: packaged photographs, seven copies of each, the embedded network.

python -m benchmarks.thresholds
"""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

import hierax

from .report import RESULTS

# Pairs of one scene: counted as copies, and as other photographs.
ONE_SCENE = {"chessboard_RGB": "chessboard_GRAY", "motorcycle_right": "motorcycle_left"}
COPIES = {
    "compressed anew, quality 60": lambda image: compressed(image, 60),
    "compressed anew, quality 30": lambda image: compressed(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "80 % of the contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "120 % of the brightness": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "middle 95 %": lambda image: middle(image, 0.95),
    "middle 90 %": lambda image: middle(image, 0.9),
}


def compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def middle(image: Image.Image, share: float) -> Image.Image:
    x, y = (int(side * (1 - share) / 2) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


def photographs() -> dict[str, Image.Image]:
    import skimage
    import sklearn.datasets

    folders = Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in (".png", ".jpg")]
    images = {file.stem: Image.open(file).convert("RGB") for file in files}
    return {name: image for name, image in images.items() if min(image.size) >= 64}


def shares(cosines: np.ndarray, of: np.ndarray, threshold: float) -> dict[str, float]:
    pairs = np.triu(np.ones_like(cosines, bool), 1)
    same, found = (of[:, None] == of) & pairs, (cosines >= threshold) & pairs
    right = (found & same).sum()
    return {"copies_of_what_is_found": right / max(found.sum(), 1), "found_of_copies": right / same.sum()}


def main() -> None:
    images, of, kinds = [], [], []
    for name, image in photographs().items():
        images += [np.asarray(image), *(np.asarray(copy(image)) for copy in COPIES.values())]
        of += [name] * (1 + len(COPIES))
        kinds += ["", *COPIES]
    vectors = hierax.load().embed(images, normalize=True)
    cosines, names = vectors @ vectors.T, np.array(of)
    scenes = np.array([ONE_SCENE.get(name, name) for name in of])
    originals = np.flatnonzero(np.array(kinds) == "")
    result = {
        "photographs": sorted(set(of)),
        "cosine_of_a_copy": {
            kind: float(np.median([cosines[i, i + place] for i in originals])) for place, kind in enumerate(COPIES, 1)
        },
        "thresholds": {
            threshold: {"by_file": shares(cosines, names, threshold), "by_scene": shares(cosines, scenes, threshold)}
            for threshold in (0.9, 0.95, 0.97, 0.98, 0.99)
        },
    }
    print(json.dumps(result, indent=1))
    (RESULTS / f"{time.strftime('%Y-%m-%d-%H%M%S')}-thresholds.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
