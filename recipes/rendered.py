"""What the recipes on rendered scenes share: the scenes in memory, and the loop. Not a recipe itself."""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image
from torch import Tensor, nn

import hierax
from hierax.data.datasets.scenes import render_scenes


class Scenes:
    """A folder of `hierax render --task segmentation` in memory.

    Attributes:
        coco: Its annotations, as faster-coco-eval reads them.
        ids: Of the images.
        pixels: (n, 3, h, w), as the backbone expects them.
        masks: Class of each pixel (n, h, w), 0 for the ground.
        names: Of the classes, from 0.
    """

    def __init__(self, folder: Path, spec: hierax.PreprocessSpec) -> None:
        file = folder / "annotations.json"
        try:
            self.coco = COCO(str(file))
            check(folder, self.coco.dataset)
        except hierax.HieraxError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise hierax.InputError(
                f"{folder} must hold what `hierax render --task segmentation` writes: annotations.json in COCO's form, "
                f"images and masks; got {type(error).__name__}: {error}."
            ) from error
        self.ids = sorted(self.coco.imgs)
        self.names = {kind["id"] - 1: kind["name"] for kind in self.coco.dataset["categories"]}
        files = [folder / "images" / self.coco.imgs[each]["file_name"] for each in self.ids]
        masks = [folder / "masks" / f"{file.stem}.png" for file in files]
        pixels = torch.stack([torch.from_numpy(np.array(Image.open(file).convert("RGB"))) for file in files])
        mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
        self.pixels = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
        self.masks = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in masks])

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self.ids)

    def things(self, place: int) -> tuple[Tensor, Tensor, Tensor]:
        """Classes (n,), boxes (n, 4) as corner and size in pixels, and masks (n, h, w) of one scene."""
        found = self.coco.imgToAnns[self.ids[place]]
        classes = torch.tensor([each["category_id"] - 1 for each in found])
        masks = torch.stack([torch.from_numpy(self.coco.annToMask(each)).float() for each in found])
        return classes, torch.tensor([each["bbox"] for each in found]), masks


def check(folder: Path, said: dict[str, Any]) -> None:
    """Compare annotations with each other and with the files; a class that never occurs is logged.

    Raises:
        InputError: Boxes outside of their image, an image without annotations, images or masks of another size than is
            said or than the others have, numbers of classes that leave some out.
    """
    where = f"{folder}/annotations.json"
    images, kinds = {each["id"]: each for each in said["images"]}, [each["id"] for each in said["categories"]]
    if kinds != list(range(1, len(kinds) + 1)):
        raise hierax.InputError(f"{where}: categories are numbered from 1 without a gap; got {kinds[:20]}. Renumber.")
    bare, seen = dict(images), set()
    for each in said["annotations"]:
        image = images.get(each["image_id"])
        if image is None or each["category_id"] not in kinds:
            raise hierax.InputError(
                f"{where}: annotation {each['id']} is of an image or a class that is not in the file."
            )
        x, y, w, h = each["bbox"]
        width, height = image["width"], image["height"]
        if w <= 0 or h <= 0 or min(x, y) < -1 or x + w > width + 1 or y + h > height + 1:
            raise hierax.InputError(
                f"{where}: boxes must lie inside their image, x, y, width, height; annotation {each['id']} of "
                f"{image['file_name']} ({width} x {height}) has {each['bbox']}. Clip it, or leave it out."
            )
        bare.pop(each["image_id"], None)
        seen.add(each["category_id"])
    if bare:
        name = next(iter(bare.values()))["file_name"]
        raise hierax.InputError(f"{where}: {len(bare)} images have no annotation, {name} first. Leave them out.")
    sides = {(image["width"], image["height"]) for image in said["images"]}
    if len(sides) != 1:
        raise hierax.InputError(f"{where}: images must all have one size; got {sorted(sides)[:4]}. Resize them.")
    for image in said["images"]:
        mask = Path(image["file_name"]).with_suffix(".png").name
        for file in (folder / "images" / image["file_name"], folder / "masks" / mask):
            size = Image.open(file).size if file.is_file() else "missing"
            if size not in sides:
                raise hierax.InputError(f"{file} must be there, {sides} as {where} says; it is {size}. Make it anew.")
    if never := [each["name"] for each in said["categories"] if each["id"] not in seen]:
        logging.getLogger("hierax").warning("%s: no annotation is of %s.", where, ", ".join(never))


def precision(scenes: Scenes, found: list[dict[str, Any]], kind: Literal["bbox", "segm"]) -> dict[str, float]:
    """AP and AP50 of boxes or masks, by faster-coco-eval."""
    run = COCOeval_faster(scenes.coco, scenes.coco.loadRes(found), kind, print_function=lambda *_: None)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return {"AP": float(run.stats[0]), "AP50": float(run.stats[1])}


def arguments(description: str, epochs: int) -> argparse.Namespace:
    """The options that every recipe here has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument(
        "--data", type=Path, help="folder with train and held_out, each as render writes; else rendered"
    )
    parser.add_argument("--scenes", type=count, default=200, help="scenes to learn from")
    parser.add_argument("--held-out", type=count, default=100, help="scenes to measure on")
    parser.add_argument("--size", type=count, default=192, help="pixels of a side, a multiple of 32")
    parser.add_argument("--epochs", type=count, default=epochs)
    parser.add_argument("--batch-size", type=count, default=8)
    parser.add_argument("--lr", type=rate, default=5e-4)
    parser.add_argument("--backbone-lr", type=rate, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=count, default=10, help="epochs between two measurements")
    parser.add_argument("--random-backbone", action="store_true", help="no pretrained weights, for comparison")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"out must be a new folder; {args.out} is there. Name another or remove it")
    if args.size % 32:
        parser.error(f"--size must be a multiple of 32; got {args.size}")
    if args.data is None and args.batch_size > args.scenes:
        parser.error(f"--batch-size may be at most --scenes, {args.scenes}; got {args.batch_size}")
    return args


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text}")
    return int(text)


def rate(text: str) -> float:
    """A positive number."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number; got {text}")
    return value


def main(
    description: str,
    epochs: int,
    build: Callable[[dict[int, str], bool], nn.Module],
    loss_of: Callable[[nn.Module, Scenes, list[int]], Tensor],
    measure: Callable[[nn.Module, Scenes], dict[str, float]],
) -> None:
    """Run a recipe as its command line says; what is wrong is told in one line."""
    try:
        run(arguments(description, epochs), build, loss_of, measure)
    except (hierax.HieraxError, ImportError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def run(
    args: argparse.Namespace,
    build: Callable[[dict[int, str], bool], nn.Module],
    loss_of: Callable[[nn.Module, Scenes, list[int]], Tensor],
    measure: Callable[[nn.Module, Scenes], dict[str, float]],
) -> list[dict[str, float]]:
    """Render, train, measure; the curve goes to OUT/curve.json, the model to OUT/model.

    Args:
        args: What `arguments` gives.
        build: The model, for these names of classes, with pretrained weights or not.
        loss_of: Loss of a batch of scenes.
        measure: Figures on held-out scenes.
    """
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    options: dict[str, Any] = {"task": "segmentation", "size": args.size}
    data = args.data or args.out
    if args.data is None:
        render_scenes(data / "train", count=args.scenes, seed=11, **options)
        render_scenes(data / "held_out", count=args.held_out, seed=12, **options)
    spec = hierax.load().preprocess
    train, test = (Scenes(data / part, spec) for part in ("train", "held_out"))
    if args.batch_size > len(train):
        raise hierax.InputError(f"A batch may have at most the scenes there are, {len(train)}; got {args.batch_size}.")
    args.out.mkdir(parents=True, exist_ok=True)
    model = build(train.names, not args.random_backbone)
    body = next(module for module in model.modules() if isinstance(module, hierax.Backbone))
    inside = {id(parameter) for parameter in body.parameters()}
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    lr = args.lr if args.random_backbone else args.backbone_lr  # what begins at random learns as fast as the head
    optimizer = torch.optim.AdamW([*body.parameter_groups(lr, 0.9), {"params": head}], lr=args.lr, weight_decay=1e-4)
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = args.epochs * (len(train) // args.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.1)
    curve: list[dict[str, float]] = []
    for epoch in range(1, args.epochs + 1):
        order, losses = torch.randperm(len(train)).tolist(), []
        for start in range(0, len(order) - args.batch_size + 1, args.batch_size):
            loss = loss_of(model.train(), train, order[start : start + args.batch_size])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % args.every == 0 or epoch == args.epochs:
            with torch.inference_mode():
                found = measure(model.eval(), test)
            curve.append({"epoch": epoch, "loss": sum(losses) / len(losses), **found})
            print(json.dumps(curve[-1]), flush=True)
            (args.out / "curve.json").write_text(json.dumps(curve, indent=1))
    model.save_pretrained(args.out / "model")  # type: ignore[operator]
    return curve
