"""The viewer as one HTML file that needs nothing else: no network, no server, no other file.

Names of files are text to it; its own policy forbids every address, and every script and style but these, by digest.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__

HERE = Path(__file__).parent
SCRIPTS = ("cells.js", "paint.js", "panel.js", "export.js", "viewer.js")  # in the order in which they need each other
STYLE, PAGE = "viewer.css", "viewer.html"
_START = """
Hierax.Viewer.open(document.querySelector("#viewer"), JSON.parse(document.querySelector("#data").textContent));
"""


def viewer_page(data: Mapping[str, Any]) -> str:
    """The page.

    Args:
        data: As `view_data` gives it.
    """
    style = (HERE / STYLE).read_text("utf-8")
    script = "".join((HERE / name).read_text("utf-8") for name in SCRIPTS) + _START
    # In a script element nothing is an entity; "<" alone could end it.
    facts = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "STYLE_DIGEST": _digest(style),
        "SCRIPT_DIGEST": _digest(script),
        "VERSION": __version__,
        "STYLE": style,
        "SCRIPT": script,
        "DATA": facts,
    }
    page = (HERE / PAGE).read_text("utf-8")
    pieces = page.split("@@")  # text, name, text, name, ..., text
    pieces[1::2] = [parts[name] for name in pieces[1::2]]
    return "".join(pieces)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
