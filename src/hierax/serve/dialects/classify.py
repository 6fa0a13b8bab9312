"""POST /classify: a raw image, a form, or the schema of Hugging Face's image classification."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from ...errors import brief
from ..payloads import image_or_json
from ..replies import Ask, Reply, Route, invalid
from ..service import Service, softmax

_MOST = 1000
_FUNCTIONS = ("softmax", "sigmoid", "none")


async def classify(service: Service, ask: Ask) -> Reply:
    """Name what an image shows: the most probable classes, best first; for a list of images a list of such lists."""
    ask.known("top_k")
    labels = service.facts.labels
    if not labels:
        raise invalid("The model has no classes. Ask /v1/embeddings or /features, or serve one that has.")
    images, data, several = await service.apart(image_or_json, ask, "parameters")
    count, function = _options(data.get("parameters"), ask.number("top_k", 5, most=_MOST))
    made = await service.inputs(images)
    found = await service.answers([each for each, _ in made], ["logits"])
    rows = [_row(each["logits"], labels, count, function) for each in found]
    return Reply.of(rows if several else rows[0])


def _options(given: Any, count: int) -> tuple[int, str]:
    given = {} if given is None else given
    if not isinstance(given, dict) or set(given) - {"top_k", "function_to_apply"}:
        raise invalid(f"parameters are top_k and function_to_apply; got {brief(given)}.")
    count = count if given.get("top_k") is None else given["top_k"]
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST:
        raise invalid(f"top_k is a whole number from 1 to {_MOST}; got {brief(count)}.")
    function = given.get("function_to_apply") or "softmax"
    if function not in _FUNCTIONS:
        raise invalid(f"function_to_apply is {', '.join(_FUNCTIONS)}; got {brief(function)}.")
    return count, function


def _row(logits: ndarray, labels: list[str], count: int, function: str) -> list[dict[str, Any]]:
    values = logits.astype(np.float64)
    if function == "softmax":
        values = softmax(values)
    elif function == "sigmoid":
        values = 1 / (1 + np.exp(-np.clip(values, -700, 700)))
    best = np.argsort(-values, kind="stable")[:count]
    return [{"label": labels[index], "score": float(values[index])} for index in best]


_INPUTS = {"type": "string", "format": "byte", "description": "base64 of an image, or data:image/png;base64,..."}
IMAGE_OR_JSON: dict[str, dict[str, Any]] = {
    "image/*": {"type": "string", "format": "binary"},
    "application/json": {
        "type": "object",
        "required": ["inputs"],
        "properties": {"inputs": {"oneOf": [_INPUTS, {"type": "array", "items": _INPUTS}]}},
    },
}
_PARAMETERS = {
    "type": "object",
    "properties": {
        "top_k": {"type": "integer", "minimum": 1, "default": 5},
        "function_to_apply": {"enum": list(_FUNCTIONS), "default": "softmax"},
    },
}
_JSON = IMAGE_OR_JSON["application/json"]
ROUTES = [
    Route(
        "POST",
        "/classify",
        classify,
        takes={
            **IMAGE_OR_JSON,
            "application/json": {**_JSON, "properties": {**_JSON["properties"], "parameters": _PARAMETERS}},
        },
        query={"top_k": "How many classes, 5 without it."},
    )
]
