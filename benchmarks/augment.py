"""How many augmented images a second a core makes of JPEG files, beside timm's pipeline and plain Pillow code.

    OMP_NUM_THREADS=1 python -m benchmarks.augment [--rounds 7] [--before FOLDER]

From the bytes of a file to a batch that a network takes, normalised and erased: what the processes that read do, and
what a step does before its forward pass, together. Each way runs in a process of its own; they take turns, and each
counts its own processor seconds, because the machine may be busy. `--before` names the sources (`.../src`) of an
earlier hierax, which is measured in the same rounds. The photographs are scikit-learn's.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import io
import json
import multiprocessing
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hierax.data import memory

from . import measure, peers, report

PAPER = {"rand_augment": (2, 9), "erasing": 0.25}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = {"500x375": (500, 375), "12 megapixels": (4000, 3000)}
Make = Callable[[list[bytes], int], Tensor]  # a batch of these files, in a round


def photographs(size: tuple[int, int], count: int) -> list[bytes]:
    """JPEG files: parts of scikit-learn's two photographs, brought to a size."""
    from sklearn.datasets import load_sample_images

    rng, files = np.random.default_rng(0), []
    for index in range(count):
        image = Image.fromarray(load_sample_images().images[index % 2])
        left, top = (int(rng.integers(0, side // 4)) for side in image.size)
        part = image.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + 480, top + 320))
        stream = io.BytesIO()
        part.save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def ours(method: str, *, step: bool = True, **settings: Any) -> Make:
    """Our own views, as a run makes them, of this hierax or an earlier one; with `step`, as the network takes them."""
    from hierax.config import architecture
    from hierax.data.datasets.samples import TrainingData
    from hierax.train.batches import Views
    from hierax.train.methods import METHODS
    from hierax.train.reading import recipe_of
    from hierax.weights import catalog
    from hierax.weights.card import ModelCard, Weights

    class Files(TrainingData):
        def __init__(self, files: list[bytes]) -> None:
            super().__init__(np.zeros(len(files), np.int64), ["a", "b"])
            self.files = files

        def read(self, index: int) -> bytes:
            return self.files[index]

    name = "mae_hiera_tiny_224" if method == "mae" else "hiera_tiny_224"
    spec = catalog.resolve(name).preprocess.with_size((224, 224))
    weights = Weights(card=ModelCard(name=name, config=architecture(name), preprocess=spec))
    recipe = recipe_of({"method": method, **settings})
    made = METHODS[method](weights, recipe, ["a", "b"])
    known: dict[int, Views] = {}

    def batch(files: list[bytes], turn: int) -> Tensor:
        views = known.setdefault(id(files), Views(Files(files), made.views(), made.weights.config, recipe))
        part = views.collate([views[index, turn] for index in range(len(files))])
        if not step:
            return part.views["pixels"]
        if hasattr(made, "visible"):  # hierax 0.1 draws mask units in the step
            made.visible(part)
        return made.input(part)

    return batch


def timm(**settings: Any) -> Make:
    """timm's training transform, resizing as the paper does."""
    peers.prepare()
    from PIL import ImageOps
    from timm.data import create_transform

    keep = ImageOps.posterize
    # Pillow 13 refuses to keep no bits, which timm asks for at magnitude 10.
    ImageOps.posterize = lambda image, bits: keep(image, bits) if bits else image.point([0] * 768)
    change = create_transform((3, 224, 224), is_training=True, interpolation="bicubic", mean=MEAN, std=STD, **settings)
    return _each(lambda data: change(Image.open(io.BytesIO(data)).convert("RGB")))


def pillow() -> Make:
    """What torchvision's transforms do with Pillow: random resized crop, flip, bytes to floats, normalise."""
    rng, mean, std = np.random.default_rng(0), torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def one(data: bytes) -> Tensor:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        area = image.width * image.height * rng.uniform(0.08, 1)
        aspect = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
        w, h = min(round((area * aspect) ** 0.5), image.width), min(round((area / aspect) ** 0.5), image.height)
        left, top = int(rng.integers(image.width - w + 1)), int(rng.integers(image.height - h + 1))
        cut = image.crop((left, top, left + w, top + h)).resize((224, 224), Image.Resampling.BICUBIC)
        if rng.random() < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1).contiguous()
        return pixels.float().div_(255).sub_(mean).div_(std)

    return _each(one)


def decoded() -> Make:
    """Pillow's decoder alone: what no change after it can undercut."""
    return _each(lambda data: torch.tensor(Image.open(io.BytesIO(data)).convert("RGB").size))


def _each(one: Callable[[bytes], Tensor]) -> Make:
    return lambda files, turn: torch.stack([one(data) for data in files])


WAYS: dict[str, Callable[[], Make]] = {
    "hierax": lambda: ours("supervised", **PAPER),
    "hierax before": lambda: ours("supervised", **PAPER),
    "hierax workers": lambda: ours("supervised", step=False, **PAPER),
    "hierax workers before": lambda: ours("supervised", step=False, **PAPER),
    "timm": lambda: timm(auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25, re_mode="pixel"),
    "timm without erasing": lambda: timm(auto_augment="rand-m9-mstd0.5-inc1"),
    "hierax crop and flip": lambda: ours("supervised"),
    "pillow crop and flip": pillow,
    "decoding alone": decoded,
    "hierax mae": lambda: ours("mae", crop_scale=(0.2, 1.0)),
    "hierax mae before": lambda: ours("mae", crop_scale=(0.2, 1.0)),
}


def serve(pipe: Connection, way: str, count: int) -> None:
    """Answer each round with the processor and wall seconds an image of each size took."""
    torch.set_num_threads(1)
    if way.startswith(("hierax", "decoding")) and hasattr(memory, "keep_freed"):
        memory.keep_freed()  # as in the processes that read in a run
    make = WAYS[way]()
    sets = {name: photographs(size, count if name == "500x375" else 2) for name, size in SIZES.items()}
    pipe.send("ready")
    while (turn := pipe.recv()) is not None:
        answer = {}
        for name, files in sets.items():
            cpu, wall = time.process_time(), time.perf_counter()
            make(files, turn)
            answer[name] = ((time.process_time() - cpu) / len(files), (time.perf_counter() - wall) / len(files))
        pipe.send(answer)


def parts(pipe: Connection, count: int) -> None:
    """Answer with the processor milliseconds of an image of 500 x 375 that each function takes without those in it."""
    from hierax.data import augment, decode, rand_augment
    from hierax.train import batches

    torch.set_num_threads(1)
    memory.keep_freed()
    spent: collections.Counter[str] = collections.Counter()
    inner = [0.0]

    def timed(owner: Any, name: str, part: str) -> None:
        function = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            inner.append(0.0)
            found = function(*args, **options)
            took = time.process_time() - start
            spent[part] += took - inner.pop()
            inner[-1] += took
            return found

        setattr(owner, name, call)

    timed(decode.Image, "open", "header")
    timed(decode.ImageFile.ImageFile, "load", "JPEG decoder")
    timed(batches, "decode_shrunk", "checks of the file")
    timed(augment, "_cut", "copy of the crop")
    timed(augment.F, "interpolate", "resize of the crop")
    timed(augment.Augment, "_drawn", "draws")
    timed(augment.Augment, "erased", "draws")
    timed(batches, "mixed", "draws")
    for name, operation in rand_augment.INCREASING.items():
        affine = name.startswith(("shear", "translate"))
        part = "shears and shifts" if affine else "rotations" if name == "rotate" else "operations on colours"
        holder = types.SimpleNamespace(apply=operation.apply)
        timed(holder, "apply", part)
        rand_augment.INCREASING[name] = operation._replace(apply=holder.apply)
    make, files = WAYS["hierax workers"](), photographs(SIZES["500x375"], count)
    make(files, 0)
    spent.clear()
    start = time.process_time()
    for turn in range(1, 11):
        make(files, turn)
    spent["everything else"] = time.process_time() - start - sum(spent.values())
    pipe.send({part: round(took / (10 * count) * 1e3, 3) for part, took in spent.most_common()})


def measured(rounds: int, count: int, before: str | None) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Seconds an image, (processor, wall), by size and way; the order turns by one every round."""
    ways = [way for way in WAYS if before is not None or "before" not in way]
    context, pipes = multiprocessing.get_context("spawn"), {}
    for way in ways:
        pipes[way], theirs = context.Pipe()
        kept = os.environ.get("PYTHONPATH", "")
        if before is not None and "before" in way:
            os.environ["PYTHONPATH"] = os.pathsep.join([before, *filter(None, [kept])])
            sys.path.insert(0, before)  # which a spawned process is given
        context.Process(target=serve, args=(theirs, way, count), daemon=True).start()
        os.environ["PYTHONPATH"] = kept
        if sys.path[0] == before:
            del sys.path[0]
        pipes[way].recv()
    found: dict[str, dict[str, list[tuple[float, float]]]] = {size: {way: [] for way in ways} for size in SIZES}
    for turn in range(rounds + 1):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            pipes[way].send(turn)
            for size, seconds in pipes[way].recv().items():
                if turn:
                    found[size][way].append(seconds)
    for pipe in pipes.values():
        pipe.send(None)
    return found


def rows(seconds: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, float]]:
    """Of each way: medians, images a second and core, and the cores that make 2,000 a second."""
    table = {}
    for way, pairs in seconds.items():
        cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        table[way] = {
            "cpu_ms": round(cpu * 1e3, 3), "fastest_cpu_ms": round(min(pairs)[0] * 1e3, 3),
            "wall_ms": round(wall * 1e3, 3), "images_per_cpu_s": round(1 / cpu, 1),
            "cores_for_2000_per_s": round(2000 * cpu, 1),
        }  # fmt: skip
    return table


def ratios(seconds: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """How many times the processor time of ours each other way takes: medians of the rounds' own ratios."""
    pairs = [("hierax", other) for other in ("hierax before", "timm", "timm without erasing")]
    pairs += [
        ("hierax workers", "hierax workers before"),
        ("hierax crop and flip", "pillow crop and flip"),
        ("hierax mae", "hierax mae before"),
    ]
    return {
        f"{other} / {mine}": round(
            statistics.median(b[0] / a[0] for a, b in zip(seconds[mine], seconds[other], strict=True)), 2
        )
        for mine, other in pairs
        if other in seconds
    }


def main() -> None:
    """Measure, print ratios first, and write a dated file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--before", help="sources of an earlier hierax")
    options = parser.parse_args()
    context, (pipe, theirs) = multiprocessing.get_context("spawn"), multiprocessing.Pipe()
    context.Process(target=parts, args=(theirs, options.batch), daemon=True).start()
    shares = pipe.recv()
    found = measured(options.rounds, options.batch, options.before)
    now = datetime.datetime.now(datetime.timezone.utc)
    result = {
        "what": "seconds from a JPEG file to its place in an augmented, normalised batch of 224 pixels, one thread",
        "date": now.date().isoformat(),
        "ratios": {size: ratios(seconds) for size, seconds in found.items()},
        "table": {size: rows(seconds) for size, seconds in found.items()},
        "parts of hierax workers, ms": shares,
        "rounds": options.rounds,
        "batch": options.batch,
        "environment": measure.environment(),
        "seconds": found,
    }
    path = report.RESULTS / f"{now:%Y-%m-%d-%H%M%S}-augment.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for size, table in result["table"].items():
        print(size, json.dumps(result["ratios"][size]))
        for way, numbers in table.items():
            print(f"  {way:22} {numbers['cpu_ms']:8.2f} ms {numbers['images_per_cpu_s']:8.1f} images a core-second")
    print(json.dumps(shares), path.name)


if __name__ == "__main__":
    main()
