"""Images inside requests: raw, in forms, base64 and data addresses; never an address to fetch."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

from ..errors import InputError, brief
from ..schema import parse_json
from .replies import Ask, Refusal, invalid

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]{0,30}:", re.IGNORECASE)
_DATA = re.compile(r"data:[^,]{0,200};base64\Z", re.IGNORECASE)
_UNSAID = ("application/x-www-form-urlencoded", "")  # the former is what curl says where nobody else does
_RAW = ("application/octet-stream", *_UNSAID)


def table_of(ask: Ask, *known: str) -> dict[str, Any]:
    """The JSON object of a body; for the pool.

    Raises:
        Refusal: It is none, or has keys that nobody would heed.
    """
    try:
        data = parse_json(ask.body.decode("utf-8"), where="The body")
    except UnicodeDecodeError as error:
        raise invalid("A JSON body must be UTF-8; this one is not.") from error
    except InputError as error:
        raise invalid(str(error)) from error
    if not isinstance(data, dict):
        raise invalid(f"The body must be a JSON object; got {brief(data)}.")
    for key in data:
        if known and key not in known:
            raise invalid(f"The body's keys are {', '.join(known)}; got {brief(key)}.")
    return data


def image_of(text: Any) -> bytes:
    """The bytes of an image written as text: base64, alone or in a data address; for the pool.

    Raises:
        Refusal: It is neither.
    """
    if not isinstance(text, str):
        raise invalid(f"An image is text: base64, or data:image/png;base64,...; got {brief(text)}.")
    if _ADDRESS.match(text[:64]):
        head, comma, content = text.partition(",")
        if not comma or not _DATA.match(head):
            raise invalid(
                "Addresses are never fetched, and a data address is data:image/png;base64,...; got "
                f"{brief(text[:60])}. Send the image itself."
            )
        text = content
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid(
            f"An image is base64, alone or as data:image/png;base64,...; got {brief(text[:60])}. This server reads "
            "images, no text."
        ) from error


def is_raw(ask: Ask) -> bool:
    """Whether the body is an image as it is."""
    return ask.kind.startswith("image/") or (ask.kind in _RAW and not _looks_like_json(ask))


def _looks_like_json(ask: Ask) -> bool:
    return ask.kind in _UNSAID and ask.body[:1] == b"{"


def image_or_json(ask: Ask, *known: str) -> tuple[Sequence[bytes], dict[str, Any], bool]:
    """Images of a body that is one, a form with files, or {"inputs": base64 or a list of it}; for the pool.

    Returns:
        The images, the JSON object (empty where there is none), and whether a list was asked for.

    Raises:
        Refusal: It is none of these.
    """
    if ask.files:
        return ask.files, {}, len(ask.files) > 1
    if is_raw(ask):
        if not ask.body:
            raise Refusal(422, "Empty", "A request must hold an image; its body is empty.")
        return [ask.body], {}, False
    if ask.kind not in ("application/json", "text/json") and not _looks_like_json(ask):
        raise Refusal(
            415,
            "Validation",
            f"A body is an image (Content-Type: image/...) or application/json; got {brief(ask.kind)}.",
        )
    data = table_of(ask, "inputs", *known)
    if "inputs" not in data:
        raise invalid('The body must have the key "inputs": base64 of an image.')
    inputs = data["inputs"]
    several = isinstance(inputs, list)
    return [image_of(each) for each in (inputs if several else [inputs])], data, several
