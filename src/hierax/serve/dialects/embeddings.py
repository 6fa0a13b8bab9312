"""POST /v1/embeddings, as OpenAI's clients speak it, with images instead of text."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ...errors import brief
from ..payloads import image_of, table_of
from ..replies import Ask, Refusal, Reply, Route, invalid
from ..service import Service

# `model` names what answers and selects nothing; `user` and `modality` are what clients add.
_KEYS = ("input", "model", "encoding_format", "dimensions", "normalize", "user", "modality")


async def embeddings(service: Service, ask: Ask) -> Reply:
    """Embed images: data addresses or base64, one or a list, in the order given."""
    images, options = await service.apart(_read, service, ask)
    made = await service.inputs(images)
    found = await service.answers([each for each, _ in made], ["embedding"])
    vectors = np.stack([each["embedding"] for each in found])
    return await service.apart(_reply, service, vectors, options)


def _read(service: Service, ask: Ask) -> tuple[list[bytes], dict[str, Any]]:
    if ask.kind not in ("application/json", ""):
        raise Refusal(415, "Validation", f"The body must be application/json; got {brief(ask.kind)}.")
    data = table_of(ask, *_KEYS)
    if "input" not in data:
        raise invalid('The body must have the key "input": one image or a list of them.')
    size, asked = service.facts.embedding_size, data.get("dimensions")
    if asked is not None and asked != size:
        raise invalid(f"Embeddings have {size} dimensions; got {brief(asked)}. Leave it out.")
    if data.get("encoding_format", "float") not in ("float", "base64"):
        raise invalid(f"encoding_format is float or base64; got {brief(data['encoding_format'])}.")
    if not isinstance(data.get("normalize", False), bool):
        raise invalid(f"normalize is true or false; got {brief(data['normalize'])}.")
    inputs = data["input"] if isinstance(data["input"], list) else [data["input"]]
    service.few(len(inputs))
    return [image_of(each) for each in inputs], data


def _reply(service: Service, vectors: np.ndarray, options: dict[str, Any]) -> Reply:
    if options.get("normalize"):
        wide = vectors.astype(np.float64)
        vectors = (wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    if options.get("encoding_format") == "base64":
        values: list[Any] = [base64.b64encode(each.astype("<f4").tobytes()).decode() for each in vectors]
    else:
        values = vectors.tolist()
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return Reply.of({"object": "list", "data": data, "model": service.facts.card["name"], "usage": usage})


_IMAGE = {"type": "string", "description": "data:image/png;base64,... or base64 alone; addresses are never fetched."}
ROUTES = [
    Route(
        "POST",
        "/v1/embeddings",
        embeddings,
        takes={
            "application/json": {
                "type": "object",
                "required": ["input"],
                "properties": {
                    "input": {"oneOf": [_IMAGE, {"type": "array", "items": _IMAGE}]},
                    "model": {"type": "string", "description": "Selects nothing: one model answers."},
                    "encoding_format": {"enum": ["float", "base64"], "default": "float"},
                    "normalize": {"type": "boolean", "default": False, "description": "Scale to length 1."},
                },
            }
        },
    )
]
