"""`infer_image` and `infer_batch`: probabilities and embeddings as NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .....data.decode import open_rgb
from ...net import Net

Answer = tuple[Float[np.ndarray, "b out"], Float[np.ndarray, "b c"] | None]


def infer_image(
    net: Net,
    sample: Image.Image | str | Path,
    transform: Callable[..., Tensor],
    return_embedding: bool = False,
    tta: bool = False,
    return_logits: bool = False,
    device: torch.device | None = None,
    **kwargs: Any,
) -> Answer:
    """Class probabilities and embedding of one image.

    Args:
        net: From `load_pretrained_model`.
        sample: Path or PIL image; its orientation tag is not obeyed, as in birder.
        transform: From `classification_transform`.
        return_embedding: Also return the embedding; goes before `tta`, as in birder.
        tta: Average over the four corners and the centre.
        return_logits: Leave out the softmax.
        device: Where the network is; the CPU by default.
        **kwargs: Passed to the network.

    Returns:
        float32 (1, classes), of a network without classes the softmax of its embedding; and float32 (1, c) or None.

    Raises:
        InputError: The sample is no readable image.
    """
    image = sample if isinstance(sample, Image.Image) else open_rgb(sample, upright=False)
    inputs = transform(image).unsqueeze(0).to(device or "cpu")  # (1, 3, h, w)
    return infer_batch(net, inputs, return_embedding, tta, return_logits, **kwargs)


def infer_batch(
    net: Net,
    inputs: Float[Tensor, "b 3 h w"],
    return_embedding: bool = False,
    tta: bool = False,
    return_logits: bool = False,
    **kwargs: Any,
) -> Answer:
    """Class probabilities and embeddings of preprocessed images; arguments as for `infer_image`.

    Raises:
        InputError: An illegal input size.
    """
    inputs = inputs.to(next(net.parameters()).dtype)
    vectors = None
    with torch.inference_mode():
        if return_embedding:
            vectors = net.embedding(inputs, **kwargs)
            views = [net.classify(vectors)]
        else:
            views = [net(crop, **kwargs) for crop in (five_crops(inputs) if tta else [inputs])]
        out = torch.stack([view if return_logits else view.softmax(dim=1) for view in views]).mean(dim=0)
    return out.cpu().float().numpy(), None if vectors is None else vectors.cpu().float().numpy()


def five_crops(images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b 3 h w"]]:
    """Corners and centre of images, each four fifths of a side and brought back to their size."""
    height, width = images.shape[-2:]
    h, w = int(height * 0.8), int(width * 0.8)
    bottom, right = height - h, width - w
    # Quirk(torchvision): half a pixel goes to the even side.
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2)))
    return [
        F.interpolate(images[..., y : y + h, x : x + w], size=(height, width), mode="bicubic", antialias=True)
        for y, x in places
    ]
