"""The Open Inference Protocol v2 with its binary extension, as KServe's and Triton's clients speak it.

Source: github.com/kserve/open-inference-protocol, and "Binary Tensor Data Extension" of Triton's documentation.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from ...errors import brief, nearest
from ..payloads import image_of
from ..replies import Ask, Refusal, Reply, Route, invalid
from ..service import Facts, Service

IMAGES, PIXELS = "images", "pixels"
_HEAD = "inference-header-content-length"
_VERSION = "1"
_TYPES = {"FP32": "<f4", "FP16": "<f2"}
_MOST_DEPTH = 8


async def model(service: Service, ask: Ask) -> Reply:
    """Inputs and outputs of the model; a request has one of the inputs."""
    facts = _named(service, ask)
    height, width = facts.preprocess.size
    sizes = {"embedding": [-1, facts.embedding_size], "logits": [-1, len(facts.labels)]}
    for name, (channels, stride) in facts.stages.items():
        sizes[name] = [-1, channels, height // stride, width // stride]
    return Reply.of(
        {
            "name": facts.name,
            "versions": [_VERSION],
            "platform": "hierax",
            "inputs": [
                {"name": IMAGES, "datatype": "BYTES", "shape": [-1]},
                {"name": PIXELS, "datatype": "FP32", "shape": [-1, 3, height, width]},
            ],
            "outputs": [{"name": name, "datatype": "FP32", "shape": sizes[name]} for name in facts.gives],
        }
    )


async def model_ready(service: Service, ask: Ask) -> Reply:
    """Whether the model is ready: 200 or 503."""
    name = _named(service, ask).name
    return Reply.of({"name": name, "ready": service.ready}, status=200 if service.ready else 503)


async def infer(service: Service, ask: Ask) -> Reply:
    """Embeddings, logits and stage maps of encoded images or of preprocessed pixels, as JSON or raw numbers."""
    facts = _named(service, ask)
    head, images, pixels = await service.apart(_read, service, ask)
    outputs = _outputs(head, facts)
    if images is not None:
        inputs: Sequence[ndarray] = [each for each, _ in await service.inputs(images)]
    else:
        inputs = list(pixels)
    found = await service.answers(inputs, list(outputs))
    return await service.apart(_reply, facts, head, outputs, found)


def _named(service: Service, ask: Ask) -> Facts:
    facts, name = service.facts, ask.path["name"]
    if name not in facts.names:
        raise Refusal(404, "NotFound", f"This server has the model {facts.name!r}; got {brief(name)}.")
    if ask.path.get("version", _VERSION) != _VERSION:
        raise Refusal(404, "NotFound", f"This model has the version {_VERSION}; got {brief(ask.path['version'])}.")
    return facts


def _read(service: Service, ask: Ask) -> tuple[dict[str, Any], list[bytes] | None, Any]:
    """The head, and the images or the pixels (n, 3, h, w); for the pool."""
    length = ask.headers.get(_HEAD, str(len(ask.body)))
    if not (length.isascii() and length.isdecimal() and len(length) < 12 and int(length) <= len(ask.body)):
        raise invalid(f"Inference-Header-Content-Length is the length of the JSON head; got {brief(length)}.")
    head, rest = _json(ask.body[: int(length)]), memoryview(ask.body)[int(length) :]
    given = head.get("inputs")
    if not isinstance(given, list) or len(given) != 1 or not isinstance(given[0], dict):
        raise invalid(f'"inputs" holds one tensor, {IMAGES} or {PIXELS}; got {brief(given)}.')
    tensor = given[0]
    shape, size = _shape(tensor.get("shape")), _parameters(tensor).get("binary_data_size")
    raw = None
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or size != len(rest):
            raise invalid(f"binary_data_size is the number of bytes behind the head, {len(rest)}; got {brief(size)}.")
        raw = rest
    elif len(rest) or "data" not in tensor:
        raise invalid('A tensor has "data", or "binary_data_size" and bytes behind the head.')
    if tensor.get("name") == IMAGES:
        return head, _images(service, tensor, shape, raw), None
    if tensor.get("name") == PIXELS:
        return head, None, _pixels(service, tensor, shape, raw)
    raise invalid(f"Inputs are {IMAGES} and {PIXELS}; got {brief(tensor.get('name'))}.")


def _json(text: bytes) -> dict[str, Any]:
    """An object; of numbers there may be millions, so that `schema.parse_json` is too strict here."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one of the former
        raise invalid("The head must be valid JSON; this one is not.") from error
    if not isinstance(data, dict):
        raise invalid(f"The head must be a JSON object; got {brief(data)}.")
    return data


def _parameters(data: dict[str, Any]) -> dict[str, Any]:
    found = data.get("parameters")
    if found is not None and not isinstance(found, dict):
        raise invalid(f'"parameters" is a JSON object; got {brief(found)}.')
    return found or {}


def _shape(given: Any) -> tuple[int, ...]:
    good = isinstance(given, list) and 0 < len(given) <= _MOST_DEPTH
    if not good or any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 1 << 31 for n in given):
        raise invalid(f'"shape" is a list of whole numbers; got {brief(given)}.')
    return tuple(given)


def _images(service: Service, tensor: dict[str, Any], shape: tuple[int, ...], raw: memoryview | None) -> list[bytes]:
    if tensor.get("datatype") != "BYTES":
        raise invalid(f"The datatype of {IMAGES} is BYTES; got {brief(tensor.get('datatype'))}.")
    count = int(np.prod(shape, dtype=object))
    service.few(count)
    found = _texts(tensor["data"]) if raw is None else _strings(raw)
    if len(found) != count:
        raise invalid(f"A tensor of shape {list(shape)} has {count} values; got {len(found)}.")
    return found


def _texts(data: Any) -> list[bytes]:
    while isinstance(data, list) and len(data) == 1 and isinstance(data[0], list):
        data = data[0]
    if not isinstance(data, list):
        raise invalid(f'"data" is a list of images in base64; got {brief(data)}.')
    return [image_of(each) for each in data]


def _strings(raw: memoryview) -> list[bytes]:
    """Values of a BYTES tensor: the length of each in 4 bytes, little-endian, then its bytes."""
    found, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw) or at + 4 + (size := struct.unpack_from("<I", raw, at)[0]) > len(raw):
            raise invalid("A BYTES tensor has the length of each value in 4 bytes before it; this one ends early.")
        found.append(bytes(raw[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def _pixels(service: Service, tensor: dict[str, Any], shape: tuple[int, ...], raw: memoryview | None) -> ndarray:
    """Preprocessed pixels as float32 (n, 3, h, w)."""
    if tensor.get("datatype") not in tuple(_TYPES):  # of what JSON has, a list cannot be looked up
        raise invalid(f"The datatype of {PIXELS} is {' or '.join(_TYPES)}; got {brief(tensor.get('datatype'))}.")
    own = service.facts.preprocess.size
    if len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise invalid(f"The shape of {PIXELS} is [n, 3, height, width]; got {list(shape)}.")
    if service.settings.engine != "none" and shape[2:] != own:  # every other size would be converted first
        raise invalid(f"This server takes {PIXELS} of {own[0]} x {own[1]} alone; got {list(shape)}.")
    service.few(shape[0])
    dtype = np.dtype(_TYPES[tensor["datatype"]])
    count = int(np.prod(shape, dtype=object))
    if raw is None:
        try:
            values = np.array(tensor["data"], np.float32).reshape(-1)
        except (TypeError, ValueError, OverflowError) as error:
            raise invalid('"data" is a list of numbers, flat or as nested as the shape; this one is not.') from error
    else:
        values = np.frombuffer(raw, dtype) if len(raw) % dtype.itemsize == 0 else np.zeros(0, dtype)
    if values.size != count:
        raise invalid(f"A tensor of shape {list(shape)} has {count} values; got another number.")
    with np.errstate(over="ignore", invalid="ignore"):
        found = values.astype(np.float32).reshape(shape)
    if not np.isfinite(found).all():
        raise invalid(f"{PIXELS} must be finite; got NaN or infinity.")
    return found


def _outputs(head: dict[str, Any], facts: Facts) -> dict[str, dict[str, Any]]:
    """The parameters of each output that is asked for: vectors where nothing is."""
    every = _parameters(head).get("binary_data_output", False)
    given = head.get("outputs")
    if given is None or given == []:
        return {name: {"binary_data": every} for name in facts.gives if not name.startswith("stage")}
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise invalid(f'"outputs" is a list of objects with a name; got {brief(given)}.')
    found = {}
    for each in given:
        name = each.get("name")
        if name not in facts.gives:
            raise invalid(f"Outputs are {', '.join(facts.gives)}; got {brief(name)}. {nearest(str(name), facts.gives)}")
        own = {"binary_data": every, **_parameters(each)}
        classes = own.get("classification", 0)
        if isinstance(classes, bool) or not isinstance(classes, int) or (classes and name != "logits"):
            raise invalid(f"classification is a number of classes, of logits alone; got {brief(classes)}.")
        found[name] = own
    return found


def _reply(facts: Facts, head: dict[str, Any], outputs: dict[str, dict[str, Any]], found: Sequence[Any]) -> Reply:
    said: dict[str, Any] = {"model_name": facts.name, "model_version": _VERSION, "outputs": []}
    if isinstance(head.get("id"), str):
        said["id"] = head["id"]
    tail: list[bytes] = []
    for name, options in outputs.items():
        values = np.stack([each[name] for each in found])
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        raw: bytes
        data: Any
        if options.get("classification"):
            rows = [_classes(row, facts.labels, options["classification"]) for row in values]
            output |= {"datatype": "BYTES", "shape": [len(rows), len(rows[0])]}
            data = [text for row in rows for text in row]
            raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in data)
        else:
            data, raw = values.reshape(-1), values.astype("<f4").tobytes()
        if options.get("binary_data"):
            output["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            output["data"] = data if isinstance(data, list) else data.tolist()
        said["outputs"].append(output)
    text = json.dumps(said, separators=(",", ":")).encode()
    if not tail:
        return Reply(text)
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return Reply(b"".join([text, *tail]), "application/octet-stream", headers=headers)


def _classes(logits: ndarray, labels: list[str], count: int) -> list[str]:
    """Triton's classification extension: value:index:label, best first."""
    best = np.argsort(-logits, kind="stable")[: max(count, 1)]
    return [f"{logits[index]:f}:{index}:{labels[index]}" for index in best]


_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"enum": [IMAGES, PIXELS]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"enum": ["BYTES", *_TYPES]},
        "data": {"type": "array", "items": {}},
    },
}
_REQUEST = {"type": "object", "required": ["inputs"], "properties": {"inputs": {"type": "array", "items": _TENSOR}}}
_TAKES = {"application/json": _REQUEST, "application/octet-stream": {"type": "string", "format": "binary"}}
ROUTES = [
    route
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    for route in (
        Route("GET", path, model),
        Route("GET", f"{path}/ready", model_ready),
        Route("POST", f"{path}/infer", infer, takes=_TAKES),
    )
]
