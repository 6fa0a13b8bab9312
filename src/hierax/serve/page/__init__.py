"""The page at `/`: static files without a build step, and `POST /view`, which gives the viewer what it shows."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from ...config import ModelConfig
from ...visualize.maps import fit_basis
from ...visualize.sheets import seen_pixels
from ...visualize.viewer import page as viewer
from ...visualize.viewer.data import BYTES_PER_IMAGE, Shown, view_data
from ..dialects.classify import IMAGE_OR_JSON
from ..payloads import image_or_json
from ..replies import Ask, Refusal, Reply, Route, invalid
from ..service import Facts, Service

HERE = Path(__file__).parent
EXAMPLES = ("heart", "ring", "spiral", "bricks", "star", "waves")  # drawn by this project: nobody's photographs
MOST_IMAGES = 4  # of one viewer: their maps are packed together, in memory
_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
_FILES = {
    **{name: HERE / name for name in ("page.css", "page.js", "calls.js", "camera.js")},
    **{name: viewer.HERE / name for name in (viewer.STYLE, *viewer.SCRIPTS)},
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def routes() -> list[Route]:
    """Addresses of the page."""
    return [
        Route("GET", "/", index, gives="text/html", documented=False),
        Route("GET", "/page/{name}", asset, gives="text/css", documented=False),
        Route("POST", "/view", view, takes=IMAGE_OR_JSON, query={"stage": "stage1 to stage4, given once for each."}),
    ]


async def index(service: Service, ask: Ask) -> Reply:
    """The page."""
    return Reply((HERE / "index.html").read_bytes(), "text/html; charset=utf-8", headers=_HEADERS)


async def asset(service: Service, ask: Ask) -> Reply:
    """A file of the page; no other name leads anywhere."""
    name = ask.path["name"]
    if name in _FILES:
        return Reply(_FILES[name].read_bytes(), _KINDS[_FILES[name].suffix], headers=_HEADERS)
    if name in {f"{example}.jpg" for example in EXAMPLES}:
        return Reply(await service.apart(_example, name.removesuffix(".jpg")), "image/jpeg", headers=_HEADERS)
    raise Refusal(404, "NotFound", "There is nothing at this address; /docs lists what there is.")


async def view(service: Service, ask: Ask) -> Reply:
    """Stage maps of one to four images, packed as the page's viewer takes them; programs want /features."""
    ask.known("stage")
    stages = ask.values("stage") or list(service.facts.stages)
    if not stages or set(stages) - service.facts.stages.keys():
        raise invalid(f"Stages are {', '.join(service.facts.stages) or 'none of this model'}; got {stages}.")
    images, _, _ = await service.apart(image_or_json, ask)
    if len(images) > MOST_IMAGES:
        raise Refusal(413, "TooLarge", f"A viewer shows at most {MOST_IMAGES} images; got {len(images)}.")
    made = [each for each, _ in await service.inputs(images)]
    found = await service.answers(made, stages)
    config = ModelConfig.from_dict((service.line.facts or {})["config"])
    return Reply(await service.apart(_viewed, service.facts, config, made, found))


def _viewed(
    facts: Facts, config: ModelConfig, made: Sequence[ndarray], found: Sequence[Mapping[str, ndarray]]
) -> bytes:
    shown = [
        Shown(f"image {number + 1}", seen_pixels(pixels, facts.preprocess), maps)
        for number, (pixels, maps) in enumerate(zip(made, found, strict=True))
    ]
    bases = {stage: fit_basis(stage, np.stack([maps[stage] for maps in found])) for stage in found[0]}
    data = view_data(
        shown,
        config,
        bases,
        about={"model": facts.card["name"], "license": facts.card["license"] or "unknown"},
        colours_from="fitted to these images",
        most_bytes=BYTES_PER_IMAGE * max(2, len(shown)),
    )
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()


@functools.cache
def _example(name: str) -> bytes:
    """A drawn image of a class, the same every time."""
    from PIL import Image

    from ...data.datasets.shapes import CLASSES, render

    pixels, _ = render(CLASSES.index(name) + 2 * len(CLASSES), seed=11, size=256)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()
