"""What a run of self-distillation begins with: a backbone, heads, sizes of crops; what cannot work is refused here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import InputError, RecipeError, brief
from ..model.dino import Head, SelfDistilled
from ..weights.adapt import to_encoder, to_num_classes, with_final_norm
from ..weights.card import Weights
from ..weights.network import to_module
from ..weights.safetensors_files import read_safetensors
from .recipe import Recipe

HEADS = "heads.safetensors"  # beside the folder of a model
LOCAL_SIZE = 96


def as_backbone(weights: Weights, recipe: Recipe) -> Weights:
    """An encoder without classes.

    Raises:
        RecipeError: A network of clips.
    """
    if weights.config.is_video:
        raise RecipeError(
            f"DINOv2 trains networks of images; {weights.config.name!r} takes clips. Use mae, or a model of images."
        )
    weights = with_final_norm(to_num_classes(to_encoder(weights), 0))
    changes = {} if recipe.drop_path is None else {"drop_path": recipe.drop_path}
    return weights.with_card(config=dataclasses.replace(weights.config, head_dropout=0.0, **changes))


def crop_sizes(config: ModelConfig, asked: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of large and small crops.

    Raises:
        RecipeError: A size that the network cannot take.
    """
    large = (config.input_size[-2], config.input_size[-1])
    if config.position == "grid":
        if asked is not None and (asked, asked) != large:
            raise RecipeError(
                f"Plain Hiera takes one size only, because its positions are of one; got local_size={asked} for input "
                f"of {large[0]}x{large[1]}. Leave local_size out: small crops then are smaller parts of the image at "
                "the same size. Or take a hieradet_... or hiera_abswin_... model."
            )
        return large, large
    side = min(LOCAL_SIZE, *large) if asked is None else asked
    try:
        config.check_size((side, side))
    except InputError as error:
        raise RecipeError(f"local_size must be one that the network takes. {error}") from error
    return large, (side, side)


def check_rows(rows: int, recipe: Recipe, processes: int) -> None:
    """Refuse parts in which no embedding has a neighbour to keep away from.

    Args:
        rows: Images of a part, on one process.
        recipe: Of the run.
        processes: How many there are.

    Raises:
        RecipeError: There is one alone.
    """
    own = recipe.settings
    together = rows * (processes if own.koleo_gathered else 1)
    if own.koleo_weight and together < 2:
        raise RecipeError(
            f"KoLeo spreads the embeddings of a part of a step, so a part must have at least 2 images; got {together} "
            f"(batch_size {recipe.batch_size} over accumulate {recipe.accumulate} and {processes} processes). Raise "
            "batch_size, or set koleo_weight=0."
        )


def find_heads(weights: Weights, heads: str) -> dict[str, Tensor]:
    """Heads to go on with, by their names in the network; none where there are none.

    Args:
        weights: What the run starts from; the heads of a run lie beside the folder of its model.
        heads: "auto", "fresh", or a file.

    Raises:
        RecipeError: No such file.
        CheckpointError: It is damaged.
    """
    if heads == "fresh":
        return {}
    if heads != "auto":
        if not Path(heads).is_file():
            raise RecipeError(f"heads must be 'auto', 'fresh' or a file of heads; got {brief(heads)}, which is none.")
        return read_safetensors(Path(heads))[0]
    path = weights.card.path
    if path is None:
        return {}
    beside = (path if path.is_dir() else path.parent).absolute().parent / HEADS
    return read_safetensors(beside)[0] if beside.is_file() else {}


def shapes_of(heads: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings that heads were made with; nothing of what is no heads."""
    rows = {name: heads.get(f"{name}.last_layer.v") for name in ("dino_head", "ibot_head")}
    matrices = [name for name in heads if name.startswith("dino_head.mlp.") and name.endswith(".weight")]
    dino, ibot = rows["dino_head"], rows["ibot_head"]
    if dino is None or dino.ndim != 2 or not matrices:
        return {}
    found: dict[str, Any] = {"prototypes": dino.shape[0], "bottleneck": dino.shape[1], "head_layers": len(matrices)}
    if len(matrices) > 1:
        found["head_dim"] = heads["dino_head.mlp.0.weight"].shape[0]
    if ibot is not None and ibot.ndim == 2:
        found |= {"ibot_prototypes": ibot.shape[0], "ibot_bottleneck": ibot.shape[1]}
    return {**found, "separate_heads": ibot is not None}


def student(weights: Weights, recipe: Recipe, heads: Mapping[str, Tensor]) -> SelfDistilled:
    """The encoder with heads: those given, or fresh ones.

    Raises:
        RecipeError: The heads are of another shape than the settings say.
    """
    own, encoder = recipe.settings, to_module(weights)
    if own.drop_path_uniform:
        for block in encoder.blocks:  # type: ignore[union-attr]
            block.drop_path.rate = weights.config.drop_path
    width, shape = weights.config.embedding_size, {"layers": own.head_layers, "hidden": own.head_dim}
    dino = Head(width, own.prototypes, bottleneck=own.bottleneck, **shape)
    ibot = None
    if own.separate_heads:
        counts = (own.ibot_prototypes or own.prototypes, own.ibot_bottleneck or own.bottleneck)
        ibot = Head(width, counts[0], bottleneck=counts[1], **shape)
    for head in filter(None, (dino, ibot)):
        head.checkpointed = recipe.checkpoint_blocks
    module = SelfDistilled(encoder, dino, ibot)  # type: ignore[arg-type]
    if heads:
        state = {name: t for name, t in module.state_dict().items() if not name.startswith("encoder.")}
        wrong = [name for name, tensor in state.items() if name not in heads or heads[name].shape != tensor.shape]
        if wrong:
            raise RecipeError(
                f"Heads must be of the shape that the settings say; these are of {shapes_of(heads) or 'something else'}"
                f", and {wrong[0]} does not fit. Set the same, or heads=fresh."
            )
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(heads[name])
    return module
