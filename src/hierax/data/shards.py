"""WebDataset shards read by position: tar members are found once, then every sample is one seek.

Nothing is executed and nothing is written by a member's name. A tar that ends without its end marker is reported,
whether it was cut inside a member or between two.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.error import URLError

import numpy as np

from ..errors import InputError, nearest
from .samples import UNLABELLED, TrainingData

_IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "tif", "tiff", "gif", "mp4", "avi", "mkv", "webm")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_BLOCK = 512
_MAX_SIDECAR = 1_000_000


def is_shards(source: str | os.PathLike[str]) -> bool:
    """Whether a path, pattern or URL means shards."""
    text = os.fspath(source)
    if text.startswith(("http://", "https://", "pipe:")) or re.search(r"\.tar(\.\w+)?$|\.tgz$", text):
        return True
    path = Path(text)
    return path.is_dir() and ((path / "_info.json").is_file() or any(path.glob("*.tar")))


@dataclass
class _Index:
    """What was found in the shards, one entry a sample."""

    shard: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def open_shards(source: str | os.PathLike[str], *, split: str, aliases: Sequence[str], labelled: bool) -> ShardData:
    """Index the samples of shards.

    Args:
        source: Folder, tar, "name-{0000..0099}.tar", glob, or http(s) URLs of these.
        split: Which split of an `_info.json` to take.
        aliases: Other names of it.
        labelled: Leave out, and report, samples without `cls` or a label in `json`.

    Raises:
        InputError: No shard, a `pipe:` URL, compressed tars, or no such split.
    """
    index = _Index()
    shards, lengths = _list_shards(os.fspath(source), split, aliases)
    for number, shard in enumerate(shards):
        before = len(index.keys)
        _index_shard(number, shard, labelled, index)
        expected = lengths.get(shard.name)
        if expected is not None and expected != len(index.keys) - before:
            found = len(index.keys) - before
            index.problems.append((shard.name, f"holds {found} good samples, _info.json says {expected}"))
    return ShardData(shards, index)


class ShardData(TrainingData):
    """One group of tar members a sample."""

    def __init__(self, shards: list[Path], index: _Index) -> None:
        labels, classes = _numbered(index.labels)
        super().__init__(labels, classes)
        self.shards, self.keys, self.problems = shards, index.keys, index.problems
        self.shard = np.asarray(index.shard, dtype=np.int32)
        self.offset = np.asarray(index.offset, dtype=np.int64)
        self.size = np.asarray(index.size, dtype=np.int64)

    def name(self, index: int) -> str:
        """Shard and key."""
        return f"{self.shards[self.shard[index]].name}/{self.keys[index]}"

    def read(self, index: int) -> bytes:
        """The bytes of the image."""
        with self.shards[self.shard[index]].open("rb") as stream:
            stream.seek(int(self.offset[index]))
            return stream.read(int(self.size[index]))


def _numbered(labels: list[str]) -> tuple[list[int], list[str]]:
    """Labels as indices: whole numbers are taken as they are, names are sorted."""
    given = [label for label in labels if label]
    if all(label.isascii() and label.isdigit() for label in given):
        count = max((int(label) for label in given), default=-1) + 1
        return [int(label) if label else UNLABELLED for label in labels], [str(i) for i in range(count)]
    classes = sorted(set(given))
    index = {name: number for number, name in enumerate(classes)}
    return [index.get(label, UNLABELLED) for label in labels], classes


def _list_shards(text: str, split: str, aliases: Sequence[str]) -> tuple[list[Path], dict[str, int]]:
    """The local tars of a split, downloaded if need be, and the sample counts that `_info.json` states."""
    if text.startswith("pipe:"):
        raise InputError(f"Shards must be files or http(s) URLs; got {text!r}. Commands are never run.")
    web = text.startswith(("http://", "https://"))
    folder = text if web and not text.endswith((".tar", ".json")) else None
    if web and text.endswith("/_info.json"):
        folder = text.removesuffix("_info.json")
    if folder is not None:
        info = json.loads(_download(folder.rstrip("/") + "/_info.json").read_text("utf-8"))
        names, lengths = _split_of(info, split, aliases, folder)
        return [_download(f"{folder.rstrip('/')}/{name}") for name in names], lengths
    path = Path(text)
    if not web and path.is_dir():
        if (path / "_info.json").is_file():
            info = json.loads((path / "_info.json").read_text("utf-8"))
            names, lengths = _split_of(info, split, aliases, str(path))
            return _existing([path / name for name in names]), lengths
        tars = sorted(path.glob("*.tar"))
        named = [tar for tar in tars if any(re.search(rf"(^|[-_.]){alias}([-_.]|$)", tar.name) for alias in aliases)]
        return named or tars, {}
    if re.search(r"\.tar\.\w+$|\.tgz$", text):
        raise InputError(f"Shards must be plain tars, which can be read at any place; got {text!r}. Unpack them.")
    places = _expanded(text)
    if web:
        return [_download(place) for place in places], {}
    if len(places) == 1 and not Path(places[0]).exists():
        places = sorted(glob.glob(places[0])) or places
    return _existing([Path(place) for place in places]), {}


def _split_of(info: dict, split: str, aliases: Sequence[str], where: str) -> tuple[list[str], dict[str, int]]:
    """File names and their sample counts from an `_info.json`."""
    splits = info.get("splits")
    splits = splits if isinstance(splits, dict) else {split: info}
    name = next((alias for alias in (split, *aliases) if alias in splits), None)
    if name is None:
        raise InputError(f"{where} has the splits {', '.join(splits)}; got {split!r}. {nearest(split, splits)}")
    files = splits[name].get("filenames") or []
    if not all(isinstance(file, str) and "/" not in file and not file.startswith("pipe:") for file in files):
        raise InputError(f"_info.json of {where} must name tars beside it; got {files[:3]}.")
    lengths = splits[name].get("shard_lengths") or []
    return files, dict(zip(files, lengths, strict=False))


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
            raise InputError(f"Shards must exist; {str(path)!r} does not. {nearest(path.name, siblings)}")
    return paths


def _download(url: str) -> Path:
    """A shard in the local cache, fetched whole or not at all."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hierax" / "shards"
    target = cache / hashlib.sha256(url.encode()).hexdigest()[:16] / url.rsplit("/", 1)[-1]
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as stream:
            shutil.copyfileobj(response, stream)
            expected = response.headers.get("Content-Length")
        if expected is not None and partial.stat().st_size != int(expected):
            raise InputError(f"A shard must arrive whole; {url} sent {partial.stat().st_size} of {expected} bytes.")
        os.replace(partial, target)
    except (OSError, URLError) as error:
        raise InputError(f"Shards must be reachable; {url}: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _index_shard(number: int, path: Path, labelled: bool, index: _Index) -> None:
    """Add the samples of one tar, and what is wrong with it."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    end = path.stat().st_size
    with path.open("rb") as stream:
        for key, extension, place in _members(stream, path.name, end, index.problems):
            members = samples.setdefault(key, {})
            if extension in members:
                index.problems.append((f"{path.name}/{key}", f"has two .{extension} members; the first is taken"))
                continue
            members[extension] = place
        for key, members in samples.items():
            image = next((members[name] for name in _IMAGES if name in members), None)
            if image is None:
                index.problems.append((f"{path.name}/{key}", "has no image"))
                continue
            label = _label(stream, members)
            if labelled and not label:
                index.problems.append((f"{path.name}/{key}", "has no cls and no label in json"))
                continue
            index.shard.append(number)
            index.offset.append(image[0])
            index.size.append(image[1])
            index.keys.append(key)
            index.labels.append(label)


def _members(
    stream: BinaryIO, shard: str, end: int, problems: list[tuple[str, str]]
) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Key, extension and place of each whole regular member; a shard that was cut is reported."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                folder, _, file = member.name.rpartition("/")
                stem, _, extension = file.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if not member.isreg() or member.issparse():
                    if not member.isdir():
                        problems.append((f"{shard}/{member.name}", "is no regular file"))
                elif member.offset_data + member.size > end:
                    problems.append((f"{shard}/{member.name}", "is cut off"))
                elif stem and extension:
                    yield key, extension.lower(), (member.offset_data, member.size)
            after = tar.offset
    except tarfile.TarError as error:
        problems.append((shard, f"is truncated or damaged: {error}"))
        return
    # tarfile takes the end of the file for the end of the archive; only the end marker proves that nothing is missing.
    stream.seek(min(after, end))
    marker = stream.read(_BLOCK)
    if len(marker) < _BLOCK or any(marker):
        problems.append((shard, "is truncated: it has no end marker, so samples may be missing"))


def _label(stream: BinaryIO, members: dict[str, tuple[int, int]]) -> str:
    """The label of a sample, as text; empty where there is none."""
    if "cls" in members:
        return _sidecar(stream, members["cls"]).decode("utf-8", "replace").strip()
    if "json" not in members:
        return ""
    try:
        data = json.loads(_sidecar(stream, members["json"]))
    except ValueError:
        return ""
    value = next((data[key] for key in ("label", "cls", "class") if key in data), "") if isinstance(data, dict) else ""
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _sidecar(stream: BinaryIO, place: tuple[int, int]) -> bytes:
    stream.seek(place[0])
    return stream.read(min(place[1], _MAX_SIDECAR))
