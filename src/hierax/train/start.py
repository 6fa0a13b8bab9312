"""What a run starts from, weights of a checkpoint or random ones, and what becomes of their licence."""

from __future__ import annotations

import dataclasses

from ..config import ARCHITECTURES, ModelConfig, architecture
from ..errors import CheckpointError, UnknownNameError
from ..net.address import shown
from ..registry import find_weights, is_local
from ..weights import catalog
from ..weights.adapt import at_size
from ..weights.card import RANDOM, ModelCard, Weights
from ..weights.geometry import AmbiguousError
from .recipe import Recipe


def starting_weights(recipe: Recipe, notes: list[str]) -> Weights:
    """Weights of a source, or none for an architecture that starts at random.

    Args:
        recipe: Its `model`, `pretrained` and `input_size` apply.
        notes: What a person should know is added here.

    Raises:
        UnknownNameError: No such model.
        CheckpointError: The weights cannot be read.
        InputError: An impossible input size.
    """
    config = _random_architecture(recipe, notes)
    if config is not None:
        spec = catalog.resolve(config.name).preprocess.with_size(config.input_size)
        weights = Weights(card=ModelCard(name=config.name, config=config, preprocess=spec, base_model=RANDOM))
    else:
        try:
            weights = find_weights(recipe.model)
        except AmbiguousError as error:
            raise CheckpointError(
                f"Weights to train from must say which network they are of; those of {shown(str(recipe.model))!r} may "
                f"be of {', '.join(error.candidates)}. Write them once under the right name: hierax convert SOURCE "
                f"FOLDER --to hierax --name {error.candidates[0]}; then train with -m FOLDER."
            ) from error
        weights = dataclasses.replace(weights, tensors={name: t.float() for name, t in weights.tensors.items()})
    return framed(weights, recipe)


def framed(weights: Weights, recipe: Recipe) -> Weights:
    """The weights at the recipe's input size, for images that become an input as the recipe says.

    Raises:
        CheckpointError: What lies beside the weights says a size that must be asked for.
        InputError: An impossible input size.
    """
    weights = at_size(weights, recipe.input_size, option="input_size= (--set input_size=...)")
    spec, resize = weights.preprocess, getattr(recipe.settings, "resize", None)
    if resize in (None, spec.resize):
        return weights
    crop = {"crop_ratio": 1.0, "resize_to": None} if resize == "squash" else {}
    return weights.with_card(preprocess=dataclasses.replace(spec, resize=resize, **crop))


def _random_architecture(recipe: Recipe, notes: list[str]) -> ModelConfig | None:
    """The architecture to start from at random, None where there are weights to read."""
    model = recipe.model
    if model is None or is_local(model):
        return None
    try:
        entry = catalog.resolve(model)
    except UnknownNameError:
        if "/" in model:  # on a hub, or anywhere else in the net
            return None
        raise
    if entry.pretrained and recipe.pretrained:
        return None
    name = entry.name if entry.name in ARCHITECTURES else entry.architecture
    if recipe.pretrained:
        notes.append(f"no weights are published for {name}: it starts at random")
    elif entry.pretrained:
        notes.append(
            f"the published weights of {entry.name} are not used, as this recipe says pretrained = false: to go on "
            "from them, --set pretrained=true"
        )
    return architecture(name)


def start_line(weights: Weights, recipe: Recipe, config: ModelConfig) -> str:
    """What is trained, and where its weights come from; `config` is the network with the task's head."""
    card, size = weights.card, "x".join(map(str, config.input_size))
    start = f"{RANDOM} (seed {recipe.seed})"
    if card.pretrained:
        start = f"weights of {card.name}, licence {card.license or 'unknown'}"
    classes = f", {config.num_classes} classes" if recipe.task == "finetune" else ""
    return f"model {config.name} from {start}; input {size}{classes}"


def licence_note(weights: Weights) -> list[str]:
    """What the licence of the parent means for the result; nothing after a random start or with a free licence."""
    parent = weights.card
    if not parent.pretrained or parent.commercial or (parent.license is None and parent.base_model == RANDOM):
        return []
    if parent.license is None:
        return [f"the licence of {parent.name} is unknown, so the result's is too: ask whoever gave you the weights"]
    terms = ", no commercial use" if parent.commercial is False else ""
    return [f"{parent.name} is licensed {parent.license}{terms}: so is the result"]


def derived(weights: Weights, recipe: Recipe, data: str) -> Weights:
    """The weights with the card of what is trained from them: the parent's licence stays."""
    parent = weights.card
    card = ModelCard(
        name=weights.config.name,
        config=weights.config,
        preprocess=dataclasses.replace(weights.preprocess, frame_stride=recipe.frame_stride),
        origin=parent.origin,
        license=parent.license,
        commercial=parent.commercial,
        dataset=", then ".join(filter(None, (parent.dataset, data))),
        base_model=parent.base_model or parent.name,
        citation=parent.citation,
    )
    return dataclasses.replace(weights, card=card, raw=None)
