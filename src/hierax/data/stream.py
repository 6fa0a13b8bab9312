"""A source of images of any size as a stream of items, each with its position: nothing is listed whole.

Files, folders, globs and lists on stdin; tar shards, here or on the web; Parquet and Arrow tables; places that fsspec
has a driver for. Item n is the same one in every run over the same source, which is what lets a run go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..net.address import is_address, shown
from . import containers, remote
from .items import Item, digest_after, is_there
from .sources import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    as_list,
    files_of,
    named_inputs,
    nothing_found,
    stdin_lines,
    tell,
)
from .walk import Walk

_LOOKED_AT = 1000  # inputs, in search of one that is there, before a run begins
_KEPT_BYTES = 64 << 20  # of images that are here already
_ALL = (1, 1)


class Source:
    """What a person means by the inputs that they name, as a stream that is gone through once.

    Args:
        inputs: Files, folders, globs, tars, tables, URLs, or "-" for a list on stdin.
        share: (number from 1, of how many): which positions to give; all of them are counted.

    Attributes:
        start: The first position to give.
        before: Digest of the names before it, where it is known.
        position: How many items were counted.
        digest: Of all their names, in order.
        walk: Counts what was passed over.
        other: How many files were passed over because the model does not take them.
    """

    def __init__(self, inputs: Any, *, share: tuple[int, int] = _ALL) -> None:
        inputs = as_list(inputs)
        self.named = named_inputs(inputs)
        self._raw: list[str] = [os.fspath(item) for item in inputs]
        self.share, self.start, self.before = share, 0, b""
        self.position, self.digest = 0, b""
        self.walk, self.other = Walk(IMAGE_EXTENSIONS | VIDEO_EXTENSIONS), 0
        self._unwanted, self._empty = frozenset[str](), list[str]()
        self._first: list[Item] | None = None
        self._looking = False
        self._entries = self._found()

    def look(self) -> None:
        """Find a first input, so that a wrong path is told before anything else is done.

        Raises:
            InputError: There is none.
        """
        if self._first is not None:
            return
        self._first, self._looking = [], True
        for item in islice(self._entries, _LOOKED_AT):
            self._first.append(item)
            if item.data is not None or item.shard is not None or is_there(item.place) or remote.reaches(item.place):
                self._looking = False
                return
        self._looking = False
        if len(self._first) < _LOOKED_AT:
            found = [Path(item.name) for item in self._first[:1]]
            raise InputError(nothing_found(self.named, found, self.walk, IMAGE_EXTENSIONS))

    def fewer_than(self, count: int) -> bool:
        """Whether there are fewer inputs, and not too large ones to be kept; draws as many of them."""
        self.look()
        first, self._looking = self._first or [], True
        held = sum(item.weight for item in first)
        for item in islice(self._entries, max(count - len(first), 0)):
            first.append(item)
            held += item.weight
            if held > _KEPT_BYTES:
                break
        self._looking = False
        return len(first) < count and held <= _KEPT_BYTES

    def only(self, extensions: frozenset[str]) -> None:
        """Pass over videos, or images, that were found rather than named: a model takes one of the two."""
        self._unwanted = (IMAGE_EXTENSIONS | VIDEO_EXTENSIONS) - extensions

    def counted(self, wanted: Callable[[], bool] = lambda: True) -> int | None:
        """How many items of this share there are, where a look at folders tells; nothing is opened, and nothing said.

        Args:
            wanted: Asked on the way whether to go on.

        Returns:
            None where files would have to be read, or fetched, and where `wanted` ended it.
        """
        for text in self._raw:
            if text == "-" or is_address(text) or containers.means_tars(text) or containers.means_tables(text):
                return None
        again = Source(self._raw, share=self.share)
        again._unwanted, count = self._unwanted, 0
        for entry in again._found():
            count += not again._passed_over(entry)
            if not wanted():
                return None
        number, of = self.share
        return (count - number) // of + 1

    def __iter__(self) -> Iterator[Item]:
        """The items of this share, from the start on.

        Raises:
            InputError: Nothing was found, or a shard cannot be fetched.
        """
        self.look()
        first, self._first = self._first or [], []
        number, count = self.share
        for entry in _chained(first, self._entries):
            if self._passed_over(entry):
                self.other += 1
                continue
            position = self.position
            if position == self.start:
                self._check_before()
            self.digest = digest_after(self.digest, entry.name)
            self.position += 1
            if position >= self.start and position % count == number - 1:
                yield replace(entry, id=position, digest=self.digest)
        if self.position <= self.start:
            self._check_before()
        if not self.position:
            takes, are = ("clips", "images") if self._unwanted & IMAGE_EXTENSIONS else ("images", "clips")
            raise InputError(f"The model takes {takes}; the {self.other} files that were found are {are}.")
        tell(self.walk, self._empty)

    def _check_before(self) -> None:
        """Refuse a source that is another one than before up to where a run goes on."""
        if self.before and (self.position, self.digest) != (self.start, self.before):
            raise InputError(
                f"A run goes on where it stopped, behind the first {self.start:,} inputs, which must be as they were, "
                "in order; files were added, removed or renamed, or are named in another way. Name the inputs as "
                "then, keep the store fresh with `hierax index`, or name another output."
            )

    def wants(self, count: int) -> bool:
        """Whether any of the next positions is to be given; nothing else needs to be read."""
        if self._looking:
            return True
        number, of = self.share
        end = self.position + count
        start = max(self.position, self.start)
        return start + (number - 1 - start) % of < end

    def _passed_over(self, entry: Item) -> bool:
        if not self._unwanted or entry.shard is not None:
            return False
        named = entry.place in self._explicit
        return not named and os.path.splitext(entry.place)[1].lower() in self._unwanted

    def _found(self) -> Iterator[Item]:
        self._explicit = {text for text in self._raw if not os.path.isdir(text)}
        for text in self._raw:
            any_found = False
            for item in self._listed() if text == "-" else self._of(text):
                any_found = True
                yield item
            if not any_found:
                self._empty.append(text)

    def _listed(self) -> Iterator[Item]:
        for path in stdin_lines():
            yield from self._of(path, listed=True)

    def _of(self, text: str, *, listed: bool = False) -> Iterator[Item]:
        """The items of one input."""
        if text.startswith("file://"):
            text = text.removeprefix("file://")
        try:
            if containers.means_tars(text):
                yield from containers.in_tars(text)
                return
            if containers.means_tables(text):
                yield from containers.in_tables(text, self.wants)
                return
            if is_address(text) and not is_there(text):
                yield from remote.files(text, self.walk)
                return
        except InputError as error:
            if not listed:
                raise
            yield Item(shown(text), error=str(error))
            return
        for path in self.walk.take(text) if listed else files_of(text, self.walk):
            yield Item(str(path), str(path))


def _chained(first: list[Item], rest: Iterable[Item]) -> Iterator[Item]:
    while first:
        yield first.pop(0)
    yield from rest
