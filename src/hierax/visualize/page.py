"""The report of a training run as one HTML page that needs no network: pictures lie in it, and nothing else runs in it.

Whatever comes from outside (names of classes and files, notes) is text: Jinja escapes it, and the page's own policy
forbids every script but its own, by digest, and every address.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import MissingExtraError

_HERE = Path(__file__).parent


def render_report(facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        facts: What the template `report.html` names, plain data; the charts in it are SVG of `figures`, which is put
            in as it is.

    Raises:
        MissingExtraError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingExtraError("train", "jinja2") from error
    script = (_HERE / "report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    known = {**facts, "version": __version__, "script": Markup(script), "script_digest": digest}
    return environment.get_template("report.html").render(known) + "\n"


def as_is(svg: str) -> Any:
    """A chart of `figures`, for `render_report` to put in unescaped."""
    from markupsafe import Markup

    return Markup(svg)
