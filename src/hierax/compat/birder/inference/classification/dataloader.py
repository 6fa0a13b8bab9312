"""`infer_dataloader` and `evaluate`: everything that a data loader gives, as arrays or as results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .....console import bar
from .....errors import InputError, brief
from ...common.lib import class_list_from_class_to_idx
from ...net import Net
from ...results.classification import Results
from .infer import infer_batch

Batch = tuple[Sequence[str], Tensor, Tensor]
Answers = tuple[
    list[str],
    Float[np.ndarray, "n out"],
    Int[np.ndarray, " n"],
    list[Float[np.ndarray, "b c"]],
]
Callback = Callable[[Sequence[str], np.ndarray, np.ndarray], None]


def infer_dataloader_iter(  # noqa: PLR0913 - birder's signature
    device: torch.device,
    net: Net,
    dataloader: Iterable[Batch],
    return_embedding: bool = False,
    tta: bool = False,
    return_logits: bool = False,
    channels_last: bool = False,
    model_dtype: torch.dtype = torch.float32,
    amp: bool = False,
    amp_dtype: torch.dtype | None = None,
    num_samples: int | None = None,
    batch_callback: Callback | None = None,
    chunk_size: float | None = None,
    **kwargs: Any,
) -> Iterator[Answers]:
    """The answers to a data loader in chunks; arguments as for `infer_dataloader`.

    Raises:
        InputError: A batch that is no (paths, images, labels), or images of an illegal size.
    """
    device = torch.device(device)
    net.to(device, dtype=model_dtype)
    order = torch.channels_last if channels_last else torch.preserve_format
    found: list[tuple[list[str], np.ndarray, np.ndarray, np.ndarray | None]] = []
    with bar(total=num_samples, unit="images") as shown:
        for batch in dataloader:
            paths, images, labels = _parts(batch)
            images = images.to(device, dtype=model_dtype, memory_format=order)
            with torch.autocast(device.type, enabled=amp, dtype=amp_dtype):
                out, vectors = infer_batch(net, images, return_embedding, tta, return_logits, **kwargs)
            classes = labels.cpu().numpy()
            found.append((paths, out, classes, vectors))
            if batch_callback is not None:
                batch_callback(paths, out, classes)
            shown.update(len(paths))
            if chunk_size is not None and sum(len(each[0]) for each in found) >= chunk_size:
                yield _joined(found)
                found = []
    if found:
        yield _joined(found)


def infer_dataloader(  # noqa: PLR0913 - birder's signature
    device: torch.device,
    net: Net,
    dataloader: Iterable[Batch],
    return_embedding: bool = False,
    tta: bool = False,
    return_logits: bool = False,
    channels_last: bool = False,
    model_dtype: torch.dtype = torch.float32,
    amp: bool = False,
    amp_dtype: torch.dtype | None = None,
    num_samples: int | None = None,
    batch_callback: Callback | None = None,
    chunk_size: int | None = None,
    **kwargs: Any,
) -> Any:
    """Class probabilities and embeddings of everything that a data loader gives.

    Args:
        device: Where the network goes, and stays.
        net: From `load_pretrained_model`; it keeps `model_dtype`.
        dataloader: Gives (paths, images, labels); `make_image_dataset` makes such a data set.
        return_embedding: Also return embeddings.
        tta: Average over the four corners and the centre.
        return_logits: Leave out the softmax.
        channels_last: Lay images out channels last in memory.
        model_dtype: Type of the parameters and the images.
        amp: Mixed precision.
        amp_dtype: Its type.
        num_samples: How many there will be, for the progress bar.
        batch_callback: Called with paths, output and labels of each batch.
        chunk_size: Give an iterator of results of about that many samples instead.
        **kwargs: Passed to the network.

    Returns:
        Paths; float32 (n, classes); int64 labels (n,); a list with the embeddings of each batch, else empty. With
        `chunk_size` an iterator of such tuples.

    Raises:
        InputError: No batch at all, one that is no (paths, images, labels), or images of an illegal size.
    """
    chunks = infer_dataloader_iter(
        device, net, dataloader, return_embedding, tta, return_logits, channels_last, model_dtype, amp, amp_dtype,
        num_samples, batch_callback, chunk_size, **kwargs,
    )  # fmt: skip
    if chunk_size is not None:
        return chunks
    for answers in chunks:
        return answers
    raise InputError("A data loader must give at least one batch; this one gave none. Look at what its data set holds.")


def evaluate(  # noqa: PLR0913 - birder's signature
    device: torch.device,
    net: Net,
    dataloader: Iterable[Batch],
    class_to_idx: dict[str, int],
    tta: bool = False,
    channels_last: bool = False,
    model_dtype: torch.dtype = torch.float32,
    amp: bool = False,
    amp_dtype: torch.dtype | None = None,
    num_samples: int | None = None,
    sparse: bool = False,
) -> Results:
    """Accuracy and confusion on everything that a data loader gives; other arguments as for `infer_dataloader`.

    Args:
        device: Where the network goes.
        net: With classes.
        dataloader: Gives (paths, images, labels); a label of -1 is unknown and does not count.
        class_to_idx: `ModelInfo.class_to_idx`.
        tta: Average over the four corners and the centre.
        channels_last: Lay images out channels last in memory.
        model_dtype: Type of the parameters and the images.
        amp: Mixed precision.
        amp_dtype: Its type.
        num_samples: How many there will be, for the progress bar.
        sparse: Refused: results hold the probability of every class.

    Raises:
        InputError: As `infer_dataloader`, class names that are not the network's, or sparse results.
    """
    if sparse:
        raise InputError("sparse=True is not supported: results hold the probability of every class. Leave it out.")
    paths, out, labels, _ = infer_dataloader(
        device, net, dataloader, tta=tta, channels_last=channels_last, model_dtype=model_dtype, amp=amp,
        amp_dtype=amp_dtype, num_samples=num_samples,
    )  # fmt: skip
    return Results(paths, labels, class_list_from_class_to_idx(class_to_idx), out)


def _parts(batch: Any) -> tuple[list[str], Tensor, Tensor]:
    if isinstance(batch, (tuple, list)) and len(batch) == 3:
        paths, images, labels = batch
        if isinstance(images, Tensor) and isinstance(labels, Tensor) and len(paths) == len(images) == len(labels):
            return [str(path) for path in paths], images, labels
    raise InputError(
        "A data loader must give (paths, images, labels), as many of each, as that of make_image_dataset does; got "
        f"{brief(batch)}."
    )


def _joined(found: Sequence[tuple[list[str], np.ndarray, np.ndarray, np.ndarray | None]]) -> Answers:
    paths = [path for names, *_ in found for path in names]
    out, labels = np.concatenate([out for _, out, _, _ in found]), np.concatenate([said for *_, said, _ in found])
    return paths, out, labels, [vectors for *_, vectors in found if vectors is not None]
