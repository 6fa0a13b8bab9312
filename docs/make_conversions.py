"""Writes docs/conversions.md: which networks of each format go into each other one, and why the others do not.

Run `python docs/make_conversions.py`; `tests/weights/test_documentation.py` fails while the page is out of date.
Every cell is asked of the formats themselves, for every architecture that they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from hierax.config import ARCHITECTURES, ModelConfig
from hierax.weights.formats import FORMAT_NAMES, birder, by_name, meta, sam2, timm

PAGE = Path(__file__).with_name("conversions.md")
TITLES = {
    "hierax": "hierax folder",
    "transformers": "transformers folder",
    "sam2": "SAM 2 `.pt`",
    "birder": "birder `.pt`, `.safetensors`",
    "timm": "timm folder or state dict",
    "meta": "Meta Hiera `.pth` or hub folder",
}
GENERAL = {
    " has width ": "no public SAM 2 trunk has its width, depths and windows, and the file cannot carry them",
    " at (": "birder's background table is input size // 16; this one's is another",
    "its windows (": "its later stages are global throughout, where the other code divides by zero",
    "it is a 'hiera": "SAM 2 files hold HieraDet trunks only",
}


def members(name: str) -> Iterator[tuple[str, ModelConfig, dict[str, Tensor]]]:
    """The public networks that come in a format: kind, architecture, and the final norm if it has been trained."""
    for config in architectures(name):
        trained = config.head != "pool" and config.decoder is None
        size = config.embedding_size
        norm = {"norm.weight": torch.full((size,), 2.0), "norm.bias": torch.zeros(size)} if trained else {}
        yield kind_of(config), config, norm
    if name in ("birder", "timm"):
        # SAM 2's trunk as these two hold it: with a norm that was never trained.
        head = "norm_pool" if name == "birder" else "pool_norm"
        for key in sam2.NAMES:
            yield f"SAM 2 trunk in {name}, norm untrained", dataclasses.replace(ARCHITECTURES[key], head=head), {}


def architectures(name: str) -> list[ModelConfig]:
    """The public networks whose weights exist, or could, in a format."""
    if name == "hierax":
        return [config for config in ARCHITECTURES.values() if "nano" not in config.name]
    own = {"sam2": sam2.NAMES, "meta": meta.NAMES, "birder": birder.NAMES}
    if name in own:
        return [ARCHITECTURES[key] for key in own[name]]
    if name == "timm":
        configs = [ARCHITECTURES[key] for key in timm.MODELS.values()]
        return [dataclasses.replace(c, head="pool_norm") if c.head == "pool" else c for c in configs]
    images = [config for name, config in ARCHITECTURES.items() if name.endswith("_224") and not config.is_video]
    return images + [ARCHITECTURES[key] for key in sam2.NAMES]


def kind_of(config: ModelConfig) -> str:
    """Which group of networks with the same fate an architecture belongs to."""
    if config.decoder is not None:
        line = "Hiera video" if config.is_video else "abswin Hiera" if config.family == "hiera_abswin" else "Hiera"
        return f"{line} MAE"
    if config.family == "hieradet":
        if config.layer_scale is not None:
            return "HieraDet, timm's (branch scales)"
        if config.head == "norm_pool":
            return "HieraDet, birder's" + ("" if all(config.windows) else ", global stages (`_d_`)")
        return "SAM 2 trunk" if config.head == "pool" else "SAM 2 trunk in timm, norm trained"
    if config.family == "hiera_abswin":
        if config.layer_scale is not None:
            return "abswin Hiera, timm's (branch scales)"
        return "abswin Hiera, birder's" + (", attention pool" if config.head == "attention" else "")
    return "Hiera video" if config.is_video else "Hiera"


def fates(source: str, target: str) -> dict[str, set[str | None]]:
    """Per kind of network, the obstacles that its members meet; {None} where all pass."""
    found: dict[str, set[str | None]] = {}
    for kind, config, norm in members(source):
        found.setdefault(kind, set()).add(by_name(target).obstacle(config, norm))
    return found


def cell(source: str, target: str) -> str:
    """What the table says: all, none, or which."""
    every = fates(source, target)
    passing = [kind for kind, obstacles in every.items() if obstacles == {None}]
    if len(passing) == len(every):
        return "all"
    return "<br>".join(passing) if passing else "none"


def generalised(obstacle: str) -> str:
    """An obstacle without the numbers of one architecture."""
    for marker, words in GENERAL.items():
        if marker in obstacle:
            return words
    return obstacle


def page() -> str:
    """The whole page."""
    lines = [
        "# Conversions",
        "",
        "<!-- written by docs/make_conversions.py; do not edit -->",
        "",
        "`hierax convert SOURCE DESTINATION --to FORMAT` rewrites a checkpoint; `hierax.convert` and `Predictor.save`",
        "do the same in Python. Rows are where the weights come from, columns where they go; a cell names the",
        "networks that can make the way, all of whose numbers stay the same.",
        "",
        "| from \\ to | " + " | ".join(FORMAT_NAMES) + " |",
        "|---" * (len(FORMAT_NAMES) + 1) + "|",
    ]
    for source in FORMAT_NAMES:
        lines.append(f"| **{source}** | " + " | ".join(cell(source, target) for target in FORMAT_NAMES) + " |")
    lines += ["", "## What is refused, and why", ""]
    for target in FORMAT_NAMES:
        reasons: dict[str, list[str]] = {}
        everything = {**fates("birder", target), **fates("timm", target), **fates("hierax", target)}
        for kind, obstacles in everything.items():
            for obstacle in sorted({generalised(found) for found in obstacles if found}):
                reasons.setdefault(obstacle, []).append(kind)
        lines += [f"**To {target}** ({TITLES[target]}):" + ("" if reasons else " nothing."), ""]
        lines += [f"- {'; '.join(kinds)}: {reason}." for reason, kinds in reasons.items()]
        lines += [""] if reasons else []
    return "\n".join([*lines, *NOTES]) + "\n"


NOTES = [
    "## What is written",
    "",
    "- A folder for hierax and transformers; for the others a folder with one weights file, or the file itself where",
    "  the destination ends in `.pth` or `.safetensors` (meta, timm), `.pt` (sam2), `.pt` or `.safetensors` (birder).",
    "  Nothing that exists is overwritten, and nothing half-written is ever seen under its final name.",
    "- Masked autoencoders keep their decoder. birder keeps a final norm inside its autoencoder that no masked pass",
    "  reads; Meta and transformers have no place for it, and leaving it out is logged.",
    "- The head that a network came with stays; `hierax.load(SOURCE, num_classes=0).save(FOLDER, format=...)` takes it",
    "  off first, for formats that have none.",
    "- SAM 2 trunks have no pooled vector. timm norms it after pooling and birder before, so a trunk that one of",
    "  them wrote is not rewritten for the other: take it through `--to sam2`, as long as the norm is untrained.",
    "- What lies beside the encoder (SAM 2's neck, prompts and memory; a backbone's stage norms) goes along only into",
    "  the same format; otherwise `convert` logs how many tensors stayed behind.",
    "",
    "## A tuned trunk back into a SAM 2 file",
    "",
    "```",
    "hierax finetune photos OUT -m sam2.1_hiera_tiny --set input_size=224",
    "cp sam2.1_hiera_tiny.pt tuned.pt",
    "hierax convert OUT/model tuned.pt --to sam2",
    "```",
    "",
    "Where the destination is a whole SAM 2 file, only its trunk is exchanged. Every other tensor stays bit for bit,",
    "and the file as it was is kept beside it as `tuned.pt.bak`. A file that is no SAM 2 file, or has another trunk,",
    "is left alone. The classifier that was tuned with the trunk stays behind, with the norm in front of it: neither",
    "touches the maps that SAM 2's neck reads. Those are the tuned trunk's; what SAM 2 makes of them has to be",
    "measured, because its other parts were trained with the old trunk.",
]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
