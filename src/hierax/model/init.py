"""Random initialisation, parameter by parameter, so that any subset of a network can be made fresh.

Source: Meta's `hiera.py` (supervised) and `hiera_mae.py` (masked autoencoder); SAM 2's HieraDet keeps torch's defaults.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from ..config import ModelConfig

HEAD_SCALE = 0.001


def build(config: ModelConfig, *, device: str = "cpu") -> nn.Module:
    """The network of a config, uninitialised on the meta device or freshly initialised elsewhere."""
    from .encoder import Encoder
    from .mae import MaskedAutoencoder

    with torch.device("meta"):
        module = MaskedAutoencoder(config) if config.decoder is not None else Encoder(config)
    if device == "meta":
        return module
    module.to_empty(device=device)
    for name, parameter in module.named_parameters():
        with torch.no_grad():
            parameter.copy_(fresh(name, tuple(parameter.shape), config))
    return module


@functools.lru_cache(maxsize=4)
def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, by its name with and without a leading `encoder.`."""
    shapes = {name: tuple(parameter.shape) for name, parameter in build(config, device="meta").named_parameters()}
    return shapes | {name.removeprefix("encoder."): shape for name, shape in shapes.items()}


def fresh(name: str, shape: tuple[int, ...], config: ModelConfig) -> Tensor:
    """Initial value of one parameter.

    Args:
        name: Its name in the module (a leading `encoder.` is allowed).
        shape: Its shape.
        config: The network it belongs to; families differ in their initialisation.
    """
    kind = name.rsplit(".", 1)[-1]
    owner = name.rsplit(".", 2)[-2] if "." in name else ""
    value = torch.empty(shape)
    if kind == "gamma":
        return value.fill_(config.layer_scale or 1.0)
    if kind == "latent":
        return nn.init.trunc_normal_(value, std=shape[-1] ** -0.5)
    if config.family == "hieradet" and "pos_embed" in name:
        return value.zero_()
    if "pos_embed" in name or "mask_token" in name:
        return nn.init.trunc_normal_(value, std=0.02)
    if "norm" in owner:
        shifted = config.family != "hieradet" and config.decoder is None and ".blocks." in f".{name}"
        return value.fill_(1.0) if kind == "weight" else value.fill_(0.02 if shifted else 0.0)
    if "fusion" in name or config.family == "hieradet" or ("patch_embed" in name and kind == "bias"):
        # What torch gives Linear and Conv: uniform within 1 / sqrt(fan_in), of a bias that of its weight.
        weight = shape if kind == "weight" else _shapes(config)[name.removesuffix("bias") + "weight"]
        bound = 1 / math.sqrt(max(math.prod(weight[1:]), 1))
        return value.uniform_(-bound, bound)
    if config.decoder is not None:
        return value.zero_() if kind == "bias" else nn.init.xavier_uniform_(value.view(shape[0], -1)).view(shape)
    value = nn.init.trunc_normal_(value, std=0.02) if kind == "weight" else value.fill_(0.02)
    return value.mul_(HEAD_SCALE) if name.startswith("head.") else value
