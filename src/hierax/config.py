"""What a network of the family *is*, as plain data: no torch, no files.

A `ModelConfig` names the architecture; `block_table` expands it to one row per block, which is all
that `model/encoder.py` builds from. `ARCHITECTURES` lists every public member of the family.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from .errors import InputError, UnknownNameError, brief, nearest
from .schema import Between, Length, Natural, ProperShare, Share, conform, read

Family = Literal["hiera", "hiera_video", "hiera_abswin", "hieradet"]
Position = Literal["grid", "separable", "window"]
Head = Literal["pool_norm", "norm_pool", "attention", "pool"]
Shortcut = Literal["linear", "max_avg"]
# Bounds, far beyond every network of the family, keep what a file says from costing memory before it is refused.
Side = Annotated[int, Between(least=1, most=65536)]  # of an image or clip, or of a vector
Depth = Annotated[int, Between(least=1, most=1024)]
Cells = Annotated[int, Between(least=1, most=64)]  # of a window, kernel or stride
Padding = Annotated[int, Between(least=0, most=64)]
Fraction = Annotated[int, Between(least=-4096, most=-1)]  # -n: a window of the shorter side // n
Epsilon = Annotated[float, Between(least=0, most=1)]
Scale = Annotated[float, Between(least=-1e4, most=1e4)]
Deviation = Annotated[float, Between(least=1e-4, most=1e4)]
Axes = Length(2, 3)  # height and width, or frames before them
MOST_PIXELS = 1 << 24  # of one network input: 4096 x 4096, or 64 frames of 512 x 512
Name = Annotated[str, Length(most=200)]
Item = TypeVar("Item")
Stages = Annotated[tuple[Item, ...], Length(1, 4)]  # one for each

STAGE_NAMES: tuple[str, ...] = ("stage1", "stage2", "stage3", "stage4")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The masked-autoencoder decoder on top of an encoder (arXiv:2306.00989, appendix A)."""

    dim: Side = 512
    depth: Depth = 8
    num_heads: Side = 16
    normalize_target: bool = True

    def __post_init__(self) -> None:
        conform(self)
        if self.dim % self.num_heads:
            raise InputError(f"num_heads of the decoder must divide its dim; got {self.num_heads} and {self.dim}.")


_WINDOWS = ((8, 8), (4, 4), None, None)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One architecture of the Hiera family.

    Attributes:
        name: Public name, or "custom".
        family: Which line it belongs to.
        input_size: Pixels, (height, width) or (frames, height, width).
        embed_dim: Channels of stage 1; doubles at each later stage, as do the heads.
        num_heads: Heads of stage 1.
        depths: Blocks per stage.
        windows: Per stage, the window in tokens of that stage's grid; None is global attention; a
            negative number -n is a square window of min(height, width) // n tokens.
        global_blocks: Blocks (counted from 0) whose attention is global whatever `windows` says.
        q_pool: How many stages (from the second) start by pooling queries by `q_stride`.
        position: "grid" one table; "separable" space + time; "window" a tiled window table plus a
            background table that is resized to the grid.
        position_size: Grid of the stored table ("window" only).
        position_antialias: Whether tables are resized with antialiasing (also changes the cubic kernel).
        head: Order of pooling and final norm; "pool" has no norm at all.
        shortcut: How the skip path widens: "linear" projects norm1's output, "max_avg" stacks the max and
            the mean of the raw tokens (timm's hiera_small_abswin_256).
        layer_scale: Initial value of the per-channel branch scales, None without (timm's abswin).
        norm_eps: LayerNorm epsilon; 1e-5 reproduces birder before 0.3.3.
        decoder: Present in masked autoencoders.
    """

    name: Name = "custom"
    family: Family = "hiera"
    input_size: Annotated[tuple[Side, ...], Axes] = (224, 224)
    in_channels: Annotated[int, Between(least=1, most=1024)] = 3
    num_classes: Annotated[int, Between(least=0, most=1 << 20)] = 1000
    embed_dim: Side = 96
    num_heads: Side = 1
    depths: Stages[Depth] = (2, 3, 16, 3)
    windows: Stages[Annotated[tuple[Cells, ...], Axes] | Fraction | None] = _WINDOWS
    global_blocks: Annotated[tuple[Natural, ...], Length(most=1024)] = ()
    q_pool: Natural = 3
    q_stride: Annotated[tuple[Cells, ...], Axes] = (2, 2)
    patch_kernel: Annotated[tuple[Cells, ...], Axes] = (7, 7)
    patch_stride: Annotated[tuple[Cells, ...], Axes] = (4, 4)
    patch_padding: Annotated[tuple[Padding, ...], Axes] = (3, 3)
    mask_unit: Annotated[tuple[Cells, ...], Axes] = (8, 8)
    position: Position = "grid"
    position_size: Annotated[tuple[Side, ...], Axes] | None = None
    position_antialias: bool = False
    head: Head = "pool_norm"
    attention_pool_heads: Side | None = None
    shortcut: Shortcut = "linear"
    layer_scale: Scale | None = None
    mlp_ratio: Annotated[float, Between(above=0, most=64)] = 4.0
    drop_path: ProperShare = 0.0
    head_dropout: Share = 0.0
    norm_eps: Epsilon = 1e-6
    decoder: DecoderConfig | None = None

    def __post_init__(self) -> None:
        conform(self)
        rank = len(self.input_size)
        for field in ("patch_kernel", "patch_stride", "patch_padding", "q_stride", "mask_unit"):
            if len(getattr(self, field)) != rank:
                raise InputError(
                    f"{field} must have one number for each of the {rank} axes of input_size "
                    f"{self.input_size}; got {getattr(self, field)}."
                )
        if len(self.windows) != len(self.depths) or not self.q_pool < len(self.depths):
            raise InputError(
                f"windows must name one entry per stage and q_pool be less than the number of stages; "
                f"got depths {self.depths}, windows {self.windows}, q_pool {self.q_pool}."
            )
        for field in (self.position_size, *self.windows):
            if isinstance(field, tuple) and len(field) != rank:
                raise InputError(f"windows and position_size must have {rank} numbers each; got {field}.")
        if self.embed_dim % self.num_heads or self.embedding_size % (self.attention_pool_heads or 1):
            raise InputError(
                f"Heads must divide the width: embed_dim {self.embed_dim} has num_heads {self.num_heads}, the "
                f"embedding's {self.embedding_size} have attention_pool_heads {self.attention_pool_heads}."
            )
        self._check_grids()

    def _check_grids(self) -> None:
        """Refuse cells that do not tile: every token of a grid comes from a cell of pixels, or of pooled tokens."""
        if math.prod(self.input_size) > MOST_PIXELS:
            raise InputError(f"input_size must have at most {MOST_PIXELS:,} pixels; got {self.input_size}.")
        for kernel, stride, padding in zip(self.patch_kernel, self.patch_stride, self.patch_padding, strict=True):
            if not -stride <= 2 * padding - kernel < 0:
                raise InputError(
                    "Patches must give one token a stride: patch_kernel must be more than twice patch_padding, by at "
                    f"most patch_stride; got kernel {self.patch_kernel}, padding {self.patch_padding}, stride "
                    f"{self.patch_stride}."
                )
        if self.is_video != (self.position == "separable"):
            raise InputError(
                "position must be 'separable' for clips, and only for them; got "
                f"{self.position!r} for input_size {self.input_size}."
            )
        if int(self.mlp_ratio * min(self.embed_dim, self.decoder.dim if self.decoder else self.embed_dim)) < 1:
            raise InputError(f"mlp_ratio must leave the MLP at least one channel; got {self.mlp_ratio}.")
        pooled = tuple(q**self.q_pool for q in self.q_stride)
        if self.decoder and any(unit % cells for unit, cells in zip(self.mask_unit, pooled, strict=True)):
            raise InputError(
                f"A mask unit of an autoencoder must be a multiple of the {pooled} tokens that are pooled into one; "
                f"got mask_unit {self.mask_unit}."
            )
        # The first block of a stage pools inside the windows of the stage before.
        for stage, window in enumerate(self.resolved_windows):
            pools = stage < self.q_pool
            if window and any(not w or (pools and w % q) for w, q in zip(window, self.q_stride, strict=True)):
                raise InputError(
                    f"Windows must have at least one token, before a pooled stage a multiple of q_stride; got "
                    f"windows {self.windows} and q_stride {self.q_stride} for input_size {self.input_size}."
                )
        most = min(self.grid(self.input_size)[-2:])
        if any(
            isinstance(given, int) and max(found or (0,)) > most
            for given, found in zip(self.windows, self.resolved_windows, strict=True)
        ):
            raise InputError(
                f"A window that is a fraction of the side must fit into a grid of {most} tokens a side; got windows "
                f"{self.windows} for input_size {self.input_size}."
            )

    @property
    def resolved_windows(self) -> tuple[tuple[int, ...] | None, ...]:
        """Windows of each stage in tokens, fractions of the side worked out; None is global."""
        side, rank = min(self.input_size[-2:]), len(self.input_size)
        return tuple((side // -w,) * rank if isinstance(w, int) else w for w in self.windows)

    @property
    def is_video(self) -> bool:
        """Whether inputs carry a time axis, (b, 3, t, h, w)."""
        return len(self.input_size) == 3

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(len(self.depths)))

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each stage's feature map, along height and width."""
        pools = [min(stage, self.q_pool) for stage in range(len(self.depths))]
        return tuple(self.patch_stride[-1] * self.q_stride[-1] ** pool for pool in pools)

    @property
    def embedding_size(self) -> int:
        """Length of the embedding."""
        return self.channels[-1]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of its stages, finest first."""
        return STAGE_NAMES[: len(self.depths)]

    @property
    def size_multiple(self) -> tuple[int, ...]:
        """Per axis, what an input size must be a multiple of (32 x 32 for the whole public family)."""
        return tuple(
            stride * math.lcm(unit, pool ** (len(self.depths) - 1))
            for stride, unit, pool in zip(self.patch_stride, self.mask_unit, self.q_stride, strict=True)
        )

    @property
    def table_size(self) -> tuple[int, ...]:
        """Grid of the stored position table."""
        if self.position == "window" and self.position_size is not None:
            return self.position_size
        return self.grid(self.input_size)

    @property
    def birder_table(self) -> tuple[int, ...]:
        """Background table that birder's abswin Hiera keeps at this input size (its own quirk; it grows with it)."""
        return tuple(side // 16 for side in self.input_size)

    @property
    def decoder_table_size(self) -> tuple[int, ...]:
        """Grid of the stored position table of a masked autoencoder's decoder."""
        return self.decoder_grid(self.input_size)

    def decoder_grid(self, input_size: tuple[int, ...]) -> tuple[int, ...]:
        """Token grid of a masked autoencoder's decoder for an input of that size."""
        strides = (q**self.q_pool for q in self.q_stride)
        return tuple(g // s for g, s in zip(self.grid(input_size), strides, strict=True))

    def grid(self, input_size: tuple[int, ...]) -> tuple[int, ...]:
        """Token grid of an input of that size."""
        return tuple(pixels // stride for pixels, stride in zip(input_size, self.patch_stride, strict=True))

    def known_stages(self, names: Sequence[str] | None) -> list[str]:
        """Names of stages as a list, in the order they were asked for; a single name is one of them, None all.

        Raises:
            UnknownNameError: A stage that the network does not have.
        """
        known = self.stage_names
        single = isinstance(names, str) or not isinstance(names, Iterable)
        asked: Sequence[Any] = known if names is None else [names] if single else names
        for name in asked:
            if name not in known:
                said = f"Stages are {', '.join(known)}; got {brief(name)}. {nearest(str(name), known)}"
                raise UnknownNameError(said.rstrip())
        return list(asked)

    def check_input(self, shape: tuple[int, ...]) -> None:
        """Refuse a batch that is none of this network's: (b, 3, h, w), or (b, 3, t, h, w) of clips.

        Raises:
            InputError: Another rank, other channels, or a size that it cannot tile.
        """
        if len(shape) != len(self.input_size) + 2 or shape[1] != self.in_channels:
            axes = "(b, 3, t, h, w)" if self.is_video else "(b, 3, h, w)"
            raise InputError(f"Input of {self.name!r} must be {axes}; got {tuple(shape)}.")
        self.check_size(tuple(shape[2:]))

    def check_size(self, size: tuple[int, ...]) -> None:
        """Refuse an input size that the network cannot tile.

        Raises:
            InputError: An axis is not a positive multiple of `size_multiple`; names the nearest legal size.
        """
        multiples = self.size_multiple
        if len(size) != len(multiples):
            raise InputError(f"Input size must have {len(multiples)} axes; got {tuple(size)}.")
        below = tuple(max(m, s // m * m) for s, m in zip(size, multiples, strict=True))
        if below == tuple(size):
            return
        above = tuple(max(m, -(-s // m) * m) for s, m in zip(size, multiples, strict=True))
        axes, got, *options = ("x".join(map(str, s)) for s in (multiples, size, *dict.fromkeys((below, above))))
        raise InputError(
            f"Input size must be a multiple of {axes} pixels for {self.name!r}; got {got}. Nearest legal: "
            f"{' or '.join(options)}."
        )

    def with_input_size(self, size: int | tuple[int, ...], *, birder: bool = False) -> ModelConfig:
        """The same architecture at another size.

        Args:
            size: Pixels; an int is a square, (h, w) keeps a video's frames.
            birder: Whether the background table of an abswin Hiera follows, as birder's does.

        Raises:
            InputError: A size that the network cannot take.
        """
        resized = dataclasses.replace(self, input_size=self.full_size(size))
        if not birder or self.family != "hiera_abswin":
            return resized
        return dataclasses.replace(resized, position_size=resized.birder_table)

    def with_num_classes(self, num_classes: int) -> ModelConfig:
        """The same architecture with another number of classes.

        Raises:
            InputError: Not a whole number, or negative.
        """
        return dataclasses.replace(self, num_classes=num_classes)

    def full_size(self, size: int | tuple[int, ...]) -> tuple[int, ...]:
        """Spell a size out to one number per axis and check it.

        Raises:
            InputError: The size is not an int or a pair, or is not legal for this network.
        """
        if isinstance(size, bool) or not isinstance(size, (int, tuple, list)):
            raise InputError(f"Input size must be an int or (height, width); got {brief(size)}.")
        pixels = (size, size) if isinstance(size, int) else tuple(size)
        if len(pixels) > 3 or not all(hasattr(side, "__index__") and abs(side) < 1 << 16 for side in pixels):
            raise InputError(f"Input size must be whole numbers of at most 65535 pixels; got {brief(size)}.")
        pixels = tuple(map(operator.index, pixels))
        if self.is_video and len(pixels) == 2:
            pixels = (self.input_size[0], *pixels)
        self.check_size(pixels)
        return pixels

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; `from_dict` inverts it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> ModelConfig:
        """Read what `to_dict` wrote, lists or tuples alike.

        Raises:
            UnknownNameError: A key that no field has.
            InputError: A value of the wrong type or out of its bounds.
        """
        if isinstance(data, Mapping) and isinstance(data.get("decoder"), Mapping):
            decoder = read(DecoderConfig, data["decoder"], where="A decoder", unknown=UnknownNameError)
            data = {**data, "decoder": decoder}
        return read(cls, data, where="A model config", unknown=UnknownNameError)


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """One row of the block table: everything a block needs to know."""

    index: int
    stage: int
    dim_in: int
    dim_out: int
    heads: int
    window: tuple[int, ...] | None
    q_stride: tuple[int, ...] | None
    drop_path: float
    last_of_stage: bool


def block_table(config: ModelConfig) -> tuple[BlockSpec, ...]:
    """Expand a config to its blocks.

    The lag rule lives here and nowhere else: the first block of a stage keeps the window of the stage
    before it, because its queries are pooled only inside its attention.

    Source: arXiv:2306.00989 section 3; SAM 2 `hieradet.py` for the listed global blocks.
    """
    rows: list[BlockSpec] = []
    depth, windows = sum(config.depths), config.resolved_windows
    for stage, blocks in enumerate(config.depths):
        for block in range(blocks):
            index = len(rows)
            opens_stage = block == 0 and stage > 0
            window = None if index in config.global_blocks else windows[stage - 1 if opens_stage else stage]
            rows.append(
                BlockSpec(
                    index=index,
                    stage=stage + 1,
                    dim_in=config.channels[stage - 1 if opens_stage else stage],
                    dim_out=config.channels[stage],
                    heads=config.num_heads * 2**stage,
                    window=window,
                    q_stride=config.q_stride if opens_stage and stage <= config.q_pool else None,
                    drop_path=config.drop_path * index / max(depth - 1, 1),
                    last_of_stage=block == blocks - 1,
                )
            )
    return tuple(rows)


@dataclass(frozen=True, kw_only=True)
class PreprocessSpec:
    """How an RGB image becomes the network's input; each origin has its own recipe.

    Attributes:
        size: Pixels of the result, (height, width).
        resize: "squash" ignores the aspect ratio; "shortest" scales the shorter side, then crops the centre.
        crop_ratio: Side of the crop over the side of the resized image.
        resize_to: Exact shorter side in pixels where the origin states it; otherwise floor(size / crop_ratio).
        interpolation: "bicubic" or "bilinear", always antialiased.
        engine: "pil" resizes the 8-bit image as Pillow does, "uint8" as torch does on bytes, "float" as torch
            does on floats; they differ by up to one grey level.
        crop_rounding: "even" (torchvision: round half to even) or "floor" (transformers).
        mean: Per channel, in 0..1.
        std: Per channel, in 0..1.
        frame_stride: For clips, source frames from one frame to the next.
    """

    size: tuple[Side, Side] = (224, 224)
    resize: Literal["squash", "shortest"] = "shortest"
    crop_ratio: Annotated[float, Between(least=0.05, most=20)] = 0.875
    resize_to: Side | None = None
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    engine: Literal["pil", "uint8", "float"] = "pil"
    crop_rounding: Literal["even", "floor"] = "even"
    mean: tuple[Scale, Scale, Scale] = IMAGENET_MEAN
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD
    frame_stride: Annotated[int, Between(least=1, most=1 << 20)] = 4

    def __post_init__(self) -> None:
        conform(self)
        if math.prod(self.size) > MOST_PIXELS:
            raise InputError(f"size must have at most {MOST_PIXELS:,} pixels; got {self.size}.")
        if self.resize_to is not None and self.resize_to > 20 * max(self.size):
            raise InputError(f"resize_to must be at most 20 times the size {self.size}; got {self.resize_to}.")

    def with_size(self, size: tuple[int, ...]) -> PreprocessSpec:
        """The same recipe for another input size, (height, width) or a clip's, keeping the crop ratio."""
        height, width = size[-2:]
        if (height, width) == self.size:
            return self
        ratio = self.crop_ratio if self.resize_to is None else min(self.size) / self.resize_to
        return dataclasses.replace(self, size=(height, width), resize_to=None, crop_ratio=ratio)

    @classmethod
    def from_dict(cls, data: Any) -> PreprocessSpec:
        """As `ModelConfig.from_dict`."""
        return read(cls, data, where="A preprocess recipe", unknown=UnknownNameError)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data; `from_dict` inverts it."""
        return dataclasses.asdict(self)


# One line per size: embed_dim, heads, depths. The Hiera paper's table 2.
_SIZES: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "tiny": (96, 1, (1, 2, 7, 2)),
    "small": (96, 1, (1, 2, 11, 2)),
    "base": (96, 1, (2, 3, 16, 3)),
    "base_plus": (112, 2, (2, 3, 16, 3)),
    "large": (144, 2, (2, 6, 36, 4)),
    "huge": (256, 4, (2, 6, 36, 4)),
}
# Blocks with global attention, and the background position table, of the SAM 2 trunks.
_DET_GLOBAL = {
    "tiny": (5, 7, 9),
    "small": (7, 10, 13),
    "base": (12, 16, 20),
    "base_plus": (12, 16, 20),
    "large": (23, 33, 43),
}
_DET_POSITION = {"tiny": 7, "small": 7, "base": 14, "base_plus": 14, "large": 7}
_BIRDER_DROP_PATH = {"tiny": 0.1, "small": 0.1, "base": 0.1, "base_plus": 0.1, "large": 0.2, "huge": 0.3}


def square_windows(spec: tuple[int, ...]) -> tuple[tuple[int, int] | int | None, ...]:
    """A SAM 2 or birder `window_spec` as our windows: 0 is global, negative stays a fraction of the side."""
    return tuple(None if w == 0 else (w, w) if w > 0 else w for w in spec)


_VIDEO: dict[str, Any] = {
    "family": "hiera_video",
    "input_size": (16, 224, 224),
    "num_classes": 400,
    "windows": ((1, 8, 8), (1, 4, 4), None, None),
    "q_stride": (1, 2, 2),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "mask_unit": (1, 8, 8),
    "position": "separable",
}
_ABSWIN: dict[str, Any] = {"family": "hiera_abswin", "position": "window", "position_size": (14, 14)}
_ABSWIN["position_antialias"] = True


def _hiera(name: str, size: str, line: Mapping[str, Any] | None = None, **options: Any) -> ModelConfig:
    """A network of that size and line of the family."""
    embed_dim, num_heads, depths = _SIZES[size]
    sized = {"embed_dim": embed_dim, "num_heads": num_heads, "depths": depths}
    return ModelConfig(name=name, **{**sized, **(line or {}), **options})


def _det(name: str, size: str, windows: tuple[int, ...], **options: Any) -> ModelConfig:
    """A HieraDet, with the global blocks and the background table of SAM 2's trunk of that size."""
    line = {
        "family": "hieradet",
        "num_classes": 0,
        "windows": square_windows(windows),
        "global_blocks": _DET_GLOBAL[size],
        "position": "window",
        "position_size": (_DET_POSITION[size],) * 2,
    }
    return _hiera(name, size, line, **options)


def _architectures() -> dict[str, ModelConfig]:
    configs: list[ModelConfig] = []
    for size in _SIZES:
        # Quirk(MAE): Hiera is masked-pretrained with two query pools, so that a mask unit ends as 2x2 tokens.
        mae = {"num_classes": 0, "q_pool": 2, "head": "pool", "decoder": DecoderConfig()}
        configs += [_hiera(f"hiera_{size}_224", size), _hiera(f"mae_hiera_{size}_224", size, **mae)]
        if size not in ("tiny", "small"):
            configs.append(_hiera(f"hiera_{size}_16x224", size, _VIDEO))
            configs.append(_hiera(f"mae_hiera_{size}_16x224", size, _VIDEO, **mae))
        # Quirk(birder): its plain Hiera resizes position tables with antialiasing; its MAE pools three times.
        birder = {"num_classes": 0, "drop_path": _BIRDER_DROP_PATH[size], "position_antialias": True}
        for name, line in (("hiera", None), ("hiera_abswin", _ABSWIN)):
            configs.append(_hiera(f"{name}_{size}", size, line, **birder))
            configs.append(_hiera(f"mae_hiera_{name}_{size}", size, line, **birder, decoder=DecoderConfig()))
    pooled = {"num_classes": 0, "drop_path": 0.1, "head": "attention", "attention_pool_heads": 16}
    configs.append(_hiera("hiera_abswin_base_plus_ap", "base_plus", _ABSWIN, **pooled))
    timm = {"input_size": (256, 256), "layer_scale": 1e-5}
    small = {**timm, "position_size": (16, 16), "shortcut": "max_avg"}
    configs.append(_hiera("hiera_small_abswin_256", "small", _ABSWIN, **small))
    configs.append(_hiera("hiera_base_abswin_256", "base", _ABSWIN, **timm))
    configs.append(_det("timm_hieradet_small", "small", (8, 4, 16, 8), **timm, num_classes=1000))
    for size in ("tiny", "small", "base_plus", "large"):
        windows = (8, 4, 16, 8) if size == "large" else (8, 4, 14, 7)
        configs.append(_det(f"sam2_hiera_{size}", size, windows, input_size=(1024, 1024), head="pool"))
    for size in _DET_GLOBAL:
        birder = {"head": "norm_pool", "drop_path": _BIRDER_DROP_PATH[size]}
        configs.append(_det(f"hieradet_{size}", size, (8, 4, 14, 7), **birder))
        configs.append(_det(f"hieradet_d_{size}", size, (8, 4, 0, 0), **birder))
    nano = {"input_size": (96, 96), "num_classes": 0, "embed_dim": 32, "depths": (1, 1, 3, 1)}
    configs.append(_hiera("hiera_nano_96", "tiny", **nano))
    return {config.name: config for config in configs}


ARCHITECTURES: dict[str, ModelConfig] = _architectures()


def architecture(name: str) -> ModelConfig:
    """The config of a public architecture name.

    Raises:
        UnknownNameError: No such architecture; suggests the nearest.
    """
    if name not in ARCHITECTURES:
        raise UnknownNameError(
            f"Unknown architecture {brief(name)}. {nearest(name, ARCHITECTURES)}See `hierax list` for all names."
        )
    return ARCHITECTURES[name]
