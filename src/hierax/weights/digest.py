"""Which weights a model has: the digest of their file, published or on this machine."""

from __future__ import annotations

import hashlib

from ..net.cache import sha256_of
from .card import ModelCard
from .files import files_of


def weights_digest(card: ModelCard) -> str:
    """SHA-256 of the weights file, 64 hexadecimal digits; empty where there is none or it cannot be read any more.

    Of a published file it is the published one. Of weights in several files it is that of their digests, in the order
    of their names.
    """
    if card.sha256 is not None or card.path is None:
        return card.sha256 or ""
    try:
        first, *parts = files_of(card.path)
        if not parts:
            return sha256_of(first)
        return hashlib.sha256("".join(map(sha256_of, parts)).encode()).hexdigest()
    except OSError:
        return ""
