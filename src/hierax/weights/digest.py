"""Which weights a model has: the digest of their file, published or on this machine."""

from __future__ import annotations

import hashlib

from ..net.cache import sha256_of
from .card import ModelCard
from .files import weight_map


def weights_digest(card: ModelCard) -> str:
    """SHA-256 of the weights file, 64 hexadecimal digits; empty where there is none or it cannot be read any more.

    Of a published file it is the published one. Of weights in several files it is that of their digests, in the order
    of their names.
    """
    if card.sha256 is not None or card.path is None:
        return card.sha256 or ""
    try:
        if not card.path.name.endswith(".index.json"):
            return sha256_of(card.path)
        parts = sorted(set(weight_map(card.path).values()))
        return hashlib.sha256("".join(sha256_of(card.path.parent / part) for part in parts).encode()).hexdigest()
    except OSError:
        return ""
