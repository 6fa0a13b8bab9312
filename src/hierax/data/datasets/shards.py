"""WebDataset shards read by position: tar members are found once, then every sample is one seek."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Int

from ...errors import InputError, nearest
from ..remote import Progress, fetch
from .samples import SPLITS, TrainingData, number_labels
from .shard_index import ShardIndex, index_of

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_WEB = ("http://", "https://")
_SPLIT_WORDS = {word for words in SPLITS.values() for word in words}


def is_shards(source: str | os.PathLike[str]) -> bool:
    """Whether a path, pattern or URL means shards."""
    text = os.fspath(source)
    if text.startswith((*_WEB, "pipe:")) or re.search(r"\.tar(\.\w+)?$|\.tgz$", text):
        return True
    path = Path(text)
    return path.is_dir() and ((path / "_info.json").is_file() or any(path.glob("*.tar")))


def open_shards(source: str | os.PathLike[str], *, split: str, aliases: Sequence[str], labelled: bool) -> ShardData:
    """Index the samples of shards.

    Args:
        source: Folder, tar, "name-{0000..0099}.tar", glob, or http(s) URLs of these.
        split: Which split of an `_info.json` to take.
        aliases: Other names of it.
        labelled: Leave out, and report, samples without `cls` or a label in `json`.

    Raises:
        InputError: No shard, a `pipe:` URL, compressed tars, no such split, or shards that cannot be fetched.
    """
    data = ShardData()
    places, lengths = _list_shards(os.fspath(source), split, aliases)
    progress = Progress()
    keys: list[str] = []
    labels: list[str] = []
    parts = [np.empty((3, 0), dtype=np.int64)]
    for number, place in enumerate(places):
        progress.show(f"shard {number + 1} of {len(places)}")
        path = fetch(place, progress) if isinstance(place, str) else place
        index = index_of(path)
        good = [row for row, label in enumerate(index.labels) if label or not labelled]
        data.shards.append(path)
        data.problems += [*index.problems, *_unlabelled(path, index, good)]
        expected = lengths.get(path.name)
        if expected is not None and expected != len(good):
            data.problems.append((path.name, f"holds {len(good)} good samples, _info.json says {expected}"))
        keys += [index.keys[row] for row in good]
        labels += [index.labels[row] for row in good]
        rows = [(number, index.offsets[row], index.sizes[row]) for row in good]
        parts.append(np.array(rows, dtype=np.int64).reshape(-1, 3).T)
    progress.close()
    data.fill(keys, labels, np.concatenate(parts, axis=1))
    return data


def _unlabelled(path: Path, index: ShardIndex, good: list[int]) -> list[tuple[str, str]]:
    """The samples that are left out, with the reason."""
    rows = sorted(set(range(len(index.keys))) - set(good))
    return [(f"{path.name}/{index.keys[row]}", "has no cls and no label in json") for row in rows]


class ShardData(TrainingData):
    """One group of tar members a sample."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.shards: list[Path] = []
        self.fill([], [], np.empty((3, 0), dtype=np.int64))

    def fill(self, keys: list[str], labels: list[str], places: Int[np.ndarray, "3 n"]) -> None:
        """Set the samples; `places` are the shard, offset and size of each."""
        numbers, self.classes = number_labels(labels)
        self.labels = np.asarray(numbers, dtype=np.int64)
        self.keys = keys
        self.shard, self.offset, self.size = places

    def name(self, index: int) -> str:
        """Shard and key."""
        return f"{self.shards[self.shard[index]].name}/{self.keys[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of the image."""
        with self.shards[self.shard[index]].open("rb") as stream:
            stream.seek(int(self.offset[index]))
            return stream.read(int(self.size[index]))


def splits_of(source: str | os.PathLike[str]) -> set[str]:
    """Names of the splits that shards are known to have, by `_info.json` or by file name; often none.

    Raises:
        InputError: An `_info.json` that cannot be fetched or read.
    """
    text = os.fspath(source)
    folder = _web_folder(text) or (text if Path(text).is_dir() else None)
    if folder is None:
        return set()
    info = _read_info(folder)
    if info is not None:
        return set(info["splits"]) if isinstance(info.get("splits"), dict) else set()
    return {word for tar in Path(folder).glob("*.tar") for word in _words(tar)} & _SPLIT_WORDS


def _list_shards(text: str, split: str, aliases: Sequence[str]) -> tuple[Sequence[Path | str], dict[str, int]]:
    """The tars of a split, as paths or addresses, and the sample counts that `_info.json` states."""
    if text.startswith("pipe:"):
        raise InputError(f"Shards must be files or http(s) URLs; got {text!r}. Commands are never run.")
    folder = _web_folder(text)
    path = Path(text)
    if folder is None and not text.startswith(_WEB) and path.is_dir():
        folder = text
    if folder is not None:
        info = _read_info(folder)
        if info is None:
            return _named(sorted(path.glob("*.tar")), aliases), {}
        names, lengths = _split_of(info, split, aliases, folder)
        if folder.startswith(_WEB):
            return [f"{folder}/{name}" for name in names], lengths
        return _existing([path / name for name in names]), lengths
    if re.search(r"\.tar\.\w+$|\.tgz$", text):
        raise InputError(f"Shards must be plain tars, which can be read at any place; got {text!r}. Unpack them.")
    places = _expanded(text)
    if text.startswith(_WEB):
        return places, {}
    if len(places) == 1 and not Path(places[0]).exists():
        places = sorted(glob.glob(places[0])) or places
    return _existing([Path(place) for place in places]), {}


def _named(tars: list[Path], aliases: Sequence[str]) -> list[Path]:
    """The tars that name a split; where none does, all that name no other one."""
    for alias in aliases:
        found = [tar for tar in tars if alias in _words(tar)]
        if found:
            return found
    return [tar for tar in tars if not _words(tar) & _SPLIT_WORDS] or tars


def _words(tar: Path) -> set[str]:
    return set(re.split(r"[-_.]", tar.stem.lower()))


def _web_folder(text: str) -> str | None:
    """The address of a folder with an `_info.json`, None where the text means tars or something local."""
    if not text.startswith(_WEB) or re.search(r"\.tar(\.\w+)?$|\.tgz$", urlsplit(text).path):
        return None
    return text.removesuffix("_info.json").rstrip("/")


def _read_info(folder: str) -> dict[str, Any] | None:
    """The `_info.json` of a folder, None where a local folder has none."""
    if folder.startswith(_WEB):
        path = fetch(f"{folder}/_info.json", Progress(), changing=True)
    else:
        path = Path(folder) / "_info.json"
        if not path.is_file():
            return None
    try:
        info = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"_info.json of {folder} must be readable JSON: {error}.") from error
    if not isinstance(info, dict):
        raise InputError(f"_info.json of {folder} must hold an object with splits; got {type(info).__name__}.")
    return info


def _split_of(info: dict, split: str, aliases: Sequence[str], where: str) -> tuple[list[str], dict[str, int]]:
    """File names and their sample counts from an `_info.json`."""
    splits = info.get("splits")
    splits = splits if isinstance(splits, dict) else {split: info}
    name = next((alias for alias in (split, *aliases) if alias in splits), None)
    if name is None:
        raise InputError(f"{where} has the splits {', '.join(splits)}; got {split!r}. {nearest(split, splits)}".strip())
    described = splits[name] if isinstance(splits[name], dict) else {}
    files = described.get("filenames")
    files = files if isinstance(files, list) else []
    plain = all(isinstance(file, str) and not re.search(r"[/\\]|^pipe:", file) for file in files)
    if not files or not plain:
        raise InputError(f"_info.json of {where} must name, under filenames, tars beside it; got {str(files)[:200]}.")
    lengths = described.get("shard_lengths")
    return files, dict(zip(files, lengths if isinstance(lengths, list) else [], strict=False))


def _expanded(text: str) -> list[str]:
    """Every name that a pattern with {0000..0099} stands for, the width of the numbers kept."""
    match = _RANGE.search(text)
    if match is None:
        return [text]
    low, high = match.groups()
    numbers = range(int(low), int(high) + 1)
    head, tail = text[: match.start()], text[match.end() :]
    return [place for n in numbers for place in _expanded(f"{head}{n:0{len(low)}}{tail}")]


def _existing(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.is_file():
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            raise InputError(f"Shards must exist; {str(path)!r} does not. {nearest(path.name, siblings)}".strip())
    return paths
