"""One image in, one answer out: a network with its preprocess, class names and provenance."""

from __future__ import annotations

import copy
import dataclasses
import html
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .config import STAGE_NAMES
from .data.inputs import network_input
from .data.loader import map_batches
from .data.rows import Rows, map_rows
from .data.sources import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, find_images, stands_for_many
from .errors import CheckpointError, InputError, brief
from .model.encoder import Encoder
from .model.programs.encoder import ProgramEncoder
from .schema import positive
from .weights.card import Weights
from .weights.network import from_module
from .weights.write import write_weights


@dataclass(frozen=True)
class Prediction:
    """One class that an image may show; score is a probability in 0..1."""

    label: str
    index: int
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        """Short enough for lists of them."""
        return f"Prediction({self.label!r}, index={self.index}, score={self.score:.3f})"


class Predictions(list[Any]):
    """A list of predictions, or of such lists, that a notebook shows as a table."""

    def _repr_html_(self) -> str:
        if not any(self):
            return "<p>no predictions</p>"
        rows = []
        for number, row in enumerate(self):
            for guess in [row] if isinstance(row, Prediction) else row:
                cells = (str(number), guess.label, f"{guess.score:.3f}")
                rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
        return f"<table><tr><th></th><th>label</th><th>score</th></tr><tr>{'</tr><tr>'.join(rows)}</tr></table>"


class Predictor:
    """A network with its preprocess, class names and provenance.

    Attributes:
        model: The network, in eval mode; an `Encoder`, or a `MaskedAutoencoder` where the checkpoint has a decoder.
        preprocess: How images become its input.
        card: What is known about the weights.
        report: Which tensors came from the file and which did not.
        device: Where the model is.
        views: Clips taken from each video, whose answers are averaged, where a call names no other number.
    """

    def __init__(self, model: nn.Module, weights: Weights) -> None:
        self.model = model.eval()
        self.preprocess = weights.preprocess
        self.card = weights.card
        self.report = weights.report
        self.views = 1
        self._weights = weights
        self._labels = weights.labels

    def __repr__(self) -> str:
        """Name, network, size, classes and place on one line."""
        encoder = self.encoder
        size, dtype = "x".join(map(str, encoder.input_size)), next(self.model.parameters()).dtype
        parts = (self.card.name, type(self.model).__name__, size, f"{encoder.num_classes} classes", dtype, self.device)
        return f"Predictor({', '.join(map(str, parts))})"

    @property
    def labels(self) -> list[str] | None:
        """Class names by index; None where nobody named them, or where the head has another number of classes now.

        A head that was replaced by one of as many classes cannot be told from the old: assign its labels, or None.
        """
        named = self._labels is not None and len(self._labels) == self.encoder.num_classes
        return self._labels if named else None

    @labels.setter
    def labels(self, labels: list[str] | None) -> None:
        self._labels = labels

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def encoder(self) -> Encoder:
        """The encoder itself, inside a masked autoencoder too."""
        return getattr(self.model, "encoder", self.model)  # type: ignore[return-value]

    def classify(
        self, images: Any, *, top_k: int = 5, batch_size: int = 32, views: int | None = None
    ) -> list[list[Prediction]]:
        """The most probable classes of each image, best first.

        Args:
            images: One or many paths, PIL images, uint8 arrays (h, w, 3), or preprocessed tensors.
            top_k: How many classes per image.
            batch_size: Images at a time.
            views: Clips taken from each video, whose answers are averaged; None is the predictor's own `views`.

        Raises:
            InputError: The model has no classes, an image cannot be read, or an answer would not be finite.
        """
        if self.encoder.num_classes == 0:
            raise InputError(
                f"classify needs a classification head; {self.card.name!r} has none. Use embed or features, "
                "or load a checkpoint with classes (`hierax list`)."
            )
        self._require("logits")
        positive(top_k=top_k)
        rows = Predictions()
        for logits in self._run(images, batch_size, views, self.encoder):
            self._finite(logits, len(rows))
            scores = _over_views(logits.double().softmax(-1))
            best = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
            for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                pairs = zip(values, indices, strict=True)
                rows.append(Predictions(Prediction(self.label(index), index, score) for score, index in pairs))
        return rows

    def label(self, index: int) -> str:
        """Name of a class, `class_123` where nobody named it."""
        return f"class_{index}" if self.labels is None else self.labels[index]

    def embed(
        self, images: Any, *, normalize: bool = False, batch_size: int = 32, views: int | None = None
    ) -> np.ndarray:
        """Embeddings as float32 (n, c).

        Args:
            images: As for `classify`.
            normalize: Scale each vector to length 1.
            batch_size: Images at a time.
            views: As for `classify`.

        Raises:
            InputError: An image cannot be read, or a vector would not be finite; `embed_files` gives a reason for each.
        """
        self._require("embedding")
        none = torch.zeros(0, self.encoder.embedding_size)
        parts = list(self._run(images, batch_size, views, self.encoder.embedding))
        vectors = _over_views(torch.cat(parts or [none]).float())
        self._finite(vectors)
        if normalize:  # in a type that holds the square of any float32
            vectors = torch.nn.functional.normalize(vectors.double(), dim=-1).float()
        return vectors.numpy()

    def embed_files(
        self,
        source: str | Path | Iterable[str | Path],
        *,
        normalize: bool = False,
        batch_size: int = 32,
        progress: bool = False,
    ) -> Rows:
        """An embedding, float32 (c,), of each of many files, or the reason why there is none.

        Rows come in sorted order as batches are done, in memory that does not grow with their number; one file that
        cannot be read stops none of the others. `.to_arrow()` and `.to_pandas()` make a table of them.

        Args:
            source: A folder, which is walked, a glob, a file, or several of these.
            normalize: Scale each vector to length 1.
            batch_size: Files at a time.
            progress: A progress bar.

        Raises:
            InputError: No file was found, or batch_size is impossible.
        """
        self._require("embedding")
        extensions = VIDEO_EXTENSIONS if self.encoder.config.is_video else IMAGE_EXTENSIONS
        paths, empty = find_images(source, extensions=extensions), (3, *self.encoder.config.input_size)
        options = {"batch_size": batch_size, "progress": progress, "normalize": normalize}
        return Rows(map_rows(paths, self.prepare, self.embed, empty=empty, **options))

    def features(
        self, images: Any, *, stages: Sequence[str] = STAGE_NAMES, batch_size: int = 32
    ) -> dict[str, np.ndarray]:
        """Un-normed stage maps as float32 {stage: (n, c, h, w)}.

        Args:
            images: As for `classify`.
            stages: Which of "stage1".."stage4".
            batch_size: Images at a time.

        Raises:
            UnknownNameError: A stage that does not exist.
            InputError: An image cannot be read, or a map would not be finite.
        """
        if not isinstance(stages, Iterable):
            raise InputError(f"stages must be names of stages; got {brief(stages)}.")
        if self._views(None) > 1:
            raise InputError(f"Feature maps are of one view; got views={self.views}. Set predictor.views = 1.")
        stages = self.encoder.config.known_stages(stages)
        self._require(*stages)
        parts = list(self._run(images, batch_size, 1, lambda x: self.encoder.detection_features(x, stages)))
        if not parts:
            channels = dict(zip(STAGE_NAMES, self.encoder.return_channels, strict=False))
            return {name: np.zeros((0, channels[name], 0, 0), dtype=np.float32) for name in stages}
        maps = {name: torch.cat([part[name] for part in parts]).float() for name in stages}
        for found in maps.values():
            self._finite(found)
        return {name: found.numpy() for name, found in maps.items()}

    def save(self, directory: str | Path, *, format: str = "hierax") -> Path:
        """Write the model as it is now, in any format that can hold it; returns the path written.

        An earlier save in that place is replaced, files of anybody else are not: somebody's README.md stays as it is,
        and any other file under a name that the format needs is refused.

        Raises:
            CheckpointError: The format cannot express the network, files are in the way, or writing failed.
        """
        return write_weights(self.weights(), directory, to=format)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        message: str = "Upload with hierax",
    ) -> str:
        """Publish the model as it is now as a hierax folder on the hub, with the licence of what it came from.

        Args:
            repo_id: "name" or "organisation/name"; created if there is none.
            private: Whether a new repository is private.
            token: Hub token; None is the one that is logged in.
            revision: Branch to write to; None is the main one.
            message: Of the commit.

        Returns:
            Address of the commit.

        Raises:
            CheckpointError: The hub refused, or cannot be reached.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.utils import HfHubHTTPError, HFValidationError

        api = HfApi(token=token, library_name="hierax")
        with tempfile.TemporaryDirectory() as folder:
            written = self.save(Path(folder) / "model")
            try:
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
                options = {"revision": revision, "commit_message": message, "repo_type": "model"}
                return str(api.upload_folder(repo_id=repo_id, folder_path=written, **options).commit_url)
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise CheckpointError(
                    f"{repo_id!r} could not be published: {reason}. Log in with `hf auth login`, or pass token= of an "
                    "account that may write there."
                ) from error

    def weights(self) -> Weights:
        """The present parameters with everything known about them."""
        if isinstance(self.model, ProgramEncoder):
            raise CheckpointError(
                f"An exported program has no weights to write; {self.card.path} is one. Load the weights that it was "
                "made from, and save those."
            )
        labelled = dataclasses.replace(self._weights, card=self.card, labels=self.labels)
        return from_module(self.model, labelled.with_card(config=self.model.config, preprocess=self.preprocess))

    def to(self, device: str | torch.device) -> Predictor:
        """Move the model; returns the predictor."""
        self.model.to(device)
        return self

    def with_model(self, model: nn.Module) -> Predictor:
        """The same predictor around another module of the same network, such as a faster one."""
        twin = copy.copy(self)
        twin.model = model.eval()
        return twin

    def prepare(self, image: Any, views: int | None = None) -> Tensor:
        """One image or clip as the network's input, without a batch axis; several views of a clip are stacked.

        Raises:
            InputError: The image cannot be read, or is of a type that hierax does not know.
        """
        if isinstance(image, Tensor):
            return self._checked(image)
        return network_input(image, self.encoder.config, self.preprocess, self._views(views))

    def not_finite(self, dtype: torch.dtype | str, which: str = "") -> str:
        """What to say of an answer that holds NaN or infinity."""
        number = str(dtype).removeprefix("torch.")
        return (
            f"Answers must be finite; {self.card.name!r} in {number} gives NaN or infinity{which}. Numbers overflow, "
            "or the input is not finite: pass finite pixels, load it with dtype='float32', or use other weights."
        )

    def _require(self, *names: str) -> None:
        """Refuse what an exported program was made without, before any image is read."""
        if isinstance(self.encoder, ProgramEncoder):
            self.encoder.require(names)

    def _finite(self, answers: Tensor, start: int = 0) -> None:
        """Refuse answers that hold NaN or infinity, naming the first item; `start` is the batch's place in the run."""
        good = answers.isfinite().flatten(1).all(dim=1) if answers.numel() else torch.ones(0, dtype=torch.bool)
        if good.all():
            return
        which = f" for item {start + int(good.int().argmin())} of this call" if len(good) > 1 else ""
        raise InputError(self.not_finite(next(self.model.parameters()).dtype, which))

    def _views(self, views: int | None) -> int:
        """How many clips to take of each video."""
        views = self.views if views is None else views
        positive(views=views)
        if views > 1 and not self.encoder.config.is_video:
            raise InputError(f"Only clips have several views; {self.card.name!r} takes images; got views={views}.")
        return views

    def _checked(self, tensor: Tensor) -> Tensor:
        """Refuse a tensor that no preprocess has made."""
        config = self.encoder.config
        rank = len(config.input_size) + 1
        axes = "t, h, w" if config.is_video else "h, w"
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            raise InputError(
                f"A tensor must hold its numbers one by one; got a {tensor.layout} tensor on {tensor.device}. Pass "
                "tensor.to_dense(), or one on a device with memory."
            )
        if not tensor.is_floating_point():
            raise InputError(
                f"A tensor must be preprocessed floating-point ({config.in_channels}, {axes}); got {tensor.dtype}. "
                "Pass 8-bit images as NumPy uint8 (h, w, 3)."
            )
        if tensor.ndim < rank or tensor.shape[-rank] != config.in_channels:
            raise InputError(
                f"A tensor must be ({config.in_channels}, {axes}) or (b, {config.in_channels}, {axes}), channels "
                f"first; got {tuple(tensor.shape)}."
            )
        return tensor

    def _run(self, images: Any, batch_size: int, views: int | None, function: Callable[[Tensor], Any]) -> Iterator[Any]:
        """Apply a function of preprocessed batches, results on the CPU."""
        positive(batch_size=batch_size)
        parameter = next(self.model.parameters())
        rank = len(self.encoder.config.input_size) + 1
        with torch.inference_mode():
            for batch in self._batches(images, batch_size, rank, self._views(views)):
                flat = batch if batch.ndim == rank + 1 else batch.flatten(0, 1)
                result = function(flat.to(parameter.device, parameter.dtype))
                if isinstance(result, dict):
                    yield {name: tensor.cpu() for name, tensor in result.items()}
                else:
                    yield result.cpu() if flat is batch else result.cpu().unflatten(0, batch.shape[:2])

    def _batches(self, images: Any, batch_size: int, rank: int, views: int) -> Iterator[Tensor]:
        if isinstance(images, Tensor) and images.ndim in (rank + 1, rank + 1 + (views > 1)):
            yield from self._checked(images).split(batch_size)
            return
        items = as_list(images, rank)
        prepared = (*self.encoder.config.input_size[:-2], *self.preprocess.size)
        sizes = {tuple(item.shape[1:]) if isinstance(item, Tensor) else prepared for item in items}
        if len(sizes) > 1:
            raise InputError(f"Inputs of one call must have one size; got {sorted(sizes)}. Call once for each size.")
        for batch in map_batches(
            items, lambda item: self.prepare(item, views), batch_size=min(batch_size, max(len(items), 1))
        ):
            for error in batch.errors.values():
                raise InputError(error)
            yield batch.tensor


def _over_views(answers: Tensor) -> Tensor:
    """Average (n, views, c) over views; (n, c) passes through."""
    return answers.mean(1) if answers.ndim == 3 else answers


def as_list(images: Any, rank: int) -> list[Any]:
    """One image or many, as a list; `rank` is that of one.

    Raises:
        InputError: No images, or an array of another shape.
    """
    if isinstance(images, (Tensor, np.ndarray)):
        if images.ndim == rank:
            return [images]
        if images.ndim == rank + 1:
            return list(images)
        raise InputError(
            f"An array must be one image (h, w, 3) or many (n, h, w, 3), a tensor (3, h, w) or (b, 3, h, w); "
            f"got shape {tuple(images.shape)}."
        )
    is_many = hasattr(images, "__iter__") and not isinstance(images, (str, bytes, bytearray, dict))
    if not is_many and stands_for_many(images):
        raise InputError(
            f"Images are named one by one; {os.fspath(images)!r} is a folder or a glob. predictor.embed_files takes "
            "these; elsewhere pass a list of files, e.g. sorted(Path(...).glob('*.jpg'))."
        )
    items = list(images) if is_many else [images]
    for item in items:
        if not isinstance(item, (str, Path, Image.Image, Tensor, np.ndarray)):
            raise InputError(
                f"Images are paths, PIL images, uint8 arrays (h, w, 3) or tensors; got {type(item).__name__}."
            )
    return items
