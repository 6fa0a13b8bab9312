"""Every tiny network, image, clip, archive and file that tests use; what the original packages make is in peers.py."""

from __future__ import annotations

import dataclasses
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from hierax.config import ARCHITECTURES, DecoderConfig, ModelConfig, PreprocessSpec, architecture, square_windows
from hierax.model.encoder import Encoder
from hierax.model.init import build
from hierax.model.mae import MaskedAutoencoder
from hierax.weights.card import ModelCard, Weights
from hierax.weights.formats import sam2
from hierax.weights.network import from_module, to_module
from hierax.weights.write import write_weights

# --- architectures --------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"input_size": (64, 64), "embed_dim": 8, "depths": (1, 2, 3, 1), "num_classes": 3}
WINDOW: dict[str, Any] = {
    "family": "hiera_abswin",
    "position": "window",
    "position_size": (4, 4),
    "position_antialias": True,
}
VIDEO_PATCHES: dict[str, Any] = {
    "q_stride": (1, 2, 2),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
}
VIDEO: dict[str, Any] = {
    **VIDEO_PATCHES,
    "family": "hiera_video",
    "input_size": (4, 64, 64),
    "windows": ((1, 8, 8), (1, 4, 4), None, None),
    "mask_unit": (1, 8, 8),
    "position": "separable",
}
DET_GLOBAL = (4, 6)  # with depths (1, 2, 5, 2): two global blocks in stage 3, none a stage's first
MAE: dict[str, Any] = {
    "num_classes": 0,
    "q_pool": 2,
    "head": "pool",
    "decoder": DecoderConfig(dim=16, depth=2, num_heads=2),
}


def plain_config(size: tuple[int, ...], depths: tuple[int, ...], dim: int, **options: Any) -> ModelConfig:
    """Plain Hiera, of images or of clips."""
    extra = VIDEO if len(size) == 3 else {}
    return ModelConfig(**{**extra, "input_size": size, "depths": depths, "embed_dim": dim, **options})


def mae_config(size: tuple[int, ...], depths: tuple[int, ...], dim: int, **options: Any) -> ModelConfig:
    """Plain Hiera with a small decoder."""
    decoder = options.pop("decoder", DecoderConfig(dim=32, depth=2, num_heads=4))
    return plain_config(size, depths, dim, num_classes=0, head="pool", decoder=decoder, **options)


def det_config(windows: tuple[int, ...] = (8, 4, 14, 7), **options: Any) -> ModelConfig:
    """HieraDet, 16 channels wide."""
    common: dict[str, Any] = {
        "family": "hieradet",
        "depths": (1, 2, 5, 2),
        "embed_dim": 16,
        "windows": square_windows(windows),
        "global_blocks": DET_GLOBAL,
        "position": "window",
        "position_size": (7, 7),
        "head": "pool",
        "num_classes": 0,
    }
    return ModelConfig(**{**common, **options})


def abswin_config(size: tuple[int, int], table: tuple[int, int], **options: Any) -> ModelConfig:
    """Abswin Hiera, 16 channels wide."""
    common = {**SMALL, **WINDOW, "embed_dim": 16, "num_classes": 5, "input_size": size, "position_size": table}
    return ModelConfig(**{**common, **options})


def small_det(windows: tuple[int, ...], **options: Any) -> ModelConfig:
    """HieraDet, 8 channels wide, with one global block."""
    return det_config(windows, **{**SMALL, "global_blocks": (4,), "num_classes": 0, **options})


# One network of every kind that some format can hold.
MEMBERS: dict[str, ModelConfig] = {
    "Hiera": ModelConfig(**SMALL),
    "Hiera without classes": ModelConfig(**{**SMALL, "num_classes": 0}),
    "Hiera MAE": ModelConfig(**{**SMALL, **MAE}),
    "Hiera video": ModelConfig(**{**SMALL, **VIDEO}),
    "Hiera video MAE": ModelConfig(**{**SMALL, **VIDEO, **MAE}),
    "SAM 2 trunk": small_det((8, 4, 14, 7), head="pool"),
    "timm SAM 2 (trained norm)": small_det((8, 4, 14, 7), head="pool_norm"),
    "timm HieraDet": small_det((8, 4, 16, 8), head="pool_norm", layer_scale=1e-5, num_classes=3),
    "timm abswin": ModelConfig(**{**SMALL, **WINDOW, "position_size": (14, 14), "layer_scale": 1e-5}),
    "timm small abswin": ModelConfig(**{**SMALL, **WINDOW, "layer_scale": 1e-5, "shortcut": "max_avg"}),
    "birder abswin": ModelConfig(**{**SMALL, **WINDOW}),
    "birder abswin, attention pool": ModelConfig(**{**SMALL, **WINDOW, "head": "attention", "attention_pool_heads": 2}),
    "birder HieraDet": small_det((8, 4, 14, 7), head="norm_pool", num_classes=3),
    "birder HieraDet, global stages": small_det((8, 4, 0, 0), head="norm_pool", num_classes=3),
    "birder MAE": ModelConfig(**{**SMALL, **MAE, "q_pool": 3, "decoder": DecoderConfig(), "head": "pool_norm"}),
}
# What makes a network of each family, whatever its size.
FAMILIES: dict[str, dict[str, Any]] = {
    "hiera": {},
    "hiera_q_pool_2": {"q_pool": 2},
    "hiera_video": VIDEO,
    "abswin": WINDOW,
    "abswin_attention": {"position": "window", "position_size": (4, 4), "head": "attention"},
    "timm_abswin": {"position": "window", "position_size": (4, 4), "shortcut": "max_avg", "layer_scale": 1e-5},
    "hieradet": {
        "family": "hieradet",
        "position": "window",
        "position_size": (7, 7),
        "windows": square_windows((8, 4, 14, 7)),
        "global_blocks": (5,),
        "head": "norm_pool",
    },
    "hieradet_d": {
        "family": "hieradet",
        "position": "window",
        "position_size": (7, 7),
        "windows": square_windows((8, 4, 0, 0)),
        "global_blocks": (5,),
        "head": "norm_pool",
    },
    "sam2": {"position": "window", "position_size": (7, 7), "windows": square_windows((8, 4, 16, 8)), "head": "pool"},
}


# --- networks -------------------------------------------------------------------------------------------------------


def loud(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights under which a wrong network gives a clearly wrong answer, in eval mode.

    Matrices N(0, 1 / fan_in), biases N(0, 0.2), norm weights 1 +- 0.2, position tables and tokens N(0, 0.5), branch
    scales 0.5 .. 1.5. The draw depends on the seed, the parameter's name and its shape, on nothing else.
    """
    norms = (nn.LayerNorm,)
    kinds = {id(p): isinstance(m, norms) for m in module.modules() for p in m.parameters(recurse=False)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            draw = torch.randn(parameter.shape, generator=generator)
            leaf = name.rsplit(".", 1)[-1]
            if re.search(r"pos_embed|position_embed|mask_token|latent", name):
                draw = draw * 0.5
            elif leaf == "gamma":
                draw = 0.5 + torch.rand(parameter.shape, generator=generator)
            elif leaf == "weight" and kinds[id(parameter)]:
                draw = 1 + 0.2 * draw
            elif parameter.ndim > 1:
                draw = draw / parameter[0].numel() ** 0.5
            else:
                draw = draw * 0.2
            parameter.copy_(draw)
    return module.eval()


def tiny(family: str = "hiera", **options: Any) -> Encoder:
    """A loud network of a family, 16 channels wide, 64 pixels by default."""
    config = ModelConfig(**{**SMALL, "embed_dim": 16, "num_classes": 5, **FAMILIES[family], **options})
    encoder = loud(Encoder(config))
    assert isinstance(encoder, Encoder)
    return encoder


def tiny_mae(size: tuple[int, ...] = (64, 64), **options: Any) -> MaskedAutoencoder:
    """A loud masked autoencoder, 16 channels wide."""
    mae = loud(MaskedAutoencoder(mae_config(size, (1, 2, 3, 1), 16, **{"q_pool": 2, **options})))
    assert isinstance(mae, MaskedAutoencoder)
    return mae


def pixels(*shape: int, seed: int = 1) -> Tensor:
    """Seeded N(0, 1) input."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- their weights, as files ----------------------------------------------------------------------------------------


@pytest.fixture
def tiny_sam2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiny trunk a public one: SAM 2's files name no architecture, so only public trunks are known."""
    trunk = dataclasses.replace(MEMBERS["SAM 2 trunk"], name="sam2_hiera_toy")
    monkeypatch.setitem(ARCHITECTURES, "sam2_hiera_toy", trunk)
    monkeypatch.setattr(sam2, "NAMES", ("sam2_hiera_toy",))


def weights_of(config: ModelConfig, seed: int = 0) -> Weights:
    """Loud random weights, with labels and a preprocess that are nobody's default."""
    spec = PreprocessSpec(size=config.input_size[-2:], crop_ratio=0.8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    labels = [f"bird {index}" for index in range(config.num_classes)] or None
    return from_module(
        loud(build(config), seed), Weights(card=ModelCard(config=config, preprocess=spec), labels=labels)
    )


def written(config: ModelConfig, folder: Path, to: str) -> Path:
    """A file or folder of that format with that network."""
    return write_weights(weights_of(config), folder, to=to)


def answer(weights: Weights) -> dict[str, Tensor]:
    """What the network says about one fixed input: maps and embedding, or an autoencoder's predictions."""
    module = to_module(weights).eval()
    x = pixels(1, 3, *weights.config.input_size, seed=7)
    with torch.no_grad():
        if isinstance(module, MaskedAutoencoder):
            said = module(x, visible=torch.arange(2)[None])
            return {"loss": said.loss, "prediction": said.prediction}
        assert isinstance(module, Encoder)
        return {**module.detection_features(x), "logits": module(x)}


# --- a learner: a few thousand parameters, freshly initialised, and data that it can learn in seconds ------------------

LEARNER = ModelConfig(input_size=(64, 64), num_classes=0, embed_dim=8, depths=(1, 1, 1, 1))


def learner(*, decoder: bool = False, drop_path: float = 0.0, license: str | None = "cc-by-nc-4.0") -> Weights:
    """Random weights of the learner, always the same, under a name and a licence."""
    changes: dict[str, Any] = {"drop_path": drop_path}
    if decoder:
        changes |= {"decoder": DecoderConfig(dim=16, depth=1, num_heads=2), "q_pool": 2, "head": "pool"}
    config = dataclasses.replace(LEARNER, **changes)
    torch.manual_seed(5)
    card = ModelCard(
        name="tiny",
        config=config,
        preprocess=PreprocessSpec(size=(64, 64)),
        license=license,
        commercial=False,
        base_model="someone/tiny",
    )
    return from_module(build(config), Weights(card=card))


def save_learner(folder: Path, **options: Any) -> Path:
    """The learner as a hierax folder."""
    return write_weights(learner(**options), folder, to="hierax")


def classifier(labels: list[str]) -> Weights:
    """The learner with a head of random weights for these classes."""
    empty = learner()
    config = dataclasses.replace(empty.config, num_classes=len(labels))
    torch.manual_seed(6)
    module = build(config)
    torch.nn.init.normal_(module.head.projection.weight)
    torch.nn.init.normal_(module.head.projection.bias)
    return from_module(module, dataclasses.replace(empty, labels=labels).with_card(config=config))


def save_video_learner(folder: Path, side: int = 64, **options: Any) -> Path:
    """A network of clips of four frames, one block a stage, as a hierax folder."""
    base = architecture("hiera_base_16x224")
    small = {"name": "custom", "embed_dim": 8, "num_heads": 1, "depths": (1, 1, 1, 1), "num_classes": 0}
    config = dataclasses.replace(base, **{**small, "input_size": (4, side, side), **options})
    card = ModelCard(config=config, preprocess=PreprocessSpec(size=(side, side), resize="squash", crop_ratio=1.0))
    return write_weights(from_module(build(config), Weights(card=card)), folder, to="hierax")


def coloured_classes(folder: Path, *, per_class: int = 8, classes: int = 3, seed: int = 0) -> Path:
    """One folder a class; a class is a colour under noise."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        target = folder / f"class_{label}"
        target.mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            noise = rng.integers(0, 120, (72, 80, 3))
            noise[..., label % 3] += 120
            Image.fromarray(noise.astype(np.uint8)).save(target / f"{index:03}.png")
    return folder


# --- images ---------------------------------------------------------------------------------------------------------

# (width, height): 343 is where crop roundings differ, 150 is smaller than the crop.
PHOTOGRAPHS = ((343, 256), (301, 517), (640, 427), (150, 190))


def noise(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """RGB bytes (h, w, 3) of which every one matters."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def picture(size: tuple[int, int] = (48, 32), seed: int = 0) -> Image.Image:
    """Smooth noise of (width, height): every pixel matters and lossy formats keep it."""
    return Image.fromarray(noise(8, 8, seed)).resize(size, Image.Resampling.BICUBIC)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """What looks like a photograph to a resampler: smooth colour, hard edges and grain."""
    rng = np.random.default_rng([seed, width, height])
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (9 + 4 * c) + c) * np.cos(y / (13 + 3 * c)) for c in range(3)]
    values = 128 + 70 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    values[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 40)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """An image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def plain_image(color=(200, 10, 10), size=(20, 16), mode: str = "RGB", kind: str = "PNG") -> bytes:
    """One colour as the bytes of a file."""
    return encoded(Image.new("RGB", size, color).convert(mode), kind)


def write_png(path: str | Path, seed: int = 1) -> Path:
    """A small PNG under any name."""
    Path(path).write_bytes(encoded(picture(seed=seed)))
    return Path(path)


def write_photographs(folder: Path) -> list[Path]:
    """One JPEG of each size."""
    paths = [folder / f"{width}x{height}.jpg" for width, height in PHOTOGRAPHS]
    for path, (width, height) in zip(paths, PHOTOGRAPHS, strict=True):
        photograph(width, height).save(path, quality=92)
    return paths


# --- data sets, archives and clips ----------------------------------------------------------------------------------


def folder_of_classes(root: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 4) -> Path:
    """One folder a class, a colour an image."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / name / f"{index}.png").write_bytes(plain_image((40 * label, index, 0)))
    return root


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """A tar of named bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples(count: int, start: int = 0, labels: Sequence[str] = ("0", "1", "2")) -> Iterator[tuple[str, bytes]]:
    """Members of a shard: images and their classes in turn."""
    for i in range(start, start + count):
        yield f"{i:05}.jpg", plain_image((i, 0, 0), kind="JPEG")
        yield f"{i:05}.cls", labels[i % len(labels)].encode()


def write_clip(path: Path, frames: np.ndarray, codec: str = "mpeg4", *, rate: int = 25, gop: int = 12) -> Path:
    """RGB bytes (t, h, w, 3) as a video file; skips the test where PyAV is missing."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.gop_size = gop
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path
