"""What a run starts from: weights of a checkpoint or random ones, shaped for the task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..config import ARCHITECTURES, DecoderConfig, ModelConfig, architecture
from ..errors import RecipeError, UnknownNameError
from ..registry import find_weights
from ..weights import catalog
from ..weights.resize import to_encoder, to_input_size, to_num_classes
from ..weights.state import Provenance, Weights
from .recipe import Recipe


def starting_weights(model: Any, recipe: Recipe, notes: list[str]) -> Weights:
    """Weights of a source, or none for an architecture that starts at random.

    Args:
        model: Architecture, catalogue name, hub id or path; None is the small embedded model.
        recipe: Its `pretrained` and `input_size` apply.
        notes: What a person should know is added here.

    Raises:
        UnknownNameError: No such model.
        CheckpointError: The weights cannot be read.
        InputError: An impossible input size.
    """
    random = _random_architecture(model, recipe, notes)
    if random is not None:
        config = random
        spec = catalog.resolve(config.name).preprocess.with_size((config.input_size[-2], config.input_size[-1]))
        weights = Weights(config=config, tensors={}, preprocess=spec, provenance=Provenance(name=config.name))
        if recipe.input_size is None:
            return weights
        sized = config.with_input_size(recipe.input_size)
        return dataclasses.replace(
            weights, config=sized, preprocess=spec.with_size((sized.input_size[-2], sized.input_size[-1]))
        )
    weights, _ = find_weights(model)
    tensors = {name: tensor.float() for name, tensor in weights.tensors.items()}
    weights = dataclasses.replace(weights, tensors=tensors)
    return weights if recipe.input_size is None else to_input_size(weights, recipe.input_size)


def _random_architecture(model: Any, recipe: Recipe, notes: list[str]) -> ModelConfig | None:
    """The architecture to start from at random, None where there are weights to read."""
    if model is None or isinstance(model, Path) or Path(str(model)).exists():
        return None
    try:
        entry = catalog.resolve(str(model))
    except UnknownNameError:
        if str(model).count("/") == 1 or str(model).startswith((".", "/", "~")):
            return None
        raise
    if entry.pretrained and recipe.pretrained:
        return None
    name = entry.name if entry.name in ARCHITECTURES else entry.architecture
    if recipe.pretrained:
        notes.append(f"no weights are published for {name}: it starts at random")
    return architecture(name)


def as_classifier(weights: Weights, classes: list[str], recipe: Recipe) -> Weights:
    """An encoder with a head for these classes; a fresh one unless the labels are the same."""
    kept = weights.labels == classes
    weights = to_encoder(weights)
    if weights.config.head == "pool":  # a bare trunk; its final norm is fresh
        head = "norm_pool" if weights.config.family == "hieradet" else "pool_norm"
        weights = dataclasses.replace(weights, config=dataclasses.replace(weights.config, head=head))
    weights = weights if kept else to_num_classes(to_num_classes(weights, 0), len(classes))
    changes: dict[str, Any] = {}
    if recipe.drop_path is not None:
        changes["drop_path"] = recipe.drop_path
    if recipe.head_dropout is not None:
        changes["head_dropout"] = recipe.head_dropout
    config = dataclasses.replace(weights.config, **changes)
    return dataclasses.replace(weights, config=config, labels=list(classes))


def as_autoencoder(weights: Weights, recipe: Recipe) -> Weights:
    """A masked autoencoder; the decoder is fresh where the weights have none.

    Raises:
        RecipeError: The network cannot be masked.
    """
    config = weights.config
    if config.family == "hieradet":
        raise RecipeError(
            f"MAE needs windows that tile the mask unit, which {config.name!r} does not have. "
            "Pretrain a hiera_abswin_... model and convert it to HieraDet, or use method='dinov2'."
        )
    changes: dict[str, Any] = {} if recipe.drop_path is None else {"drop_path": recipe.drop_path}
    if config.decoder is None:
        heads = recipe.decoder_heads
        if recipe.decoder_dim % heads:
            raise RecipeError(f"decoder_heads must divide decoder_dim; got {heads} and {recipe.decoder_dim}.")
        decoder = DecoderConfig(dim=recipe.decoder_dim, depth=recipe.decoder_depth, num_heads=heads)
        changes |= {"decoder": decoder, "q_pool": recipe.query_pools, "head": "pool", "name": f"mae_{config.name}"}
    elif not weights.tensors:
        decoder = dataclasses.replace(config.decoder, num_heads=recipe.decoder_heads)
        changes |= {"decoder": decoder}
    config = dataclasses.replace(config, num_classes=0, head_dropout=0.0, **changes)
    kept = ("patch_embed.", "pos_embed", "blocks.", "encoder_norm", "multi_scale", "decoder_", "mask_token")
    tensors: dict[str, torch.Tensor] = {
        name: tensor for name, tensor in weights.tensors.items() if name.startswith(kept)
    }
    return dataclasses.replace(weights, config=config, tensors=tensors, labels=None)


def licence_note(weights: Weights) -> list[str]:
    """What the licence of the parent means for the result; nothing after a random start or with a free licence."""
    parent = weights.provenance
    if not weights.tensors or parent.commercial:
        return []
    if parent.license is None:
        return [f"the licence of {parent.name} is unknown, so the result's is too: ask whoever gave you the weights"]
    terms = ", no commercial use" if parent.commercial is False else ""
    return [f"{parent.name} is licensed {parent.license}{terms}: so is the result"]


def derived(weights: Weights, recipe: Recipe, data: str) -> Weights:
    """The weights with the provenance of what is trained from them: the parent's licence stays."""
    parent = weights.provenance
    based = parent.base_model or (parent.name if weights.tensors else None)
    provenance = Provenance(
        name=weights.config.name,
        origin=parent.origin,
        license=parent.license,
        commercial=parent.commercial,
        dataset=", then ".join(filter(None, (parent.dataset, data))),
        base_model=based,
        citation=parent.citation,
    )
    preprocess = dataclasses.replace(weights.preprocess, frame_stride=recipe.frame_stride)
    return dataclasses.replace(weights, preprocess=preprocess, provenance=provenance, raw=None)
