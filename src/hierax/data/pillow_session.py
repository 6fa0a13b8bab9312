"""Decoding under settings that Pillow keeps in module globals, from many threads at once."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image, ImageFile


@dataclass(frozen=True)
class _Settings:
    truncated: bool
    largest: int | None


@dataclass
class _Running:
    """The decodes under way, what they asked for, and what was there before them."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    count: int = 0
    asked: tuple[bool, int] = (False, 0)
    before: _Settings = field(default_factory=lambda: _Settings(False, None))
    filter: object = None


_running = _Running()
# Pillow logs about odd TIFF tags; without a handler the logging module would print that to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextmanager
def pillow_session(allow_truncated: bool, max_pixels: int) -> Iterator[None]:
    """Hold Pillow's switches for one decode.

    Decodes that ask for the same run side by side, others wait. Pillow's own size limit is only ever raised,
    for a caller who asks for more than it allows. Its warnings are silenced meanwhile, by one filter that is
    added and removed, because `warnings.catch_warnings` would undo what other threads do.

    Args:
        allow_truncated: Whether decoders may fill what is missing at the end of a file.
        max_pixels: The caller's own limit, which the caller checks.
    """
    asked = (allow_truncated, max_pixels)
    with _running.changed:
        _running.changed.wait_for(lambda: _running.count == 0 or _running.asked == asked)
        if _running.count == 0:
            _enter(asked)
        _running.count += 1
    try:
        yield
    finally:
        with _running.changed:
            _running.count -= 1
            if _running.count == 0:
                _leave()
                _running.changed.notify_all()


def _enter(asked: tuple[bool, int]) -> None:
    allow_truncated, max_pixels = asked
    limit = Image.MAX_IMAGE_PIXELS
    _running.asked = asked
    _running.before = _Settings(ImageFile.LOAD_TRUNCATED_IMAGES, limit)
    ImageFile.LOAD_TRUNCATED_IMAGES = allow_truncated
    if limit is not None:
        Image.MAX_IMAGE_PIXELS = max(limit, max_pixels)
    warnings.filterwarnings("ignore", module=r"PIL\b")
    _running.filter = warnings.filters[0]


def _leave() -> None:
    ImageFile.LOAD_TRUNCATED_IMAGES = _running.before.truncated
    Image.MAX_IMAGE_PIXELS = _running.before.largest
    if _running.filter in warnings.filters:
        warnings.filters.remove(_running.filter)  # type: ignore[attr-defined]
