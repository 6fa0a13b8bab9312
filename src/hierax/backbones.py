"""Stage maps for detectors and segmenters: a list of contiguous maps, finest first, whose widths are known beforehand.

body = hierax.backbone("sam2.1_hiera_small", stages=("stage2", "stage3", "stage4"))
body.channels, body.strides         # [192, 384, 768], [8, 16, 32]
fine, middle, coarse = body(pixels)  # (b, 3, h, w) -> (b, c_i, h / s_i, w / s_i) each
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .config import STAGE_NAMES, PreprocessSpec
from .errors import CheckpointError, InputError, UnknownNameError, brief, nearest
from .model.encoder import Encoder
from .model.layers import decays, grouped, layer_of
from .predictor import Predictor
from .registry import find_weights
from .weights.adapt import at_size, to_encoder, to_num_classes
from .weights.card import ModelCard, Weights
from .weights.network import from_module, to_module
from .weights.write import write_weights

if TYPE_CHECKING:
    from typing_extensions import Self


class Backbone(nn.Module):
    """An encoder without its head, as a detector or segmenter wants it.

    Blocks after the last stage that is asked for stay in the state dict, but are neither run nor trained, so that
    `save` always writes a whole encoder and DistributedDataParallel finds no parameter without a gradient.

    Attributes:
        encoder: The network; all of its parameters are the checkpoint's own.
        norms: A LayerNorm for each map where `norm` was asked for; empty otherwise.
        stages: Names of the maps, finest first.
        channels: Width of each map.
        strides: Pixels per cell of each map.
        size_divisibility: Height and width of the input must be multiples of it, unless `pad`.
        preprocess: How images become its input; mean and deviation for detectors that normalise by themselves.
        card: What is known about the weights, the licence among it.
        pad: Whether other sizes are padded at the bottom and the right, and the maps cropped.
        frozen_until: The last stage that is not trained; None trains all.
    """

    def __init__(
        self,
        weights: Weights,
        stages: Sequence[str] = STAGE_NAMES,
        *,
        frozen_until: str | None = None,
        norm: bool = False,
        pad: bool = False,
    ) -> None:
        super().__init__()
        weights = to_num_classes(to_encoder(weights), 0)
        config = weights.config
        if config.is_video:
            raise InputError(f"A backbone takes images; {config.name!r} takes clips. Choose an image member.")
        known = config.stage_names
        self.stages = _in_order(config.known_stages(stages), known)
        self.encoder = cast("Encoder", to_module(weights))
        numbers = [known.index(name) for name in self.stages]
        self.channels = [config.channels[number] for number in numbers]
        self.strides = [self.encoder.strides[number] for number in numbers]
        self.size_divisibility = self.encoder.strides[-1]
        self.preprocess: PreprocessSpec = weights.preprocess
        self.card: ModelCard = weights.card
        self.pad = pad
        wide = zip(self.stages, self.channels, strict=True) if norm else ()
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width, eps=config.norm_eps) for name, width in wide})
        self._described = dataclasses.replace(weights, tensors={}, raw=None)
        self._run = self.encoder.stage_ends[numbers[-1]] + 1  # blocks
        self.freeze(frozen_until)

    def freeze(self, until: str | None) -> None:
        """Train nothing up to and with a stage, and all above it that is run; None trains all of that.

        Raises:
            UnknownNameError: No such stage.
        """
        known = self.encoder.config.stage_names
        if until is not None and until not in known:
            raise UnknownNameError(
                f"frozen_until is one of {', '.join(known)}, or None; got {brief(until)}. {nearest(str(until), known)}"
            )
        self.frozen_until = until
        self._still = 0 if until is None else self.encoder.stage_ends[known.index(until)] + 2  # layers
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(self._still <= layer_of(name, self._run + 1) <= self._run)
        self.train(self.training)

    @property
    def checkpoint_blocks(self) -> bool:
        """Whether activations are computed anew in the backward pass, for less memory and about a third more time."""
        return self.encoder.checkpoint_blocks

    @checkpoint_blocks.setter
    def checkpoint_blocks(self, value: bool) -> None:
        self.encoder.checkpoint_blocks = value

    def train(self, mode: bool = True) -> Self:
        """As of any module; what is frozen drops no paths."""
        super().train(mode)
        for block in list(self.encoder.blocks)[: max(self._still - 1, 0)]:
            block.eval()
        return self

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Maps of the stages, (b, c_i, h / s_i, w / s_i), contiguous and finest first.

        Args:
            x: Preprocessed images, of any height and width that are multiples of 32; with `pad` of any at all, and the
                maps then have every cell that the image touches, h / s_i rounded up.

        Raises:
            InputError: No tensor of floats, another rank or number of channels, or a size that is no multiple of 32.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise InputError(
                f"A backbone takes a tensor of floats, normalised by its preprocess.mean and .std of 0..1; got "
                f"{x.dtype if isinstance(x, Tensor) else type(x).__name__}."
            )
        height, width = x.shape[-2:]
        down, right = -height % self.size_divisibility, -width % self.size_divisibility
        if self.pad and (down or right):
            x = F.pad(x, (0, right, 0, down))
        last = STAGE_NAMES.index(self.stages[-1])
        grids = self.encoder.stages(x, last=last)
        maps = []
        for name, stride in zip(self.stages, self.strides, strict=True):
            grid = grids[STAGE_NAMES.index(name)]  # (b, h, w, c)
            if self.pad:
                grid = grid[:, : -(-height // stride), : -(-width // stride)]
            if name in self.norms:
                grid = self.norms[name](grid)
            maps.append(grid.movedim(-1, 1).contiguous())
        return maps

    def parameter_groups(
        self, lr: float, layer_decay: float = 1.0, *, weight_decay: float = 0.05
    ) -> list[dict[str, Any]]:
        """Parameters that are trained, for an optimiser: `torch.optim.AdamW(body.parameter_groups(1e-4, 0.8))`.

        Args:
            lr: Learning rate of the norms after the last block; a detector's head has its own groups.
            layer_decay: Each layer further down has so much of the rate above it, 0 < layer_decay <= 1.
            weight_decay: Of matrices and convolutions; vectors and position tables have none.

        Returns:
            Groups with `params`, `names`, `lr` and `weight_decay`, from the pixels up.

        Raises:
            InputError: A rate that is not positive, a decay of the layers outside 0..1, or of the weights below 0.

        Source: layer decay of BEiT (arXiv:2106.08254).
        """
        if not _is_number(lr) or not 0 < lr < math.inf:
            raise InputError(f"lr must be a positive number; got {brief(lr)}. Common ones lie between 1e-5 and 1e-3.")
        if not _is_number(weight_decay) or not 0 <= weight_decay < math.inf:
            raise InputError(f"weight_decay must be a number of at least 0; got {brief(weight_decay)}. 0.05 is common.")
        if not _is_number(layer_decay) or not 0 < layer_decay <= 1:
            raise InputError(
                f"layer_decay must be above 0 and at most 1; got {brief(layer_decay)}. 1 is the same rate."
            )
        top = self._run + 1
        return [
            {**group, "lr": lr * layer_decay ** (top - layer), "weight_decay": weight_decay * decay}
            for (layer, decay), group in grouped(self, lambda name, ndim: (layer_of(name, top), decays(name, ndim)))
        ]

    def take(self, other: Backbone) -> None:
        """Copy the encoder's parameters of another backbone of the same network, and prove that they are here.

        Raises:
            CheckpointError: A parameter differs after it: it is shared with, or computed from, something else.
        """
        values, places = other.encoder.state_dict(), self.encoder.state_dict()
        with torch.no_grad():
            for name, place in places.items():
                if name in values:
                    place.copy_(values[name])
        for name in places | values:
            same = (
                name in places
                and name in values
                and torch.equal(places[name].cpu(), values[name].to(places[name].dtype))
            )
            if not same:
                raise CheckpointError(
                    f"{name!r} is not the checkpoint's after it was copied: something else computes or shares it. Put "
                    "the weights in before the model is wrapped, quantized or adapted."
                )
        self.card, self.preprocess, self._described = other.card, other.preprocess, other._described

    def weights(self) -> Weights:
        """The encoder's present parameters with everything known about them."""
        return from_module(self.encoder, self._described)

    def save(self, directory: str | Path, *, format: str = "hierax") -> Path:
        """Write the encoder as it is now, without the detector's head; `backbone` and `load` read it back.

        The norms of `norm=True` belong to the detector, and are saved with its state dict.

        Raises:
            CheckpointError: The format cannot express the network, files are in the way, or writing failed.
        """
        return write_weights(self.weights(), Path(directory).expanduser(), to=format)


def backbone(
    source: str | Path | Predictor | None = None,
    *,
    stages: Sequence[str] = STAGE_NAMES,
    frozen_until: str | None = None,
    norm: bool = False,
    input_size: int | tuple[int, int] | None = None,
    pad: bool = False,
    drop_path: float | None = None,
) -> Backbone:
    """The encoder of a checkpoint, of any format and origin, as a backbone for dense tasks.

    Args:
        source: As for `load`, or a Predictor, whose parameters are copied.
        stages: Which maps, "stage1".."stage4"; they come finest first.
        frozen_until: Train nothing up to and with this stage; None trains all.
        norm: A LayerNorm after each map, fresh, trained with the head. Off, the maps equal `detection_features`.
        input_size: Pixels that it is configured for, an int or (height, width); position tables follow. It takes any
            multiple of 32 all the same.
        pad: Pad other sizes at the bottom and the right with zeros, the mean colour, and crop the maps.
        drop_path: Stochastic depth of the last block while training, 0 <= rate < 1; None is the checkpoint's.

    Returns:
        The backbone, in training mode, on the CPU.

    Raises:
        UnknownNameError: No such source or stage.
        CheckpointError: The weights are broken, incomplete, ambiguous or of another architecture.
        InputError: A member for clips, no stage, or an illegal size.
    """
    with torch.device("cpu"):  # also where a detector around it is built on the meta device
        weights = at_size(source_weights(source), input_size)
        if drop_path is not None:
            weights = weights.with_card(config=dataclasses.replace(weights.config, drop_path=drop_path))
        return Backbone(weights, stages, frozen_until=frozen_until, norm=norm, pad=pad)


def source_weights(source: str | Path | Predictor | None) -> Weights:
    """The weights of a source, as for `backbone`; those of a Predictor are copied."""
    if not isinstance(source, Predictor):
        return find_weights(source)
    weights = source.weights()
    copied = {name: tensor.cpu().clone() for name, tensor in weights.tensors.items()}
    return dataclasses.replace(weights, tensors=copied)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _in_order(asked: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The stages, finest first, each once."""
    if not asked:
        raise InputError(f"A backbone needs a stage at least; got none. Stages are {', '.join(known)}.")
    return tuple(name for name in known if name in asked)
