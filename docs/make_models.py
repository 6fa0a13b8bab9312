"""Writes docs/models.md: every published checkpoint with licence, size, purpose and measured speed.

Run `python docs/make_models.py`; `tests/docs/test_generated.py` fails while the page is out of date. Facts come from the
catalogue, speeds from the result file that the README's table names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
COLUMNS = ("name", "family", "parameters", "input", "licence", "trained on", "top-1", "images/s")
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"
FAMILIES = {"hiera": "Hiera", "hiera_video": "Hiera, video", "hiera_abswin": "abswin Hiera", "hieradet": "HieraDet"}
PURPOSES = {
    "Name what photographs show": (
        "Classifiers of images. They embed and give maps too.",
        lambda card: card.task == "classification" and len(card.input_size) == 2,
    ),
    "Embed, search, detect, segment": (
        "Encoders without classes: embeddings for search and stage maps for dense tasks. Those of SAM 2 are made for "
        "1024 pixels and take any multiple of 32; they have no trained embedding, only an average of the last map.",
        lambda card: card.task == "embedding",
    ),
    "Go on pretraining": (
        "Masked autoencoders, encoder and decoder: the start of fine-tuning on many images, and of more pretraining.",
        lambda card: card.task == "mae" and len(card.input_size) == 2,
    ),
    "Video": ("Clips of 16 frames.", lambda card: len(card.input_size) == 3),
}
INTRODUCTION = """# Choose a model

<!-- written by docs/make_models.py; do not edit -->

| you want | take | because |
|---|---|---|
| to try things offline | nothing: `hierax.load()` | it is in the package; it knows rendered shapes, not photographs |
| to search photographs, in a product | `hieradet_d_small_dino-v2` | Apache-2.0, trained for embeddings, 224 pixels |
| class names, in a product | `hieradet_d_small_dino-v2-imagenet12k`, `timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k` | \
Apache-2.0; 11821 classes of ImageNet-12K, 1000 of ImageNet-1K |
| class names, for research | `hiera_base_224` | 84.5 % on ImageNet-1K; CC-BY-NC-4.0 |
| maps for a detector or segmenter | `sam2.1_hiera_small`, `hieradet_d_small_dino-v2` | Apache-2.0, maps at any size |
| to fine-tune on many images, for research | `mae_hiera_base_224` | the paper's way; CC-BY-NC-4.0 |
| birds of Europe, plants and animals | `hiera_abswin_base_mim-intermediate-eu-common`, `hieradet_d_small_dino-v2-inat21` | \
707 bird species; 10000 species of iNaturalist 2021 |
| actions in video, for research | `hiera_base_16x224` | Kinetics-400; CC-BY-NC-4.0 |

**The licence is the publisher's.** CC-BY-NC-4.0 forbids commercial use; hierax carries it into what you
train from such weights. `hierax list --commercial` leaves such weights out. top-1 is what the publisher reports on its own
data. Parameters count the head and the decoder. The published weights themselves could not be downloaded where this page was made: names, sizes
and hashes come from their publishers; `scripts/confirm_published.py` checks them where there is a network.
"""


def speeds() -> tuple[dict[Any, float], str]:
    """(architecture, side) -> images a second of the default engine, and where that was measured."""
    name = re.search(r"speed: (\S+\.json)", (ROOT / "README.md").read_text("utf-8"))
    if name is None:
        raise SystemExit("README.md names no file of speeds")
    result = json.loads((ROOT / name[1]).read_text("utf-8"))
    found: dict[Any, float] = {}
    for case in result["cases"]:
        key = (case["model"], case["input"][-1])
        found[key] = max(found.get(key, 0.0), case["runners"]["hierax torch"]["images_per_s"])
    where = result["environment"]
    return found, f"{where['threads']} threads of an {where['processor']}, float32 (`{name[1]}`)"


def row(card: Any, measured: dict[Any, float]) -> str:
    """One line of a table."""
    speed = measured.get((card.architecture, card.input_size[-1]))
    cells = (
        f"`{card.name}`",
        FAMILIES[card.family],
        f"{card.parameters / 1e6:.1f} M",
        "x".join(map(str, card.input_size)),
        card.license + ("" if card.commercial else ", not commercial"),
        card.dataset + (f", {card.num_classes} classes" if card.num_classes else ""),
        "" if card.top1 is None else f"{card.top1:.1f} %",
        "" if speed is None else f"{speed:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The whole page."""
    return "\n".join(parts()) + "\n"


def parts() -> Iterator[str]:
    """Its pieces."""
    from hierax.weights.catalog import entries

    measured, where = speeds()
    cards = list(entries().values())
    yield INTRODUCTION
    yield f"images/s: `load(fast=True)` on {where}, batches of 8, of 1 at 1024 pixels; empty where nobody measured."
    yield "The same network has the same speed, whoever published its weights."
    for title, (words, fits) in PURPOSES.items():
        yield f"\n## {title}\n\n{words}\n\n{HEAD}"
        yield from (row(card, measured) for card in cards if card.pretrained and fits(card))
    notes: dict[str, list[str]] = {}
    for card in cards:
        if card.pretrained and card.note:
            notes.setdefault(card.note, []).append(f"`{card.name}`")
    yield "\n## Notes\n\n" + "\n".join(f"- {note} {', '.join(names)}." for note, names in notes.items())
    bare = [f"`{card.name}`" for card in cards if not card.pretrained]
    yield f"\n## Architectures without published weights\n\nFor `hierax.create` and for training: {', '.join(bare)}."


if __name__ == "__main__":
    os.environ.pop("HIERAX_CATALOG", None)
    PAGE.write_text(page(), encoding="utf-8")
