"""A head: what turns the stage maps of one network into classes of pixels, as a file below 1 MB.

A head is a linear map of each stage's channels. Of the kind "linear" it gives the scores of the classes; of the kind
"knn" a smaller space, in which the labelled cells that the file holds vote. The file says which weights it was made for
and is refused by others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from ..atomic import atomic_file
from ..data.mask_classes import MOST_CLASSES, MaskClass
from ..dense.labels import pixel_classes
from ..dense.linear import Linear
from ..dense.maps import FULL, Dense, View
from ..dense.tiles import STEP
from ..errors import CheckpointError, InputError, writing
from ..model.encoder import Encoder
from ..predictor import Predictor
from ..schema import Between, Length, conform, parse_json, plain, read
from ..weights.digest import weights_digest
from ..weights.safetensors_files import read_safetensors, save_safetensors
from .votes import TEMPERATURE, votes

FORMAT = "hierax.segment.head"
VERSION = "1"
MOST_BYTES = 1_000_000  # of a file
Kind = Literal["linear", "knn"]
Text = Annotated[str, Length(most=500)]
Level = Annotated[int, Between(least=0, most=255)]


@dataclass(frozen=True)
class ClassRecord:
    """A class as the file names it."""

    name: Annotated[str, Length(least=1, most=200)]
    color: tuple[Level, Level, Level]
    index: Level

    def __post_init__(self) -> None:
        conform(self, CheckpointError)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a head's file says beside its numbers.

    Attributes:
        kind: "linear" or "knn".
        model: Name of the network that it was made for.
        sha256: Digest of that network's file, empty where there was none.
        parameters: Digest of its parameters.
        license: Of those weights.
        stages: Which maps it takes.
        channels: Their widths.
        size: Shorter side at which images are looked at; 0 is as large as they are.
        tile: Side of a tile.
        input_size: What the network was configured for.
        classes: In the order of the scores.
        neighbours: Labelled cells that vote.
        temperature: A vote weighs exp(cosine / temperature).
        images: Labelled images that it was made from.
        accuracy: Share of labelled pixels that are right when their image is left out; -1 where nothing was left.
        version: Of hierax.
    """

    kind: Kind
    model: Text
    sha256: Text
    parameters: Text
    license: Text = ""
    stages: Annotated[tuple[Text, ...], Length(1, 4)]
    channels: Annotated[tuple[Annotated[int, Between(least=1, most=65536)], ...], Length(1, 4)]
    size: Annotated[int, Between(least=0, most=65536)]
    tile: Annotated[int, Between(least=64, most=4096)]
    input_size: Annotated[tuple[int, ...], Length(2, 2)]
    classes: Annotated[tuple[ClassRecord, ...], Length(1, MOST_CLASSES)]
    neighbours: Annotated[int, Between(least=1, most=10_000)] = 20
    temperature: Annotated[float, Between(above=0, most=100)] = TEMPERATURE
    images: Annotated[int, Between(least=0)] = 0
    accuracy: Annotated[float, Between(least=-1, most=1)] = -1.0
    version: Text = ""

    def __post_init__(self) -> None:
        conform(self, CheckpointError)
        if self.tile % STEP or not all(side >= 8 for side in (self.size or 8, *self.input_size)):
            raise CheckpointError(
                f"A head's tile is a multiple of {STEP} pixels, and sizes are 8 at least; this has others."
            )
        if len(self.stages) != len(self.channels) or len({each.index for each in self.classes}) != len(self.classes):
            raise CheckpointError(
                "A head has one width for each stage, and classes of different numbers; this has not."
            )


@dataclass(frozen=True)
class Head:
    """What turns stage maps into classes.

    Attributes:
        record: What is known about it.
        linear: The map of the stages' channels.
        support: Of the kind "knn", labelled cells of length 1.
        support_labels: Their classes.
    """

    record: Record
    linear: Linear
    support: Float[Tensor, "n k"] | None = None
    support_labels: Int[Tensor, " n"] | None = None

    @property
    def classes(self) -> list[MaskClass]:
        """Names, colours and numbers in masks."""
        return [MaskClass(each.name, each.color, each.index) for each in self.record.classes]

    def dense(self, predictor: Predictor) -> Dense:
        """The network as this head looks through it.

        Raises:
            InputError: It is another network than the head was made for.
        """
        check_model(self.record, predictor)
        record = self.record
        return Dense(predictor, record.stages, View(record.size or FULL, record.tile))

    def scores(self, dense: Dense, pixels: UInt8[ndarray, "h w 3"]) -> Float[Tensor, "k h w"]:
        """Scores of the classes in each cell of the finest map."""
        found = self.linear.of(dense, pixels)
        if self.support is None or self.support_labels is None:
            return found
        count, record = len(self.record.classes), self.record
        how: dict[str, Any] = {"classes": count, "neighbours": record.neighbours, "temperature": record.temperature}
        shares = votes(found.flatten(1).T, self.support, self.support_labels, **how)  # (h * w, k)
        return shares.T.reshape(count, *found.shape[1:])

    def segment(self, dense: Dense, pixels: UInt8[ndarray, "h w 3"]) -> UInt8[ndarray, "h w"]:
        """The class of each pixel of an image, as a place in `classes`."""
        return pixel_classes(self.scores(dense, pixels), (pixels.shape[0], pixels.shape[1]))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the head, whole or not at all.

        Raises:
            InputError: The file exists, the place cannot be written, or the head would not be below 1 MB.
        """
        path = Path(path).expanduser()
        if path.suffix != ".safetensors":
            raise InputError(f"A head is a .safetensors file; got {path.name!r}.")
        tensors = self._tensors()
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size > MOST_BYTES * 0.9:
            tensors = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        about = {"format": FORMAT, "version": VERSION, "head": json.dumps(plain(self.record))}
        if size + len(about["head"]) > MOST_BYTES * 0.99:
            raise InputError(
                f"A head is a file below 1 MB; {len(self.record.classes)} classes on {sum(self.record.channels)} "
                f"channels need {size:,} bytes. Take fewer stages or classes."
            )
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, replace=overwrite) as partial:
                save_safetensors(partial, tensors, about)
        return path

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"weights.{stage}": weight for stage, weight in self.linear.weights.items()}
        found["bias"] = self.linear.bias
        if self.support is not None and self.support_labels is not None:
            found["support"], found["support_labels"] = self.support.half(), self.support_labels.to(torch.uint8)
        return found


def load_head(path: str | Path) -> Head:
    """Read a head; neither the network nor the labels are needed.

    Raises:
        CheckpointError: No head, damaged, or made by a later version.
        InputError: The file cannot be opened.
    """
    path = Path(path).expanduser()
    _check_file(path)
    tensors, about = read_safetensors(path)
    if about.get("format") != FORMAT or "head" not in about:
        hint = "It holds the weights of a model, which -m takes." if len(tensors) > 10 else ""
        raise CheckpointError(
            f"A head is a file that `hierax segment train` wrote; {str(path)!r} is a safetensors file of another "
            f"kind. {hint}".rstrip()
        )
    if about.get("version") != VERSION:
        raise CheckpointError(
            f"This hierax reads heads of version {VERSION}; {str(path)!r} has {about.get('version', '')[:20]!r}. "
            "Update hierax, or train the head again."
        )
    where = f"The description of a head must be whole; that of {str(path)!r}"
    record = read(
        Record, parse_json(about["head"], where=where, error=CheckpointError), where=where, error=CheckpointError
    )
    return _assembled(record, tensors, path)


def check_model(record: Record, predictor: Predictor) -> None:
    """Refuse a network that a head was not made for.

    Parameters decide. Where they cannot be compared (reduced precision, another input size, an engine), the file does.

    Raises:
        InputError: It is another.
    """
    encoder = predictor.encoder
    if parameters_digest(predictor) == record.parameters:
        return
    plain_one = type(encoder) is Encoder and next(encoder.parameters()).dtype == torch.float32
    comparable = plain_one and tuple(encoder.config.input_size) == record.input_size
    file = weights_digest(predictor.card)
    if not comparable and file and file == record.sha256:
        return
    raise InputError(
        f"A head works with the network that it was trained on; this one was made for {record.model!r} (weights sha256 "
        f"{record.sha256[:12] or record.parameters[:12]}), and {predictor.card.name!r} has other weights "
        f"({(file or parameters_digest(predictor))[:12]}). Pass -m with those weights, or train a head for these."
    )


def parameters_digest(predictor: Predictor) -> str:
    """SHA-256 of the parameters that stage maps depend on: those of the encoder without its class head."""
    found = hashlib.sha256()
    for name, tensor in sorted(predictor.encoder.state_dict().items()):
        if name.split(".")[0] in ("head", "norm", "attention_pool"):
            continue
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def described(dense: Dense, kind: Kind, classes: list[MaskClass], **more: Any) -> Record:
    """What a head of a network says of itself."""
    from .. import __version__

    card = dense.predictor.card
    return Record(
        kind=kind,
        model=card.name,
        sha256=weights_digest(card),
        parameters=parameters_digest(dense.predictor),
        license=card.license or "",
        stages=dense.stages,
        channels=tuple(dense.channels.values()),
        size=0 if dense.view.size == FULL else int(dense.view.size),
        tile=dense.view.tile,
        input_size=tuple(dense.predictor.encoder.config.input_size),
        classes=tuple(ClassRecord(each.name, each.color, each.index) for each in classes),
        version=__version__,
        **more,
    )


def _check_file(path: Path) -> None:
    """Refuse what is no small file before it is read."""
    from ..data.files import open_regular

    with open_regular(path) as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        start = stream.read(9)
    if size > MOST_BYTES:
        raise CheckpointError(
            f"A head is a file below 1 MB; {str(path)!r} has {size:,} bytes. Pass it as -m if it is a model."
        )
    if len(start) < 9 or start[8:9] != b"{":
        raise CheckpointError(f"A head is a safetensors file that `hierax segment train` wrote; {str(path)!r} is none.")


def _assembled(record: Record, tensors: Mapping[str, Tensor], path: Path) -> Head:
    """A head of tensors whose shapes and values are what its description says."""
    width = len(record.classes) if record.kind == "linear" else len(tensors.get("bias", ()))
    shapes: dict[str, tuple[int, ...]] = {"bias": (width,)}
    pairs = zip(record.stages, record.channels, strict=True)
    shapes |= {f"weights.{stage}": (width, channels) for stage, channels in pairs}
    if record.kind == "knn":
        count = len(tensors.get("support", ()))
        shapes |= {"support": (count, width), "support_labels": (count,)}
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape or 0 in shape:
            got = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise CheckpointError(f"{name!r} of a head must be {shape}; {str(path)!r} has {got}. Train it again.")
        if tensors[name].is_floating_point() and not bool(tensors[name].float().isfinite().all()):
            raise CheckpointError(f"The numbers of a head must be finite; {name!r} of {str(path)!r} has others.")
    if extra := sorted(set(tensors) - set(shapes)):
        raise CheckpointError(f"A head holds {', '.join(shapes)}; {str(path)!r} also has {extra[0]!r}. Train it again.")
    linear = Linear({stage: tensors[f"weights.{stage}"].float() for stage in record.stages}, tensors["bias"].float())
    if record.kind == "linear":
        return Head(record, linear)
    labels = tensors["support_labels"].long()
    if int(labels.max()) >= len(record.classes) or tensors["support_labels"].dtype != torch.uint8:
        raise CheckpointError(f"Labelled cells of a head are of its classes; {str(path)!r} has others. Train it again.")
    return Head(record, linear, tensors["support"].float(), labels)
