"""WebDataset shards read by position: tar members are found once, then every sample is one seek."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Int

from ... import console
from ...errors import InputError, nearest
from ...net.download import download
from ...net.transfer import Kind, shown
from ...schema import MOST_BYTES, read_json
from ..files import nearest_file
from .samples import EVERYTHING, SPLITS, TrainingData, number_labels
from .shard_index import index_of, not_a_tar

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_TAR = re.compile(r"(\.tar(\.\w+)?|\.tgz)$")
_WEB = ("http://", "https://")
_MOST_SHARDS, _MOST_DIGITS = 100_000, 18
_SPLIT_WORDS = {word for words in SPLITS.values() for word in words}


def is_shards(source: str | os.PathLike[str]) -> bool:
    """Whether a path, pattern or URL means shards."""
    text = os.fspath(source)
    if text.startswith((*_WEB, "pipe:")) or _TAR.search(text):
        return True
    path = Path(text)
    return os.path.isdir(text) and ((path / "_info.json").is_file() or any(path.glob("*.tar")))


def open_shards(source: str | os.PathLike[str], *, split: str, labelled: bool) -> ShardData:
    """Index the samples of shards.

    Args:
        source: Folder, tar, "name-{0000..0099}.tar", glob, or http(s) URLs of these.
        split: Which split of an `_info.json` to take.
        labelled: Leave out, and report, samples without `cls` or a label in `json`.

    Raises:
        InputError: No shard, a `pipe:` URL, compressed tars, no such split, or shards that cannot be fetched.
    """
    places, lengths = _list_shards(os.fspath(source), split)
    tar = Kind("a plain tar", InputError, folder="shards", most_bytes=1 << 40, trouble=not_a_tar)
    shards: list[Path] = []
    keys: list[str] = []
    labels: list[str] = []
    rows = [np.empty((0, 3), dtype=np.int64)]
    problems: list[tuple[str, str]] = []
    for number, place in enumerate(places):
        console.show(f"shard {number + 1} of {len(places)}")
        path = download(place, tar) if isinstance(place, str) else place
        samples, trouble = index_of(path)
        good = [sample for sample in samples if sample.label or not labelled]
        left_out = [f"{path.name}/{sample.key}" for sample in samples if labelled and not sample.label]
        problems += [*trouble, *((name, "has no cls and no label in json") for name in left_out)]
        expected = lengths.get(path.name, len(good))
        if expected != len(good):
            problems.append((path.name, f"holds {len(good)} good samples, _info.json says {str(expected)[:40]}"))
        shards.append(path)
        keys += [sample.key for sample in good]
        labels += [sample.label for sample in good]
        rows.append(np.array([(number, sample.offset, sample.size) for sample in good], dtype=np.int64).reshape(-1, 3))
    console.close()
    data = ShardData(shards, keys, labels, np.concatenate(rows))
    data.problems = problems
    return data


class ShardData(TrainingData):
    """One group of tar members a sample; `places` are the shard, offset and size of each image."""

    def __init__(self, shards: list[Path], keys: list[str], labels: list[str], places: Int[np.ndarray, "n 3"]) -> None:
        super().__init__(*number_labels(labels, indices=True))
        self.shards, self.keys, self.places = shards, keys, places

    def name(self, index: int) -> str:
        """Shard and key."""
        return f"{self.shards[self.places[index, 0]].name}/{self.keys[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of the image."""
        shard, offset, size = map(int, self.places[index])
        with self.shards[shard].open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)


def splits_of(source: str | os.PathLike[str]) -> set[str]:
    """Names of the splits that shards are known to have, by `_info.json` or by file name; often none.

    Raises:
        InputError: An `_info.json` that cannot be fetched or read.
    """
    folder = _folder_of(os.fspath(source))
    if folder is None:
        return set()
    info = _read_info(folder)
    if info is not None:
        return set(info["splits"]) if isinstance(info.get("splits"), dict) else set()
    return {word for tar in _tars_in(folder) for word in _words(tar)} & _SPLIT_WORDS


def list_shards(text: str) -> Sequence[Path | str]:
    """Every tar that a path, pattern or address means, of all splits, as paths or addresses.

    Raises:
        InputError: As `open_shards`.
    """
    folder = _folder_of(text)
    if not isinstance(folder, str):
        return _tars_in(folder) if folder is not None else _list_shards(text, EVERYTHING)[0]
    info = _read_info(folder) or {}
    splits = info.get("splits")
    names = list(splits) if isinstance(splits, dict) and splits else [EVERYTHING]
    found = (_split_of(info, name, (name,), shown(folder))[0] for name in names)
    return list(dict.fromkeys(_beside(folder, file) for files in found for file in files))


def _list_shards(text: str, split: str) -> tuple[Sequence[Path | str], dict[str, int]]:
    """The tars of a split, as paths or addresses, and the sample counts that `_info.json` states."""
    if text.startswith("pipe:"):
        raise InputError(
            "Shards must be files or http(s) URLs; got one that begins with pipe:. Commands are never run."
        )
    folder, aliases = _folder_of(text), SPLITS.get(split, (split,))
    if folder is not None:
        info = _read_info(folder)
        if info is None:
            return _named(_tars_in(folder), aliases), {}
        names, lengths = _split_of(info, split, aliases, shown(str(folder)))
        if isinstance(folder, str):
            return [_beside(folder, name) for name in names], lengths
        return [_existing(folder / name) for name in names], lengths
    if not _before_query(text).endswith(".tar"):
        raise InputError(
            f"Shards must be plain tars, which can be read at any place; got {shown(text)!r}. Unpack them."
        )
    places = _expanded(text)
    if text.startswith(_WEB):
        return places, {}
    if len(places) == 1 and not os.path.exists(places[0]):
        places = sorted(glob.glob(places[0])) or places
    return [_existing(Path(place)) for place in places], {}


def _tars_in(folder: str | Path) -> list[Path]:
    return sorted(path for path in Path(folder).glob("*.tar") if path.is_file())


def _named(tars: list[Path], aliases: Sequence[str]) -> list[Path]:
    """The tars that name a split; where none does, all that name no other one."""
    if EVERYTHING in aliases:
        return tars
    for alias in aliases:
        found = [tar for tar in tars if alias in _words(tar)]
        if found:
            return found
    return [tar for tar in tars if not _words(tar) & _SPLIT_WORDS] or tars


def _words(tar: Path) -> set[str]:
    return set(re.split(r"[-_.]", tar.stem.lower()))


def _before_query(text: str) -> str:
    """An address without what may hold a secret; a path as it is."""
    return re.split("[?#]", text)[0] if text.startswith(_WEB) else text


def _folder_of(text: str) -> str | Path | None:
    """The address of a folder with an `_info.json`, or a local folder; None where the text means tars."""
    if text.startswith(_WEB):
        return None if _TAR.search(_before_query(text)) else text
    return Path(text) if os.path.isdir(text) else None


def _beside(folder: str, name: str) -> str:
    """The address of a file in a folder, with the folder's query, which may be a permit."""
    address = _before_query(folder)
    return f"{address.removesuffix('_info.json').rstrip('/')}/{quote(name)}{folder[len(address) :]}"


def _read_info(folder: str | Path) -> dict[str, Any] | None:
    """The `_info.json` of a folder, None where a local folder has none."""
    what = f"_info.json of {shown(str(folder))}"
    if isinstance(folder, str):
        kind = Kind("a JSON file", InputError, folder="shards", most_bytes=MOST_BYTES, trouble=_not_json)
        path = download(_beside(folder, "_info.json"), kind, changing=True)
    else:
        path = folder / "_info.json"
        if not path.is_file():
            return None
    info = read_json(path, what=what)
    if not isinstance(info, dict):
        raise InputError(f"{what} must hold an object with splits; got {type(info).__name__}.")
    return info


def _not_json(path: Path) -> str:
    try:
        read_json(path, what="it")
    except InputError:
        return "is no JSON"
    return ""


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
    count = 1
    for low, high in _RANGE.findall(text):
        span = int(high) - int(low) + 1 if max(len(low), len(high)) <= _MOST_DIGITS else 0
        count *= max(span, 0)
    if not 0 < count <= _MOST_SHARDS:
        raise InputError(
            f"A pattern must stand for at least one and at most {_MOST_SHARDS} shards; got {shown(text)[:200]!r}. "
            "Write {0000..0099}, the smaller number first."
        )
    match = _RANGE.search(text)
    if match is None:
        return [text]
    low, high = match.groups()
    head, tail = text[: match.start()], text[match.end() :]
    return [place for n in range(int(low), int(high) + 1) for place in _expanded(f"{head}{n:0{len(low)}}{tail}")]


def _existing(path: Path) -> Path:
    try:
        missing = not path.is_file()
    except (OSError, ValueError) as error:
        raise InputError(f"Shards must exist; {shown(str(path))[:200]!r} is no name of a file.") from error
    if missing:
        raise InputError(f"Shards must exist; {shown(str(path))!r} does not. {nearest_file(path)}".strip())
    return path
