"""What stands in the place of an encoder when its network is an exported program: same questions, same answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...config import STAGE_NAMES, ModelConfig
from ...errors import InputError

OUTPUTS = ("embedding", "logits", *STAGE_NAMES)  # what a program may give, by name
INPUT = "images"  # the name of what it takes


class Program(Protocol):
    """A program in its own runtime."""

    def __call__(self, x: Float[Tensor, "b 3 *pixels"], names: Sequence[str]) -> dict[str, Tensor]:
        """Those of its outputs, float32; x is float32 and contiguous, of a size that it was made for."""
        ...


class ProgramEncoder(nn.Module):
    """An exported program that answers as the `Encoder` did that it was made from, as far as it has the outputs.

    Attributes:
        config: The network that was exported.
        program: What computes.
        outputs: What it gives, of `OUTPUTS`.
        any_size: Whether it takes every legal size, or only that of its config.
        num_classes: Classes of the network's head, 0 without one.
        embedding_size: Channels of the embedding.
        input_size: Size it is configured for.
        return_channels: Channels of each stage's map.
        strides: Pixels per cell of each stage's map.
    """

    def __init__(self, config: ModelConfig, program: Program, outputs: Sequence[str], *, any_size: bool) -> None:
        super().__init__()
        self.config, self.program, self.outputs, self.any_size = config, program, tuple(outputs), any_size
        self.num_classes, self.embedding_size = config.num_classes, config.embedding_size
        self.input_size, self.strides = config.input_size, config.strides
        self.return_channels = list(config.channels)
        # For whoever asks a model's first parameter for its device and type.
        self.place = nn.Parameter(torch.zeros(0), requires_grad=False)

    def forward(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b out"]:
        """Raw logits, or the embedding where the network has no head."""
        name = "logits" if self.num_classes else "embedding"
        return self.answers(x, [name])[name]

    def embedding(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c"]:
        """Pooled and normed vector."""
        return self.answers(x, ["embedding"])["embedding"]

    def forward_features(self, x: Float[Tensor, "b 3 *pixels"]) -> Float[Tensor, "b c *grid"]:
        """Un-normed map of the last stage, channels first."""
        name = self.config.stage_names[-1]
        return self.answers(x, [name])[name]

    def detection_features(
        self, x: Float[Tensor, "b 3 *pixels"], stages: Sequence[str] | None = None
    ) -> dict[str, Float[Tensor, "b c *grid"]]:
        """Un-normed stage maps, contiguous and channels first; see `Encoder.detection_features`."""
        return self.answers(x, self.config.known_stages(stages))

    def answers(self, x: Float[Tensor, "b 3 *pixels"], names: Sequence[str]) -> dict[str, Float[Tensor, "b c *grid"]]:
        """Several answers of one pass by name.

        Raises:
            InputError: An output that the program was made without, or an input of another size.
        """
        self.require(names)
        self.config.check_input(tuple(x.shape))
        check_size(self.config, tuple(x.shape[2:]), any_size=self.any_size)
        if not names:
            return {}
        plain = x.detach().to("cpu", torch.float32).contiguous()
        empty = not len(plain)
        found = self.program(plain.new_zeros(1, *plain.shape[1:]) if empty else plain, names)
        return {name: (each[:0] if empty else each).to(x.device) for name, each in found.items()}

    def require(self, names: Sequence[str]) -> None:
        """Refuse to be asked for what the program does not give.

        Raises:
            InputError: An output that it was made without.
        """
        if missing := [name for name in names if name not in self.outputs]:
            raise InputError(
                f"A program answers what it was exported with: {', '.join(self.outputs)}; got {missing[0]!r}. Export "
                f"it again with --outputs {','.join(name for name in OUTPUTS if name in (*self.outputs, *missing))}."
            )


def check_size(config: ModelConfig, size: tuple[int, ...], *, any_size: bool) -> None:
    """Refuse a size that a program was not made for.

    Raises:
        InputError: It was not.
    """
    config.check_size(size)
    fixed = config.input_size if not any_size else config.input_size[:-2]
    if size[: len(fixed)] != fixed:
        made, got = ("x".join(map(str, each)) for each in (fixed, size[: len(fixed)]))
        sides = " ".join(map(str, size[-2:]))
        raise InputError(
            f"This program was exported for inputs of {made} alone; got {got}. Resize the images, or export it again "
            f"with --size {sides} or --dynamic."
        )
