"""Images and their masks in folders: which belong together, by name.

Either two folders, `images/NAME.jpg` and `masks/NAME.png`, with whatever folders below them; or one, where the mask of
`NAME.jpg` is `NAME_mask.png`, or `NAME.png` beside an image that is no PNG.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from .sources import IMAGE_EXTENSIONS
from .walk import Walk

IMAGE_FOLDERS = ("images", "image", "imgs", "JPEGImages")
MASK_FOLDERS = ("masks", "mask", "labels", "annotations", "scribbles", "SegmentationClass")
SPLITS = {"train": "training", "training": "training", "val": "validation", "validation": "validation",
          "valid": "validation", "test": "test"}  # fmt: skip
_MARK = re.compile(r"[ ._-](?:masks?|labels?|scribbles?|annotations?|seg|gt)$", re.IGNORECASE)
RULE = "Put images/NAME.jpg and masks/NAME.png into two folders, or NAME.jpg and NAME_mask.png into one."


@dataclass(frozen=True)
class Pair:
    """An image and its mask; the name is that of the image, below the folder."""

    name: str
    image: Path
    mask: Path


@dataclass
class Pairs:
    """What a folder holds.

    Attributes:
        folder: The folder.
        pairs: In the order of their names.
        without_mask: Images that have no mask.
        without_image: Masks that have no image.
    """

    folder: Path
    pairs: list[Pair] = field(default_factory=list)
    without_mask: list[Path] = field(default_factory=list)
    without_image: list[Path] = field(default_factory=list)

    def problems(self) -> list[tuple[str, str]]:
        """What was left out, as (name, reason)."""
        lone = [(str(path), "an image without a mask") for path in self.without_mask]
        return lone + [(str(path), "a mask without an image") for path in self.without_image]


def find_pairs(folder: str | os.PathLike[str]) -> Pairs:
    """Images and masks of a folder.

    Raises:
        InputError: No folder, no pair, or names that fit twice.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"Labels are a folder of images and masks; {str(root)!r} is none. {RULE}")
    pictures, masks = _folder(root, IMAGE_FOLDERS), _folder(root, MASK_FOLDERS)
    if (pictures is None) != (masks is None) and (pictures or masks):
        there, lacking = ("images", "masks") if pictures else ("masks", "images")
        raise InputError(f"{str(root)!r} has a folder of {there} and none of {lacking}. {RULE}")
    if pictures is not None and masks is not None:
        images, marked = _by_key(_files(pictures), pictures, "image"), _by_key(_files(masks), masks, "mask", mark=True)
    else:
        images, marked = _in_one_folder(root)
    found = Pairs(root)
    for key, image in images.items():
        if key in marked:
            found.pairs.append(Pair(key, image, marked.pop(key)))
        else:
            found.without_mask.append(image)
    found.without_image = list(marked.values())
    if not found.pairs:
        raise InputError(
            f"Labels need an image with a mask of the same name; {str(root)!r} has {len(images)} images and "
            f"{len(found.without_image)} masks, and no two belong together. {RULE}"
        )
    return found


def split_pairs(found: Pairs) -> dict[str, list[Pair]]:
    """Pairs by split, where every one lies in a folder of a split: images/training/NAME.jpg; else empty."""
    splits: dict[str, list[Pair]] = {}
    for pair in found.pairs:
        first, _, rest = pair.name.partition("/")
        if not rest or first.lower() not in SPLITS:
            return {}
        splits.setdefault(SPLITS[first.lower()], []).append(pair)
    return splits


def _in_one_folder(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    files = _files(root)
    stems = {_key(path, root) for path in files if path.suffix.lower() != ".png"}
    masks, images = [], []
    for path in files:
        key = _key(path, root)
        is_png = path.suffix.lower() == ".png"
        (masks if _MARK.search(key) or (is_png and key in stems) else images).append(path)
    return _by_key(images, root, "image"), _by_key(masks, root, "mask", mark=True)


def _by_key(files: list[Path], root: Path, what: str, *, mark: bool = False) -> dict[str, Path]:
    """Files by the name that pairs them."""
    found: dict[str, Path] = {}
    for path in files:
        key = _key(path, root)
        key = _MARK.sub("", key) if mark else key
        if key in found:
            raise InputError(
                f"An image has one mask, and a name is of one image; {str(found[key])!r} and {str(path)!r} are both "
                f"the {what} of {key!r}. Remove or rename one."
            )
        found[key] = path
    return found


def _key(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _files(folder: Path) -> list[Path]:
    return list(Walk(IMAGE_EXTENSIONS).take(str(folder)))


def _folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The sub-folder of one of these names; two are refused."""
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) > 1:
        raise InputError(f"{str(root)!r} has two folders of one kind: {found[0].name} and {found[1].name}. Keep one.")
    return found[0] if found else None
