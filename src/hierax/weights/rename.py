"""Parameter names: one table per format, read in both directions.

Our names are Meta's. Inside a masked autoencoder the encoder's own parameters carry the prefix `encoder.`; tables
never see it (`flat_names`). Position tables differ in layout as well as in name (`to_ours`, `to_theirs`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..config import ModelConfig
from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

# Added by training wrappers; stripped when every key carries them.
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "_forward_module.")
MOST_WRAPPERS = 8  # one around another; each is a pass over all names, which may be megabytes
# The patch embedding's weight in each format: every copy of a network in a file has one.
STARTS = (
    "patch_embed.proj.weight",
    "patch_embed.projection.weight",
    "embeddings.patch_embeddings.projection.weight",
    "stem.proj.weight",
)
AVERAGED = re.compile(r"(^|[._])(ema|teacher|averaged)(_|\.|$)")
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How one format spells our parameter names.

    Attributes:
        block: Their prefix of a block, with {n} (counted from 0 over the network) or {stage} or {stage0}
            (from 1, from 0) and {j} (within the stage).
        parts: (ours, theirs) beginnings of names inside a block.
        outer: (ours, theirs) beginnings of names outside the blocks; the first match wins.
        decoder_block: Like `block`, for the decoder of a masked autoencoder.
    """

    block: str = "blocks.{n}."
    parts: Pairs = ()
    outer: Pairs = ()
    decoder_block: str = "decoder_blocks.{n}."

    def spell(self, key: str, depths: Sequence[int]) -> str:
        """Their name of one of our (flat) parameters."""
        for ours, theirs in (("blocks.", self.block), ("decoder_blocks.", self.decoder_block)):
            if key.startswith(ours):
                number, rest = key.removeprefix(ours).split(".", 1)
                n = int(number)
                stage, j = _locate(n, depths) if ours == "blocks." else (0, n)
                return theirs.format(n=n, stage=stage + 1, stage0=stage, j=j) + _swap(rest, self.parts)
        return _swap(key, self.outer)

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """Our (flat) name of each of theirs that belongs to the network; the others are absent."""
        known: dict[str, str] = {}
        back = tuple((theirs, ours) for ours, theirs in self.parts)
        encoder, decoder = _pattern(self.block), _pattern(self.decoder_block)
        blocks: list[tuple[tuple[int, ...], str, str]] = []
        for name in names:
            if found := decoder.match(name):
                known[name] = f"decoder_blocks.{found[1]}." + _swap(name[found.end() :], back)
            elif found := encoder.match(name):
                blocks.append((tuple(map(int, found.groups())), name, _swap(name[found.end() :], back)))
            else:
                known[name] = _swap(name, tuple((theirs, ours) for ours, theirs in self.outer))
        order = {place: n for n, place in enumerate(sorted({place for place, _, _ in blocks}))}
        known.update({name: f"blocks.{order[place]}.{rest}" for place, name, rest in blocks})
        return known


def _locate(n: int, depths: Sequence[int]) -> tuple[int, int]:
    """Stage (from 0) and position in it of the n-th block."""
    for stage, depth in enumerate(depths):
        if n < depth:
            return stage, n
        n -= depth
    return len(depths) - 1, n


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", r"(\\d{1,6})", re.escape(template)), re.ASCII)


def _swap(name: str, pairs: Pairs) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def unwrap(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Drop prefixes that training wrappers put before every name, and choose between copies of the network.

    Of a plain and an averaged copy (`ema.`, `teacher.`) under two prefixes the averaged one is taken; the notes say so.

    Raises:
        CheckpointError: Several copies, none or several of them averaged.
    """
    notes: tuple[str, ...] = ()
    # AveragedModel counts its updates in a scalar beside the network.
    tensors = {key: tensor for key, tensor in tensors.items() if key not in ("n_averaged", "num_updates")}
    copies = {key.removesuffix(tail) for key in tensors for tail in STARTS if f".{key}".endswith(f".{tail}")}
    if len(copies) > 1:
        averaged = [prefix for prefix in copies if AVERAGED.search(prefix)]
        if len(averaged) != 1:
            raise CheckpointError(
                f"The file holds {len(copies)} networks, under {', '.join(sorted(map(repr, copies)))}. "
                "Save the one you want in a file of its own."
            )
        root = averaged[0]
        # Heads and decoders stand beside the encoder, so the copy is everything under the prefix's first part.
        first = root[: root.index(".") + 1]
        others = ", ".join(repr(prefix) for prefix in sorted(copies) if prefix != root)
        notes = (f"weights taken from {root!r}; the file also holds {others}",)
        tensors = {key.removeprefix(first): value for key, value in tensors.items() if key.startswith(first)}
    for _ in range(MOST_WRAPPERS):
        shared = next((p for p in WRAPPERS if tensors and all(key.startswith(p) for key in tensors)), None)
        if shared is None:
            break
        tensors = {key[len(shared) :]: value for key, value in tensors.items()}
    return tensors, notes


def flat_name(key: str) -> str:
    """A module's parameter name without the `encoder.` that masked autoencoders put before some."""
    return key.removeprefix("encoder.")


def to_ours(key: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Lay a position table out as we store it, (1, *grid, c); other tensors pass through.

    Raises:
        CheckpointError: The table does not have the number of tokens that the config says.
    """
    shape = table_shape(key, config)
    if shape is None:
        return tensor
    if tensor.ndim == 4 and config.position == "window" and key in ("pos_embed", "pos_embed_window"):
        return tensor.permute(0, 2, 3, 1)
    count = math.prod(shape)
    if tensor.ndim != 3 or tensor.shape[1] != count:
        raise CheckpointError(
            f"{key!r} must hold {count} positions for input size {config.input_size}; got {tuple(tensor.shape)}. "
            "Pass name= of the matching architecture, or the input size the file was saved at in its config."
        )
    return tensor.reshape(1, *shape, tensor.shape[-1])


def to_theirs(key: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Inverse of `to_ours`: flat tables, or channels first where the background table is resized."""
    if table_shape(key, config) is None:
        return tensor
    if config.position == "window" and key in ("pos_embed", "pos_embed_window"):
        return tensor.permute(0, 3, 1, 2)
    return tensor.flatten(1, -2)


def table_shape(key: str, config: ModelConfig) -> tuple[int, ...] | None:
    """Grid of a position table by its flat name; None for every other parameter."""
    if key == "decoder_pos_embed":
        return config.decoder_table_size
    table = config.table_size
    outer = {"pos_embed": table, "pos_embed_window": config.mask_unit}
    return {**outer, "pos_embed_spatial": table[1:], "pos_embed_temporal": table[:1]}.get(key)
