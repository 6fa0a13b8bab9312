"""Features on disk, so that images are computed once for a network, whatever data set they are in.

A feature belongs to the bytes of an image (not to its name or time) and to a space: the digest of everything that
decides the numbers. `HF_HOME/hierax/features/SPACE/*.safetensors` hold some thousand features each, with the digests
of their images; nothing there is ever changed, only added and, the least recently used first, removed. A file that is
damaged is removed and computed again. Without a place to write, nothing is kept, and that is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from .. import console
from ..atomic import atomic_file
from ..net.cache import cache_root

MOST_BYTES = 4 << 30  # of all features
_DIGEST = 16  # bytes of an image's


class KeptFeatures:
    """The features of one space.

    Args:
        space: Digest of what decides the numbers; None keeps nothing.
    """

    def __init__(self, space: str | None) -> None:
        self._root = cache_root() / "features"
        self._folder = None if space is None else self._root / space

    def find(self, wanted: Collection[bytes]) -> dict[bytes, Float[ndarray, " c"]]:
        """The features of images, by digest, that are there."""
        found: dict[bytes, ndarray] = {}
        for path in [] if self._folder is None else sorted(self._folder.glob("*.safetensors")):
            if len(found) == len(wanted):
                break
            for key, vector in _read(path, wanted).items():
                found.setdefault(key, vector)
        return found

    def add(self, keys: Sequence[bytes], vectors: Float[ndarray, "n c"]) -> None:
        """Keep features; where that cannot be, nothing is kept from then on."""
        if self._folder is None or not len(keys):
            return
        from safetensors.numpy import save_file

        known = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), _DIGEST)
        vectors = np.ascontiguousarray(vectors, np.float32)
        path = self._folder / f"{hashlib.sha256(known.data).hexdigest()[:32]}.safetensors"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as partial:
                save_file({"keys": known, "vectors": vectors}, partial, {"sha256": _digest(known, vectors)})
            _prune(self._root, but=path)
        except Exception as error:  # safetensors wraps what the system refuses
            console.say(f"features are not kept, as {self._folder} cannot be written: {error}")
            self._folder = None


def _read(path: Path, wanted: Collection[bytes]) -> dict[bytes, Float[ndarray, " c"]]:
    """What a file has of that which is wanted; nothing of one that vanished or is damaged, which is removed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            known = file.get_tensor("keys")
            keys = [row.tobytes() for row in known]
            rows = [row for row, key in enumerate(keys) if key in wanted]
            if not rows:
                return {}
            vectors = file.get_tensor("vectors")
            if (file.metadata() or {}).get("sha256") != _digest(known, vectors):
                raise SafetensorError("damaged")
        os.utime(path)
        return {keys[row]: vectors[row] for row in rows}
    except FileNotFoundError:
        return {}
    except (SafetensorError, OSError, ValueError):
        with contextlib.suppress(OSError):
            path.unlink()
        return {}


def _digest(*arrays: ndarray) -> str:
    digest = hashlib.sha256(json.dumps([array.shape for array in arrays]).encode())
    for array in arrays:
        digest.update(array.data)
    return digest.hexdigest()


def _prune(root: Path, *, but: Path) -> None:
    """Remove what was not used for longest until all that is kept is below the bound."""
    files = []
    for path in root.glob("*/*.safetensors"):
        with contextlib.suppress(OSError):  # another process removed it
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in files) - MOST_BYTES
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        if path != but:
            with contextlib.suppress(OSError):
                path.unlink()
                excess -= size
