"""Both stages of card 001, one command after the other: DINOv2 pretraining, fine-tuning on ImageNet-12K, birder's file.

    python run.py OUT --images UNLABELLED --data IMAGENET12K  # the published settings
    python run.py OUT --tiny                                  # rendered images, a small network: minutes of two cores

Each step is a command of `hierax`, which is printed before it runs; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import hierax
from hierax import console
from hierax.cli import main as command
from hierax.config import PreprocessSpec
from hierax.data.datasets.shapes import CLASSES, render
from hierax.weights.card import RANDOM, ModelCard, Weights
from hierax.weights.formats.birder import RGB
from hierax.weights.network import from_module
from hierax.weights.write import write_weights

HERE = Path(__file__).parent
PARTIAL = 3  # some images could not be read, which the command has told
NAME = "hieradet_small_dino-v2-imagenet12k"  # as the card has it
Options = Mapping[str, Any]  # keys of a recipe, or of a network
NETWORK = {"embed_dim": 24, "depths": (1, 2, 3, 1), "global_blocks": (4,), "input_size": 128}
PRETRAIN = {
    "input_size": 128, "steps": 150, "batch_size": 16, "accumulate": 1, "lr": 1e-3, "warmup_epochs": 0.2,
    "local_crops": 4, "local_size": 64, "prototypes": 512, "ibot_prototypes": 512, "head_dim": 128, "bottleneck": 64,
    "checkpoint_every": 50, "log_every": 10, "workers": 1, "precision": "fp32",
}  # fmt: skip
FINETUNE = {  # without what keeps a run of months from learning by heart
    "input_size": 160, "steps": 500, "batch_size": 16, "lr": 2e-3, "warmup_steps": 20, "layer_decay": 1.0,
    "mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "rand_augment_probability": 0.0, "crop_scale": [0.6, 1.0],
    "ema_decay": 0.95, "ema_every": 1, "validate_every": 100, "checkpoint_every": 100, "log_every": 25, "workers": 1,
    "precision": "fp32",
}  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """What the small variant changes; all else is in the two recipes.

    Attributes:
        network: Options of the network, over those of HieraDet-S.
        pretrain: Keys of stage 1.
        finetune: Keys of stage 2.
        images: Rendered images to train on, a quarter as many to validate on, in so many shards.
        shards: See there.
        side: Pixels of a rendered image.
    """

    network: Options = field(default_factory=NETWORK.copy)
    pretrain: Options = field(default_factory=PRETRAIN.copy)
    finetune: Options = field(default_factory=FINETUNE.copy)
    images: int = 1600
    shards: int = 4
    side: int = 160


def render_shards(folder: Path, tiny: Tiny) -> None:
    """Rendered images as ImageNet-12K is published: shards of jpg and cls, `_info.json`, and a class file."""
    if (folder / "_info.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), "utf-8")
    splits = {"train": (tiny.images, 0), "validation": (max(tiny.images // 4, len(CLASSES)), 1)}
    info = {}
    for split, (count, seed) in splits.items():
        names, lengths = [], []
        for shard in range(tiny.shards):
            names.append(f"imagenet12k-{split}-{shard:04}.tar")
            indices = range(shard, count, tiny.shards)
            lengths.append(len(indices))
            with tarfile.open(folder / names[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
                for index in indices:
                    pixels, label = render(index, seed=seed, size=tiny.side)
                    jpg = io.BytesIO()
                    Image.fromarray(pixels).save(jpg, "JPEG", quality=92)
                    for key, data in (("jpg", jpg.getvalue()), ("cls", str(label).encode())):
                        member = tarfile.TarInfo(f"{index:08}.{key}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
        info[split] = {"name": split, "num_samples": count, "filenames": names, "shard_lengths": lengths}
    (folder / "_info.json").write_text(json.dumps({"splits": info}, indent=1), "utf-8")  # last: the set is whole


def call(*words: object, processes: int = 1) -> None:
    """One command of `hierax`, printed and run, by several processes where that is asked for; ends where it fails."""
    line = [str(word) for word in words]
    console.emit(f"$ hierax {shlex.join(line)}")
    if processes == 1:
        code = command(line)
    else:
        started = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "hierax"]
        code = subprocess.run([sys.executable, *started, *line], check=False).returncode
    if code not in (0, PARTIAL):
        sys.exit(code)


def stage(
    task: str, data: object, out: Path, model: object, recipe: Path, options: Options, processes: int = 1
) -> Path:
    """Train one stage, or go on with it; its result."""
    if not (out / "summary.json").exists():
        pairs = [f"{key}={json.dumps(value)}" for key, value in options.items()]
        resume = ["--resume"] if (out / "run_recipe.json").exists() else []
        method = ["--method", "dinov2"] if task == "pretrain" else []
        keys = ["--set", *pairs] if pairs else []
        call(task, data, out, *method, "-m", model, "--recipe", recipe, *keys, *resume, processes=processes)
    return out / "model"


def both_stages(
    out: Path, *, images: object, data: object, start: object, first: Options, second: Options, processes: int = 1
) -> Path:
    """Pretrain, fine-tune and convert; birder's file."""
    pretrained = stage("pretrain", images, out / "stage1", start, HERE / "stage1.toml", first, processes)
    model = stage("finetune", data, out / "stage2", pretrained, HERE / "stage2.toml", second, processes)
    file = out / f"{NAME}.pt"
    if not file.exists():
        call("convert", model, file, "--to", "birder")
    call("eval", "accuracy", data, "-m", file)
    # A private catalogue lets the card's own code find the file by its published name.
    (out / "catalog.toml").write_text(
        f'[[model]]\nname = "{NAME}"\narchitecture = "hieradet_d_small"\nformat = "birder"\npath = "{file.name}"\n',
        "utf-8",
    )
    return file


@contextlib.contextmanager
def private_catalogue(file: Path) -> Iterator[None]:
    """The names of this file are known inside, and nowhere after it."""
    before = os.environ.get("HIERAX_CATALOG")
    os.environ["HIERAX_CATALOG"] = str(file)
    try:
        yield
    finally:
        os.environ.pop("HIERAX_CATALOG")
        if before is not None:
            os.environ["HIERAX_CATALOG"] = before


def answer(out: Path, image: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The code of card 001, with the import of `hierax.compat.birder` alone changed: shapes of answer and embedding."""
    import hierax.compat.birder as birder
    from hierax.compat.birder.inference.classification import infer_image

    with private_catalogue(out / "catalog.toml"):
        (net, model_info) = birder.load_pretrained_model("hieradet_small_dino-v2-imagenet12k", inference=True)
    size = birder.get_size_from_signature(model_info.signature)
    transform = birder.classification_transform(size, model_info.rgb_stats)
    (probabilities, embedding) = infer_image(net, image, transform, return_embedding=True)
    return probabilities.shape, embedding.shape


def write_start(folder: Path, options: Options, name: str = "hieradet_d_small") -> Path:
    """Random weights of the network, with birder's colour statistics and its resizing to a square, at 224 pixels."""
    if not folder.exists():
        torch.manual_seed(0)
        network = hierax.create("hieradet_d_small", **options)
        config = dataclasses.replace(network.config, name=name)
        height, width = config.input_size[-2:]
        spec = PreprocessSpec(size=(height, width), resize="squash", crop_ratio=1.0, **RGB)
        card = ModelCard(name=name, config=config, preprocess=spec, base_model=RANDOM)
        write_weights(from_module(network, Weights(card=card)), folder, to="hierax")
    return folder


def run_tiny(out: Path, tiny: Tiny) -> None:
    """The whole chain on rendered images."""
    out.mkdir(parents=True, exist_ok=True)
    shards = out / "shards"
    render_shards(shards, tiny)
    start = write_start(out / "start", tiny.network, "hieradet_d_toy")
    listed = {"class_file": str(shards / "classes.txt")}
    both_stages(
        out, images=shards, data=shards, start=start, first=tiny.pretrain, second={**listed, **tiny.finetune}
    )  # fmt: skip
    pixels, _ = render(0, seed=2, size=tiny.side)
    shapes = answer(out, Image.fromarray(pixels))
    console.emit(f"card 001 answers with probabilities {shapes[0]} and an embedding {shapes[1]}")


def main(words: Sequence[str] | None = None) -> None:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Both stages of card 001, one command after the other.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of both runs; the same one to go on")
    parser.add_argument("--tiny", action="store_true", help="rendered images and a small network: minutes of two cores")
    parser.add_argument("--images", help="unlabelled images of stage 1: folder, glob, table or shards")
    parser.add_argument("--data", help="folder of ImageNet-12K's shards, with its _info.json")
    parser.add_argument("--processes", type=int, default=1, help="processes that train, one a device; birder had 2")
    given = parser.parse_args(words)
    if given.tiny != (given.images is None and given.data is None) or (given.images is None) != (given.data is None):
        parser.error("give --tiny alone, or --images and --data")
    if given.processes < 1:
        parser.error(f"--processes must be at least 1; got {given.processes}")
    if given.tiny:
        run_tiny(given.out, Tiny())
    else:
        start = write_start(given.out / "start", {})
        made = {"start": start, "first": {}, "second": {}, "processes": given.processes}
        both_stages(given.out, images=given.images, data=given.data, **made)


if __name__ == "__main__":
    main()
