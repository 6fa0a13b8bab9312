"""Recipes from presets, TOML files and options, and back to TOML: strict, whatever the method."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RecipeError, UnknownNameError, brief, nearest
from ..net.address import shown
from ..schema import plain, read, read_toml
from .methods import METHODS, find_method
from .presets import PRESETS
from .recipe import Recipe, Task

AUTO = "auto"  # the recipe that `train.auto` chooses once it has seen the data
MOST_STAGES = 8  # recipes, one before the other
_WRITTEN = {"task", "method", "seed", "batch_size", "weight_decay", "log_every", "max_bad_steps"}  # among others
_KEYS = [field.name for field in dataclasses.fields(Recipe) if field.name != "settings"]
# What other trainers call some keys, where spelling alone would suggest another one.
_ELSEWHERE = {
    "learning_rate": "lr", "base_lr": "lr", "wd": "weight_decay", "warmup": "warmup_epochs", "bs": "batch_size",
    "smoothing": "label_smoothing", "ema": "ema_decay", "grad_clip": "clip_norm", "clip_grad": "clip_norm",
    "num_workers": "workers", "img_size": "input_size", "image_size": "input_size", "drop": "head_dropout",
    "drop_path_rate": "drop_path", "randaugment": "rand_augment", "reprob": "erasing", "amp": "precision",
    "grad_checkpointing": "checkpoint_blocks", "gradient_checkpointing": "checkpoint_blocks",
}  # fmt: skip


def read_recipe(source: str | Path | None, task: Task, method: str | None = None) -> Recipe:
    """A recipe by preset name or from a TOML file.

    Args:
        source: Preset or file; None is the method's preset for small data sets.
        task: What the recipe must be for.
        method: The method it must be for; None takes the recipe's, or the first of the task.

    Raises:
        UnknownNameError: Neither a preset nor a file, or no such method; names the nearest.
        RecipeError: The file is not TOML, has an unknown key or an impossible value, or is for something else.
    """
    if method is not None:
        find_method(method)
    data: Mapping[str, Any]
    if source is None:
        kind = find_method(method or _first(task))
        data = PRESETS[kind.preset] if kind.preset else {"method": kind.name}
    elif str(source) in PRESETS:
        data = PRESETS[str(source)]
    elif os.path.isfile(source):  # False, too, of what no file can be called
        data = read_toml(source, what="A recipe", error=RecipeError)
    else:
        known = [*([AUTO] if task == "finetune" else []), *PRESETS]
        if source == AUTO:
            preset = find_method(method or _first(task)).preset
            raise UnknownNameError(
                f"A recipe must be a preset or a TOML file; {AUTO!r} chooses for fine-tuning alone. Leave it out: "
                f"pretraining then takes {preset!r}. Presets: {', '.join(PRESETS)}."
            )
        what = "is no file" if os.path.exists(source) else "does not exist"
        raise UnknownNameError(
            f"A recipe must be a preset or a TOML file; {str(source)!r} is no preset and {what}. "
            f"{nearest(str(source), known)}Presets: {', '.join(known)}."
        )
    named = method is None or str(source) in PRESETS  # a preset's method is known; a file may leave it to the caller
    recipe = recipe_of(data if named else {"method": method, **data}, str(source or "A recipe"))
    if recipe.task != task:
        raise RecipeError(
            f"The recipe {str(source)!r} is for {recipe.task}; got {task}. Call {recipe.task}, or choose another."
        )
    if method not in (None, recipe.method):
        raise RecipeError(
            f"The recipe {str(source)!r} is for method={recipe.method!r}; got {method!r}. Ask for the same, or choose "
            "another recipe."
        )
    return recipe


def recipe_of(data: Any, where: str = "A recipe", stage: int = 1) -> Recipe:
    """A recipe from plain data; `to_dict` inverts it.

    The method's keys stand in a table of its name, or among the others, as hierax 0.1 wrote them.

    Raises:
        UnknownNameError: No such method.
        RecipeError: An unknown key, one of another method, a value of the wrong type or an impossible one.
    """
    if stage > MOST_STAGES:
        raise RecipeError(f"At most {MOST_STAGES} recipes may run one before the other. Take a [before] away.")
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where} must be a table of keys and values; got {brief(data)}.")
    name = data.get("method") or _first(data.get("task", "finetune"))
    method = find_method(name)
    common, own = _sorted_keys(_without_old_defaults(data, name), name, where)
    before = common.get("before")
    if isinstance(before, Mapping):
        kind = {} if "method" in before else {"task": "pretrain"}
        common["before"] = recipe_of({**kind, **before}, f"{where} [before]", stage + 1)
    settings = read(method.Settings, own, where=f"{where} [{name}]", error=RecipeError, elsewhere=_ELSEWHERE)
    recipe = Recipe(**{"task": method.task, **common, "method": name, "settings": settings})
    if recipe.task != method.task:
        raise RecipeError(f"{where} is for {recipe.task}; its method {name!r} is one of {method.task}.")
    return recipe


def with_options(recipe: Recipe, **options: Any) -> Recipe:
    """A copy with other values, the method's own included; None leaves a value as it is.

    Raises:
        RecipeError: An unknown key, one of another method, or an impossible value.
    """
    common, own = _sorted_keys({k: v for k, v in options.items() if v is not None}, recipe.method, "An option")
    if "steps" in common and "epochs" in common:
        raise RecipeError(
            f"A run is as long as steps or epochs say, not both; got steps={common['steps']} and "
            f"epochs={common['epochs']}. Leave one out."
        )
    if common.get("method", recipe.method) != recipe.method:
        task = find_method(common["method"]).task
        remedy = "Choose a recipe of that method" if task == recipe.task else f"That is a method of {task}: call {task}"
        raise RecipeError(f"The recipe is for method={recipe.method!r}; got {common['method']!r}. {remedy}.")
    data = to_dict(recipe)
    if "epochs" in common:
        data.pop("steps", None)
    return recipe_of({**data, **common, recipe.method: {**data[recipe.method], **own}}, "An option")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain data without the keys that are None; as TOML, `read_recipe` reads it back to an equal recipe."""
    values = plain(dataclasses.replace(recipe, before=None))
    values[recipe.method] = values.pop("settings")
    return values if recipe.before is None else {**values, "before": to_dict(recipe.before)}


def to_record(recipe: Recipe) -> dict[str, Any]:
    """`to_dict` for files and messages: addresses without what may be a secret."""
    return _without_secrets(to_dict(recipe))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(item) for key, item in value.items()}
    return shown(value) if isinstance(value, str) else value


def _first(task: Any) -> str:
    """The method of a task that says none."""
    return next((name for name, method in METHODS.items() if method.task == task), "supervised")


def _names(method: str) -> list[str]:
    return [field.name for field in dataclasses.fields(METHODS[method].Settings)]


def _sorted_keys(data: Mapping[str, Any], method: str, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's keys, and the method's, from its table and from among the others."""
    common, own = {}, {}
    for key, value in data.items():
        if key in _KEYS:
            common[key] = value
        elif key in _names(method):
            own[key] = value
        elif key != method:
            _refuse(key, method, where)
    table = data.get(method, {})
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where} must have a table [{method}] of the method's keys; got {brief(table)}.")
    if twice := sorted(own.keys() & table.keys()):
        raise RecipeError(f"{where} must have each key once; {', '.join(twice)} also stands in [{method}].")
    return common, {**own, **table}


def _refuse(key: str, method: str, where: str) -> None:
    owner = next((name for name in METHODS if key == name or key in _names(name)), None)
    if owner is not None:
        what = "table" if key == owner else "key"
        raise RecipeError(
            f"{where} for method {method!r} must have its keys only; {key!r} is a {what} of {owner!r}. Leave it out."
        )
    keys = [*_KEYS, *_names(method)]
    known = _ELSEWHERE.get(str(key).lower())
    close = f"Did you mean {known!r}? " if known in keys else nearest(str(key), keys)
    raise RecipeError(f"{where} has the unknown key {brief(key)}. {close}The keys are {', '.join(keys)}.")


def _without_old_defaults(data: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """The data without what hierax 0.1 wrote down of other methods: all of their keys, as they are by default.

    It wrote every key of a recipe, too; where those are missing a person wrote the others, and is told.
    """
    if not data.keys() >= _WRITTEN:
        return data
    for other in METHODS.values():
        foreign = {key: value for key, value in plain(other.Settings()).items() if key not in _names(method)}
        if foreign and all(data.get(key) == value for key, value in foreign.items()):
            data = {key: value for key, value in data.items() if key not in foreign}
    return data
