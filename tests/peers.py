"""Reference networks: the packages that our checkpoints come from, built small and loud.

Every function imports its package when called and skips the test where the parity group is not installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hierax.config import DecoderConfig, ModelConfig
from hierax.model.encoder import Encoder
from hierax.model.mae import MaskedAutoencoder

from .members import (
    DET_GLOBAL,
    VIDEO_PATCHES,
    abswin_config,
    det_config,
    loud,
    mae_config,
    plain_config,
)


@functools.cache
def prepare() -> None:
    """Register the operator schemas that torchvision's Python needs where its compiled half cannot be loaded.

    Only there: where it can (a torch with CUDA, say), registering them twice ends the process.
    """
    found = importlib.util.find_spec("torchvision")
    library = Path(found.origin).with_name("_C.so") if found is not None and found.origin else Path()
    with contextlib.suppress(OSError):
        torch.ops.load_library(library)
        return
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)


def peer(name: str) -> types.ModuleType:
    """Import a reference module, or skip the test that asked."""
    root = name.split(".")[0]
    for needed in (root, "torchvision"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed!r} is not installed; it comes with the parity group")
    prepare()
    return importlib.import_module(name)


@dataclass
class Reference:
    """A reference network, its architecture in our words, and how to ask it."""

    module: nn.Module
    config: ModelConfig
    ask: Callable[[nn.Module, Tensor], dict[str, Tensor]]
    rename: Callable[[str], str | None]

    def answers(self, x: Tensor) -> dict[str, Tensor]:
        """What the reference says: "logits" and "embedding" where it has them, "stage1".. channels first."""
        return self.ask(self.module, x)

    def translate(self, tensors: Mapping[str, Tensor], ours: nn.Module) -> dict[str, Tensor]:
        """The reference's tensors under our names and in our shapes."""
        shapes = {key: value.shape for key, value in ours.state_dict().items()}
        found = {}
        for key, value in tensors.items():
            name = self.rename(key)
            if name is None:
                continue
            assert name in shapes, f"{key} became {name}, which our network does not have"
            if "pos_embed" in name and value.ndim == 4:
                value = value.permute(0, 2, 3, 1)
            found[name] = value.reshape(shapes[name])
        return found

    def load_into(self, ours: nn.Module) -> nn.Module:
        """Put the reference's weights into our module, by the test's own renaming; strict."""
        ours.load_state_dict(self.translate(self.module.state_dict(), ours))
        return ours.eval()

    def gradients(self, ours: nn.Module) -> dict[str, Tensor]:
        """The reference's gradients under our names."""
        grads = {key: p.grad for key, p in self.module.named_parameters() if p.grad is not None}
        return self.translate(grads, ours)

    def encoder(self, config: ModelConfig | None = None) -> Encoder:
        """Our encoder with the reference's weights, in its precision."""
        encoder = Encoder(config or self.config).to(next(self.module.parameters()).dtype)
        self.load_into(encoder)
        return encoder

    def autoencoder(self) -> MaskedAutoencoder:
        """Our masked autoencoder with the reference's weights, in its precision."""
        autoencoder = MaskedAutoencoder(self.config).to(next(self.module.parameters()).dtype)
        self.load_into(autoencoder)
        return autoencoder


def ours(encoder: Encoder, x: Tensor, keys: Sequence[str]) -> dict[str, Tensor]:
    """The same questions put to our encoder."""
    said = dict(encoder.detection_features(x))
    if "embedding" in keys:
        said["embedding"] = encoder.embedding(x)
    if "logits" in keys:
        said["logits"] = encoder(x)
    return said


def renamer(*rules: tuple[str, str | None]) -> Callable[[str], str | None]:
    """Apply regular expressions in turn; a None replacement drops the key."""

    def rename(key: str) -> str | None:
        for pattern, replacement in rules:
            if replacement is None:
                if re.search(pattern, key):
                    return None
            else:
                key = re.sub(pattern, replacement, key)
        return key

    return rename


def stage_blocks(depths: Sequence[int], pattern: str, first: int) -> tuple[tuple[str, str], ...]:
    """Rules from (stage, block of stage) to a running block number."""
    rules, index = [], 0
    for stage, blocks in enumerate(depths):
        for block in range(blocks):
            rules.append((pattern.format(s=stage + first, j=block), f"blocks.{index}."))
            index += 1
    return tuple(rules)


def named_stages(maps: Sequence[Tensor]) -> dict[str, Tensor]:
    """Four maps by stage name."""
    return {f"stage{i}": m for i, m in enumerate(maps, start=1)}


# --- Meta Hiera ---------------------------------------------------------------------------------------------------


def ask_meta(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Raw logits (its head applies softmax in eval mode), embedding, maps made channels first."""
    maps = module(x, return_intermediates=True)[1]
    embedding = module.norm(maps[-1].flatten(1, -2).mean(1))
    said = named_stages([m.movedim(-1, 1) for m in maps])
    return {**said, "embedding": embedding, "logits": module.head.projection(embedding)}


def meta(
    size: tuple[int, ...] = (64, 64),
    depths: tuple[int, ...] = (1, 2, 3, 1),
    dim: int = 16,
    classes: int = 5,
    **options: Any,
) -> Reference:
    """Meta's Hiera, image or video by the length of `size`."""
    video = len(size) == 3
    unit = (1, 8, 8) if video else (8, 8)
    extra = {**VIDEO_PATCHES, "mask_unit_size": unit, "sep_pos_embed": True} if video else {}
    module = peer("hiera").Hiera(
        input_size=size, embed_dim=dim, stages=depths, num_classes=classes, **{**extra, **options}
    )
    return Reference(
        loud(module),
        plain_config(size, depths, dim, num_classes=classes),
        ask_meta,
        lambda key: key,
    )


def meta_mae(
    size: tuple[int, ...] = (64, 64), depths: tuple[int, ...] = (1, 2, 3, 1), dim: int = 16, q_pool: int = 2
) -> Reference:
    """Meta's masked autoencoder, decoder 32 wide and 2 deep."""
    video = len(size) == 3
    extra = {**VIDEO_PATCHES, "mask_unit_size": (1, 8, 8), "sep_pos_embed": True} if video else {}
    module = peer("hiera").MaskedAutoencoderHiera(
        input_size=size,
        embed_dim=dim,
        stages=depths,
        q_pool=q_pool,
        decoder_embed_dim=32,
        decoder_depth=2,
        decoder_num_heads=4,
        **extra,
    )
    return Reference(loud(module), mae_config(size, depths, dim, q_pool=q_pool), ask_meta, mae_rename())


def mae_rename(*rules: tuple[str, str | None]) -> Callable[[str], str | None]:
    """Neutral names to those of our masked autoencoder: the encoder under its own prefix."""
    own = r"^(patch_embed|pos_embed|blocks)"
    return renamer(*rules, (own, r"encoder.\1"))


# --- SAM 2 trunks -------------------------------------------------------------------------------------------------


def sam2(
    windows: tuple[int, ...] = (8, 4, 14, 7),
    heads: int = 1,
    background: int = 7,
    depths: tuple[int, ...] = (1, 2, 5, 2),
    global_blocks: tuple[int, ...] = DET_GLOBAL,
) -> Reference:
    """The trunk of SAM 2's image encoder."""
    hieradet = peer("sam2.modeling.backbones.hieradet")
    module = hieradet.Hiera(
        embed_dim=16,
        num_heads=heads,
        stages=depths,
        global_att_blocks=global_blocks,
        window_spec=windows,
        window_pos_embed_bkg_spatial_size=(background, background),
    )
    changes = {"num_heads": heads, "position_size": (background, background)}
    config = det_config(windows, depths=depths, global_blocks=global_blocks, **changes)
    return Reference(loud(module), config, lambda m, x: named_stages(m(x)), SAM2_RENAME)


SAM2_RENAME = renamer((r"mlp\.layers\.0\.", "mlp.fc1."), (r"mlp\.layers\.1\.", "mlp.fc2."))


# --- timm ---------------------------------------------------------------------------------------------------------

TIMM_RENAME = renamer(
    (r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head.projection."), (r"pos_embed_win$", "pos_embed_window")
)


def ask_timm(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Pooled and normed vector, raw logits, stage maps as timm gives them."""
    features = module.forward_features(x)
    embedding = module.forward_head(features, pre_logits=True)
    said = named_stages(module.forward_intermediates(x, indices=4, intermediates_only=True))
    said["embedding"] = embedding
    if module.num_classes:
        said["logits"] = module.forward_head(features)
    return said


def timm(name: str, config: ModelConfig, **options: Any) -> Reference:
    """A timm network under one of its public names, made small by timm's own arguments."""
    peer("timm")
    module = importlib.import_module("timm").create_model(
        name,
        embed_dim=config.embed_dim,
        stages=config.depths,
        num_classes=config.num_classes,
        **options,
    )
    return Reference(loud(module), config, ask_timm, TIMM_RENAME)


# --- birder -------------------------------------------------------------------------------------------------------


def birder_rename(depths: Sequence[int], norm: str) -> Callable[[str], str | None]:
    """birder's names to ours; its final norm sits at another index in each family."""
    return renamer(
        (r"^stem\.proj", "patch_embed.proj"),
        *stage_blocks(depths, r"^body\.stage{s}\.{j}\.", 1),
        (r"mlp\.0\.", "mlp.fc1."),
        (r"mlp\.3\.", "mlp.fc2."),
        (rf"^features\.{norm}\.", "norm."),
        (r"^features\.0\.", "attention_pool."),
        (r"^classifier\.", "head.projection."),
        (r"pos_embed_win$", "pos_embed_window"),
    )


def ask_birder(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """birder's embedding, logits and detection maps."""
    embedding = module.embedding(x)
    said = {**module.detection_features(x), "embedding": embedding}
    if module.num_classes:
        said["logits"] = module.classify(embedding)
    return said


def birder(name: str, config: ModelConfig, **options: Any) -> Reference:
    """A birder network under one of its registered names, made small by a config override."""
    registry = peer("birder.model_registry").registry
    peer("birder.net.hiera"), peer("birder.net.hieradet")
    small = {
        "depths": list(config.depths),
        "embed_dim": config.embed_dim,
        "num_heads": config.num_heads,
        "drop_path_rate": 0.0,
        **options,
    }
    if config.family == "hieradet":
        small["global_att_blocks"] = list(config.global_blocks)
    height, width = config.input_size
    module = registry.net_factory(name, config.num_classes, config=small, size=(height, width))
    norm = "0" if config.family == "hieradet" else "1"
    return Reference(loud(module), config, ask_birder, birder_rename(config.depths, norm))


def birder_mae(q_pool: int = 3, size: tuple[int, int] = (64, 64), abswin: bool = False) -> Reference:
    """birder's masked autoencoder; its decoder is always 512 wide, and 8 deep until we cut it to 1."""
    table = {"position_size": (size[0] // 16, size[1] // 16), "position": "window", "position_antialias": True}
    config = mae_config(
        size, (1, 2, 3, 1), 16, q_pool=q_pool, decoder=DecoderConfig(depth=1), **(table if abswin else {})
    )
    encoder = birder("hiera_abswin_tiny" if abswin else "hiera_tiny", config, q_pool=q_pool).module
    module = peer("birder.net.mim.mae_hiera").MAE_Hiera(encoder, size=size)
    module.decoder_blocks = module.decoder_blocks[:1]
    inner = birder_rename((1, 2, 3, 1), "1")

    def rename(key: str) -> str | None:
        if key.startswith("encoder.features"):
            return None  # the classifier's norm, which no masked pass uses
        if key.startswith("encoder."):
            return "encoder." + (inner(key.removeprefix("encoder.")) or "")
        return inner(key)

    return Reference(loud(module), config, ask_birder, rename)


# --- transformers -------------------------------------------------------------------------------------------------


def hf_rules(depths: Sequence[int]) -> tuple[tuple[str, str | None], ...]:
    """transformers' Hiera names to ours."""
    return (
        (r"^hiera\.", ""),
        (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        *stage_blocks(depths, r"^encoder\.stages\.{s}\.layers\.{j}\.", 0),
        (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"),
        (r"^pooler\.layernorm", "norm"),
        (r"^classifier\.", "head.projection."),
        (r"^decoder\.decoder_block\.layers\.", "decoder_blocks."),
        (r"^decoder\.decoder_position_embeddings", "decoder_pos_embed"),
        (r"^decoder\.decoder_embeddings", "decoder_embed"),
        (r"^decoder\.", ""),
        (r"^multiscale_fusion\.", ""),
    )


def hf_config(size: tuple[int, int], depths: Sequence[int], dim: int, **options: Any) -> Any:
    """transformers' HieraConfig of a small network."""
    heads = [2**stage for stage in range(len(depths))]
    config = peer("transformers").HieraConfig
    return config(image_size=list(size), depths=list(depths), embed_dim=dim, num_heads=heads, **options)


def ask_hf(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """transformers' logits, pooled vector and reshaped maps (only at its own size: it raises elsewhere)."""
    native = list(x.shape[-2:]) == list(module.config.image_size)
    options: dict[str, Any] = {"interpolate_pos_encoding": not native}
    out = module.hiera(x, output_hidden_states=native, **options)
    said = {"embedding": out.pooler_output, "logits": module(x, **options).logits}
    if native:
        said |= named_stages([m.permute(0, 3, 1, 2) for m in out.reshaped_hidden_states[1:]])
    return said


def hf(size: tuple[int, int] = (64, 64), depths: tuple[int, ...] = (1, 2, 3, 1), dim: int = 16) -> Reference:
    """transformers' HieraForImageClassification."""
    classes = {i: f"class {i}" for i in range(5)}
    module = peer("transformers").HieraForImageClassification(
        hf_config(size, depths, dim, id2label=classes, label2id={v: k for k, v in classes.items()})
    )
    config = plain_config(size, depths, dim, num_classes=5)
    return Reference(loud(module), config, ask_hf, renamer(*hf_rules(depths)))


def hf_mae(size: tuple[int, int] = (64, 64), depths: tuple[int, ...] = (1, 2, 3, 1), dim: int = 16) -> Reference:
    """transformers' HieraForPreTraining with the small decoder of these tests."""
    options = {"num_query_pool": 2, "decoder_hidden_size": 32, "decoder_depth": 2, "decoder_num_heads": 4}
    module = peer("transformers").HieraForPreTraining(hf_config(size, depths, dim, **options))
    return Reference(loud(module), mae_config(size, depths, dim, q_pool=2), ask_hf, mae_rename(*hf_rules(depths)))


def hf_sam2(windows: tuple[int, ...] = (8, 4, 14, 7)) -> Reference:
    """transformers' SAM 2 trunk."""
    transformers = peer("transformers")
    depths = [1, 2, 5, 2]
    config = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        blocks_per_stage=depths,
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=list(windows),
        window_positional_embedding_background_size=[7, 7],
        global_attention_blocks=list(DET_GLOBAL),
    )
    modeling = peer("transformers.models.sam2.modeling_sam2")
    return Reference(loud(modeling.Sam2HieraDetModel(config)), det_config(windows), ask_hf_sam2, HF_SAM2_RENAME)


HF_SAM2_RENAME = renamer(
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"layer_norm", "norm"),
    (r"mlp\.proj_in", "mlp.fc1"),
    (r"mlp\.proj_out", "mlp.fc2"),
)


def ask_hf_sam2(module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Its maps, made channels first."""
    return named_stages([m.permute(0, 3, 1, 2) for m in module(x).intermediate_hidden_states])


# --- every family, for the tests that go through all ----------------------------------------------------------------


def birder_abswin(size: tuple[int, int] = (64, 64), **options: Any) -> Reference:
    """birder's abswin: its background table has a cell for 16 pixels."""
    return birder("hiera_abswin_tiny", abswin_config(size, (size[0] // 16, size[1] // 16), **options))


def birder_ap(size: tuple[int, int] = (64, 64)) -> Reference:
    """birder's abswin with attention pooling."""
    config = abswin_config(size, (size[0] // 16, size[1] // 16), head="attention", num_heads=2)
    return birder("hiera_abswin_base_plus_ap", config)


def birder_plain(size: tuple[int, int] = (64, 64)) -> Reference:
    """birder's plain Hiera, which resizes its table with antialiasing."""
    return birder("hiera_tiny", plain_config(size, (1, 2, 3, 1), 16, num_classes=5, position_antialias=True))


def birder_det(windows: tuple[int, ...] = (8, 4, 14, 7), size: tuple[int, int] = (224, 224)) -> Reference:
    """birder's HieraDet: norm first, then pool."""
    config = det_config(windows, input_size=size, head="norm_pool", num_classes=5)
    name = "hieradet_tiny" if windows[2] > 0 else "hieradet_d_tiny"
    return birder(name, config, window_spec=list(windows))


def timm_plain(size: tuple[int, int] = (64, 64)) -> Reference:
    """timm's plain Hiera."""
    return timm("hiera_tiny_224", plain_config(size, (1, 2, 3, 1), 16, num_classes=5), img_size=size)


def timm_small_abswin(size: tuple[int, int] = (64, 64)) -> Reference:
    """timm's small abswin: stacked max and mean as shortcut, branch scales."""
    config = abswin_config(size, (16, 16), shortcut="max_avg", layer_scale=1e-5)
    return timm("hiera_small_abswin_256", config, img_size=size)


def timm_base_abswin(size: tuple[int, int] = (64, 64)) -> Reference:
    """timm's base abswin: projected shortcut, branch scales."""
    return timm("hiera_base_abswin_256", abswin_config(size, (14, 14), layer_scale=1e-5), img_size=size)


def timm_sam2(windows: tuple[int, ...] = (8, 4, 14, 7)) -> Reference:
    """timm's SAM 2 trunk, which pools, then norms."""
    config = det_config(windows, head="pool_norm")
    return timm("sam2_hiera_tiny", config, window_spec=windows, global_att_blocks=DET_GLOBAL)


def timm_hieradet() -> Reference:
    """timm's hieradet_small: windows of 16 and 8, branch scales, classes."""
    config = det_config((8, 4, 16, 8), head="pool_norm", num_classes=5, layer_scale=1e-5)
    return timm("hieradet_small", config, global_att_blocks=DET_GLOBAL)


TINY: dict[str, Callable[[], Reference]] = {
    "meta": meta,
    "meta_video": partial(meta, (4, 64, 64)),
    "transformers": hf,
    "timm_plain": timm_plain,
    "birder_plain": birder_plain,
    "timm_small_abswin": timm_small_abswin,
    "timm_base_abswin": timm_base_abswin,
    "birder_abswin": birder_abswin,
    "birder_ap": birder_ap,
    "sam2": sam2,
    "sam2_large_windows": partial(sam2, (8, 4, 16, 8), 2),
    "sam2_base_plus": partial(sam2, (8, 4, 14, 7), 2, 14),
    "transformers_sam2": hf_sam2,
    "timm_sam2": timm_sam2,
    "timm_hieradet": timm_hieradet,
    "birder_hieradet": birder_det,
    "birder_hieradet_d": partial(birder_det, (8, 4, 0, 0)),
    "birder_hieradet_negative": partial(birder_det, (8, 4, -16, -32)),
}
