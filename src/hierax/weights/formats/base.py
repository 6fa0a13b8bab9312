"""What every checkpoint format must be able to say; the six formats each fill it in."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...config import DecoderConfig, ModelConfig, PreprocessSpec
from ...errors import CheckpointError, InputError, brief
from ...schema import as_field, parse_json, pick
from ..files import RawCheckpoint
from ..geometry import Geometry
from ..rename import Dialect, to_ours

if TYPE_CHECKING:
    from torch import Tensor

    from ..card import Weights


class Format(ABC):
    """One checkpoint format: how to recognise, read and write it."""

    name: ClassVar[str]
    """Public name, as in `hierax convert --to`."""

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of a single file that `write` can make; without one, and by default, it fills a folder."""

    tensors_only: ClassVar[bool] = False
    """Whether files hold tensors alone, without class names or preprocess."""

    may_be_fresh: ClassVar[tuple[str, ...]] = ()
    """Beginnings of parameters of the network that may be missing from such files."""

    norm_when_masked: ClassVar[bool] = True
    """Whether its autoencoder has a place for the final norm, which no masked pass reads."""

    @abstractmethod
    def matches(self, raw: RawCheckpoint) -> bool:
        """Whether the content (never the file name) is of this format."""

    def anonymous(self, raw: RawCheckpoint) -> bool:
        """Whether these are somebody's own weights, of which the catalogue knows nothing whatever name was given."""
        return False

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """Prefix of the encoder's names in this file, and the rename table; as we name them unless the format says."""
        return "", Dialect()

    def our_names(self, raw: RawCheckpoint) -> dict[str, str]:
        """Our flat name of each tensor that may be the network's, to the file's."""
        prefix, dialect = self.dialect(raw)
        inside = {name[len(prefix) :]: name for name in raw.tensors if name.startswith(prefix)}
        names = {our: inside[bare] for bare, our in dialect.read(inside).items()}
        outside = [name for name in raw.tensors if prefix and not name.startswith(prefix)]
        for bare, our in dialect.read(outside).items():
            # Outside the encoder's prefix stand heads and decoders, never encoder parameters.
            if not our.startswith(("patch_embed.", "pos_embed", "blocks.", "norm.")):
                names.setdefault(our, bare)
        return names

    def laid_out(self, ours: str, tensor: Tensor, config: ModelConfig) -> Tensor:
        """One of the file's tensors as we store it."""
        return to_ours(ours, tensor, config)

    def before(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig) -> ModelConfig:
        """The network to read where the caller named one that its weights must be turned into afterwards."""
        if geometry.decoder_pools < 0 or named.decoder is not None:
            return named
        # Read as the autoencoder it is; the encoder is taken out afterwards.
        heads = raw.config.get("decoder_num_heads", 16)
        decoder = DecoderConfig(num_heads=as_field(DecoderConfig, "num_heads", heads, where="decoder_num_heads"))
        head = "pool_norm" if geometry.has_norm else "pool"
        return dataclasses.replace(
            named, name=f"mae_{named.name}", decoder=decoder, q_pool=geometry.decoder_pools, head=head
        )

    @abstractmethod
    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """The network in the file: `named` if the caller named one, else what the file or its sidecars say.

        Raises:
            CheckpointError: Not determined, or contradicted by the tensors.
        """

    @abstractmethod
    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """The origin's own recipe, with what the file says about it."""

    def labels(self, raw: RawCheckpoint, num_classes: int) -> list[str] | None:
        """Class names in the file, in index order."""
        return ordered_labels(pick(_Classes, raw.config, where="config.json").id2label, num_classes)

    def facts(self, raw: RawCheckpoint) -> Facts:
        """What hierax wrote beside the weights when it converted them: licence, data set, parent."""
        found = next((said for place in (raw.container, raw.config, raw.metadata) if (said := place.get("hierax"))), {})
        if isinstance(found, str):
            found = parse_json(found, where="'hierax' in the metadata must be JSON", error=CheckpointError)
        return pick(Facts, found, where="'hierax' beside the weights")

    def left_over(self, key: str) -> str | None:
        """Why a tensor that the network has no place for may stay unused; None makes it an error."""
        return None

    @abstractmethod
    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """What of this network the format cannot express; None if it can hold all of it."""

    @abstractmethod
    def write(self, weights: Weights, destination: Path) -> Path:
        """Write the weights so that the original package loads them.

        Args:
            weights: Complete weights of a network without an obstacle.
            destination: A file to make, by one of `suffixes`, or else an empty folder to fill.

        Returns:
            The folder itself, or the one file in it that matters.
        """


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What of a model's history a file may say; what follows weights through every conversion."""

    license: str | None = None
    commercial: bool | None = None
    dataset: str | None = None
    base_model: str | None = None
    citation: str | None = None
    origin: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Classes:
    id2label: dict[str, str] = field(default_factory=dict)


def ordered_labels(mapping: Mapping[str, str], num_classes: int) -> list[str] | None:
    """Class names from {index: name}, None unless every index is named and the names mean something.

    Raises:
        InputError: A key that is no index.
    """
    if wrong := [index for index in mapping if not (index.isdecimal() and len(index) < 10)]:
        raise InputError(f"Classes must be numbered from 0; got {brief(wrong[0])}.")
    names = {int(index): name for index, name in mapping.items()}
    if len(names) < num_classes or any(index not in names for index in range(num_classes)):
        return None
    ordered = [names[index] for index in range(num_classes)]
    # transformers fills LABEL_0, LABEL_1, ... where nobody named the classes.
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(ordered)) else ordered


def stated(data: Mapping[str, Any], table: Mapping[str, str]) -> dict[str, Any]:
    """Our fields, as their types are declared, that data says under the names that a table pairs with them.

    Raises:
        InputError: A value of another type, or out of its bounds; names their key.
    """
    said = {ours: theirs for ours, theirs in table.items() if theirs in data}
    return {ours: as_field(ModelConfig, ours, data[theirs], where=theirs) for ours, theirs in said.items()}


def listed(keys: Sequence[str], limit: int = 10) -> str:
    """The first names of a list, for messages."""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
