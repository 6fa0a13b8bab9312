"""Bulk embedding: how near to the bare model loop, what broken files cost, photographs against birder's own loader,
memory over a long run, and what a row of a store costs from a thousand rows to a million.

    python -m benchmarks.bulk [curve] [bare] [junk] [photographs] [memory] [--images N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import hierax
from hierax.bulk.worker import InputMaker
from hierax.data.items import Item
from hierax.store.layout import Spec
from hierax.store.tables import Record
from hierax.store.write import open_writer

from . import measure
from .report import RESULTS

ROUNDS = 3


def curve(sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000), length: int = 256) -> dict[str, Any]:
    """Microseconds a row of writing, finding the place to go on, opening and reading, over the number of rows."""
    found = {}
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4096, length)).astype(np.float32)
    spec = Spec({"model": "synthetic"}, {"embedding": length})
    for rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store"
            write, last = _timed(lambda path=path, rows=rows: _write(path, spec, vectors, rows))
            resume, _ = _timed(lambda path=path: _resumed(path, spec))
            opened, store = _timed(lambda path=path: hierax.open_store(path))
            first, _ = _timed(lambda store=store: store.vectors())
            again, _ = _timed(lambda path=path: hierax.open_store(path).vectors())
            picks = rng.integers(0, rows, 10)
            lookup, _ = _timed(lambda store=store, picks=picks: store.lookup(picks, ["path"]))
            store.search(0, engine="exact")  # lengths are computed, and pages of the file come into memory
            search = _worked(lambda store=store: store.search(1, engine="exact"))
            size = sum(file.stat().st_size for file in path.glob("*.parquet"))
            found[rows] = {
                "write_us_a_row": 1e6 * write / rows,
                "last_commit_ms": 1e3 * last,
                "resume_ms": 1e3 * resume,
                "open_ms": 1e3 * opened,
                "first_vectors_us_a_row": 1e6 * first / rows,
                "vectors_again_ms": 1e3 * again,
                "lookup_of_10_ms": 1e3 * lookup,
                "search_ms_of_processor": 1e3 * search,
                "bytes_a_row": size / rows,
                "files": len(store.files),
            }
    return found


def _write(path: Path, spec: Spec, vectors: np.ndarray, rows: int) -> float:
    """Seconds of the last full commit."""
    last = 0.0
    with open_writer(path, spec) as writer:
        for index in range(rows):
            values = {"embedding": vectors[index % len(vectors)]}
            writer.add(Record(index, f"photos/{index // 1000:06d}/{index:09d}.jpg", None, 640, 480, values=values))
            if writer.due():
                start = time.perf_counter()
                writer.commit(index + 1, "d")
                last = time.perf_counter() - start
        writer.commit(rows, "d")
        writer.complete(rows, "d")
    return last


def _worked(call: Callable[[], object]) -> float:
    """Processor seconds of a call, the median of five."""
    seconds = []
    for _ in range(5):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def _resumed(path: Path, spec: Spec) -> None:
    with open_writer(path, spec):
        pass


def bare(images: int = 192, name: str = "hiera_tiny_224") -> dict[str, Any]:
    """Images a second of `hierax.embed` over those of the model alone on the same tensors, batches and engine."""
    with tempfile.TemporaryDirectory() as folder:
        album = Path(folder) / "album"
        photographs(album, images, (320, 256))
        predictor = hierax.load(_saved(name, Path(folder) / "model"), fast=True)
        make = InputMaker.of(predictor)
        inputs = [make(Item(str(path), str(path))).input for path in sorted(album.iterdir())]
        batches = torch.stack([each for each in inputs if each is not None]).split(16)

        def model() -> None:
            with torch.inference_mode():
                for batch in batches:
                    predictor.encoder.embedding(batch)

        return _ratios({"bare": model, "bulk": lambda: _embedded(album, predictor)}, images)


def junk(images: int = 600) -> dict[str, Any]:
    """What 5 % of files that are no images cost, in time for each input."""
    with tempfile.TemporaryDirectory() as folder:
        clean, mixed = Path(folder) / "clean", Path(folder) / "mixed"
        photographs(clean, images, (640, 480))
        shutil.copytree(clean, mixed)
        for number, path in enumerate(sorted(mixed.iterdir())):
            if number % 20 == 7:
                path.write_bytes((b"<html>not here</html>", b"", path.read_bytes()[:3000])[number % 3])
        predictor = hierax.load(fast=True)
        return _ratios(
            {"clean": lambda: _embedded(clean, predictor), "junk": lambda: _embedded(mixed, predictor)}, images
        )


def large(images: int = 48) -> dict[str, Any]:
    """Photographs of 12 megapixels with the small embedded model: birder's data set, loader and loop, and ours."""
    from . import peers

    with tempfile.TemporaryDirectory() as folder:
        album = Path(folder) / "album" / "a"
        photographs(album, 8, (4000, 3000))
        originals = sorted(album.iterdir())
        for number in range(8, images):
            os.link(originals[number % 8], album / f"{number:06d}.jpg")
        predictor = hierax.load()
        peers.prepare()
        theirs = _birder(album.parent, predictor)
        return _ratios({"birder": theirs, "bulk": lambda: _embedded(album, predictor)}, images)


def _birder(root: Path, predictor: hierax.Predictor) -> Callable[[], object]:
    """birder's folder inference around the same network: its data set, transform, loader and loop."""
    from birder.data.datasets.directory import make_image_dataset
    from birder.data.transforms.classification import inference_preset
    from birder.inference.classification import infer_dataloader

    spec = predictor.preprocess
    rgb = {"mean": list(spec.mean), "std": list(spec.std)}

    def run() -> object:
        transform = inference_preset(spec.size, rgb, 1.0)
        dataset = make_image_dataset([str(root)], {"a": 0}, transforms=transform, loader=_through_pillow)
        loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=os.cpu_count() or 1)
        with torch.inference_mode():
            return infer_dataloader(torch.device("cpu"), predictor.encoder, loader, return_embedding=True)

    return run


def _through_pillow(path: str) -> Image.Image:
    """As birder reads where torchvision has no decoder."""
    return Image.open(path).convert("RGB")


def memory(images: int = 100_000) -> dict[str, Any]:
    """Megabytes of this process and its workers at image 1,000 and at the end."""
    held: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        album = Path(folder) / "album"
        photographs(album, 50, (128, 96))
        originals = sorted(album.iterdir())
        for number in range(50, images):
            os.link(originals[number % 50], album / f"{number:06d}.jpg")
        from hierax.bulk import local

        real = local.local_rows

        def watched(*args: Any, **options: Any) -> Iterator[Any]:
            for number, pair in enumerate(real(*args, **options), start=1):
                if number == 1000 or number % 2_500 == 0 or number == images:
                    held[number] = _held_mb()
                yield pair

        local.local_rows = watched  # type: ignore[assignment]
        try:
            start = time.perf_counter()
            _embedded(album, hierax.load(fast=True))
            seconds = time.perf_counter() - start
        finally:
            local.local_rows = real
    growth = held[max(held)] - held[1000]
    return {"growth_mb": growth, "held_mb": held, "images": images, "images_a_second": images / seconds}


def _held_mb() -> float:
    """Of this process and its children, what is theirs alone and their share of the rest."""
    mine = os.getpid()
    children = Path(f"/proc/self/task/{mine}/children").read_text().split()
    total = 0
    for pid in (str(mine), *children):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEGs with detail at every scale, as a camera's have."""
    folder.mkdir(parents=True)
    width, height = size
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = np.zeros((height, width, 3), np.float32)
        for step in (256, 64, 16, 4, 1):
            coarse = rng.normal(size=(height // step + 2, width // step + 2, 3)) * step**0.5
            layer = Image.fromarray(np.clip(coarse * 8 + 128, 0, 255).astype(np.uint8))
            picture += np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128
        Image.fromarray(np.clip(picture + 128, 0, 255).astype(np.uint8)).save(folder / f"{number:06d}.jpg", quality=90)


def _saved(name: str, place: Path) -> Path:
    return hierax.save(hierax.create(name).eval(), place)


def _embedded(album: Path, predictor: hierax.Predictor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hierax.embed(album, Path(folder) / "out", model=predictor, progress=False)


def _ratios(runners: dict[str, Callable[[], object]], images: int) -> dict[str, Any]:
    """Of the second runner over the first, images a second."""
    seconds = measure.interleaved(runners, ROUNDS)
    first, second = seconds.values()
    return {
        "ratio": measure.ratio(first, second),
        "images_a_second": {name: images / statistics.median(each) for name, each in seconds.items()},
        "images": images,
    }


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "curve": curve, "bare": bare, "junk": junk, "photographs": large, "memory": memory,
}  # fmt: skip


def main() -> None:
    """Run cases and write a dated file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--images", type=int)
    chosen = parser.parse_args()
    result: dict[str, Any] = {"command": " ".join(sys.argv[1:]), "environment": measure.environment()}
    for name in chosen.cases:
        options = {"images": chosen.images} if chosen.images and name != "curve" else {}
        result[name] = CASES[name](**options)
        print(name, json.dumps(result[name], indent=1), flush=True)
    stamp = time.strftime("%Y-%m-%d-%H%M%S")
    (RESULTS / f"{stamp}-bulk.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
