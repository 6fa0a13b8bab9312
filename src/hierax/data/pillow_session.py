"""Decoding under settings that Pillow keeps in module globals, from many threads at once."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

from PIL import Image, ImageFile

MAX_PIXELS = 100_000_000  # of one image, width times height

_lock = threading.Lock()
_running = 0  # decodes under way
_undo = contextlib.ExitStack()  # what brings back the settings from before them
# Pillow logs about odd TIFF tags; without a handler the logging module would print that to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextlib.contextmanager
def pillow_session() -> Iterator[None]:
    """Hold Pillow's switches while images are decoded; sessions run side by side.

    Truncated files are refused, whatever other packages have set. Pillow's own size limit is only ever raised: whoever
    decodes checks `MAX_PIXELS`. Its warnings are silenced meanwhile, by one filter that is added and removed, because
    `warnings.catch_warnings` would undo what other threads do.
    """
    global _running
    with _lock:
        if _running == 0:
            _undo.enter_context(_switched())
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                _undo.close()


@contextlib.contextmanager
def _switched() -> Iterator[None]:
    truncated, limit = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    Image.MAX_IMAGE_PIXELS = None if limit is None else max(limit, MAX_PIXELS)
    warnings.filterwarnings("ignore", module=r"PIL\b")
    entry = warnings.filters[0]
    yield
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = truncated, limit
    with contextlib.suppress(ValueError):  # somebody else removed it
        warnings.filters.remove(entry)  # type: ignore[attr-defined]
