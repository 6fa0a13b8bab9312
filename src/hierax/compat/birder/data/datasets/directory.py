"""Images in folders named by their class, as `infer_dataloader` wants them: path, input, label."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from .....data.decode import open_rgb
from .....data.sources import find_images
from .....errors import InputError
from ....names import refuse_unknown
from ...common.lib import get_label_from_path
from ...reasons import REASONS
from ...results.classification import NO_LABEL

__all__ = ["ImageListDataset", "class_to_idx_from_paths", "make_image_dataset", "pil_rgb_loader"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)


def pil_rgb_loader(path: str) -> Image.Image:
    """An image in RGB; its orientation tag is not obeyed, as in birder.

    Raises:
        InputError: It cannot be read.
    """
    return open_rgb(path, upright=False)


class ImageListDataset(Dataset[tuple[str, Any, int]]):
    """Images of a list, with their paths and labels."""

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        transforms: Callable[..., Any] | None = None,
        loader: Callable[[str], Any] = pil_rgb_loader,
    ) -> None:
        """Take (path, label) pairs, and what makes an input of an image."""
        self.paths, self.labels = [path for path, _ in samples], [label for _, label in samples]
        self.transforms, self.loader = transforms, loader

    def __getitem__(self, index: int) -> tuple[str, Any, int]:
        """Path, input and label."""
        image = self.loader(self.paths[index])
        return self.paths[index], image if self.transforms is None else self.transforms(image), self.labels[index]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)


def make_image_dataset(
    paths: Sequence[str],
    class_to_idx: Mapping[str, int],
    transforms: Callable[..., Any] | None = None,
    loader: Callable[[str], Any] = pil_rgb_loader,
    *,
    return_orig_sizes: bool = False,
    hierarchical: bool = False,
) -> ImageListDataset:
    """The images of folders and files, sorted by path, with the label that their folder's name has.

    Args:
        paths: Folders, walked in full, and files.
        class_to_idx: Label of each folder name; other images get -1.
        transforms: From `classification_transform`.
        loader: From a path to what the transform takes.
        return_orig_sizes: Refused.
        hierarchical: Class names of all folders below a path, joined by "_".

    Raises:
        InputError: A path without images, or original sizes.
    """
    if return_orig_sizes:
        raise InputError("return_orig_sizes is not supported. Leave it out.")
    if isinstance(paths, (str, os.PathLike)):
        raise InputError(f"paths must be a list of folders and files; got {paths!r}. Put it into a list.")
    samples = []
    for root in map(str, paths):
        for path in map(str, find_images(root)):
            name = get_label_from_path(path, hierarchical and path != root, root)
            samples.append((path, class_to_idx.get(name, NO_LABEL)))
    return ImageListDataset(sorted(samples), transforms, loader)


def class_to_idx_from_paths(data_paths: Sequence[str], hierarchical: bool = False) -> dict[str, int]:
    """Number the folders inside some folders, in the order of their names.

    Raises:
        InputError: A path that is no folder.
    """
    found: dict[str, int] = {}
    for root in data_paths:
        if not os.path.isdir(root):
            raise InputError(f"Class folders lie in a folder; got {str(root)!r}, which is none.")
        if hierarchical:
            folders = {get_label_from_path(str(path), True, str(root)) for path in find_images(root)} - {"."}
        else:
            folders = {entry.name for entry in Path(root).iterdir() if entry.is_dir()}
        for name in sorted(folders):
            found.setdefault(name, len(found))
    return found
