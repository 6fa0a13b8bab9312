"""A picture of a whole run: feature maps of a few images after more and more steps, in the colours of one basis."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from safetensors.numpy import load_file
from torch import Tensor

from ..config import STAGE_NAMES, PreprocessSpec
from ..data.datasets.samples import TrainingData
from ..data.inputs import network_input
from ..errors import HieraxError
from ..model.encoder import Encoder
from ..visualize import maps, sheets
from ..weights.files import write_safetensors
from .pictures import spread

FEATURES = "features_over_time.png"
KEPT = "features_over_time.safetensors"  # the maps themselves: a resumed run goes on with them
IMAGES, COLUMNS = 6, 8
_STRIDE = 16  # pixels of a cell, at most: coarser maps show hardly anything of an image
_NAME = re.compile(r"step-([0-9]{8,})")


class Timeline:
    """Maps of the same images at a few steps, evenly spread over the run, the start and the end among them.

    Attributes:
        steps: When a column is added.
        columns: The maps of each step, of unit length in every cell.
    """

    def __init__(
        self, data: TrainingData, encoder: Encoder, spec: PreprocessSpec, out: Path, total: int, *, of: str
    ) -> None:
        self.encoder, self.spec, self.out, self.of = encoder, spec, out, of
        self.steps = {round(total * k / (COLUMNS - 1)) for k in range(COLUMNS)}
        self.columns: dict[int, Float[ndarray, "n c h w"]] = {}
        config, self.inputs, self.names = encoder.config, list[Tensor](), list[str]()
        self.stage = max(stage for stage, stride in enumerate(config.strides) if stride <= _STRIDE)
        for index in spread(data, IMAGES):
            try:
                self.inputs.append(network_input(data.read(index), config, spec))
                self.names.append(Path(data.name(index)).name)
            except (HieraxError, OSError, MemoryError):  # told when it is to be trained on
                continue

    def restore(self, step: int) -> None:
        """Take up the columns of an interrupted run; those that came later than its checkpoint are made anew."""
        if not (self.out / KEPT).is_file():
            return
        for name, column in load_file(self.out / KEPT).items():
            found = _NAME.fullmatch(name)
            if found and int(found[1]) <= step and len(column) == len(self.inputs):
                self.columns[int(found[1])] = column

    @torch.no_grad()
    def add(self, step: int, device: torch.device) -> None:
        """Add the present features, and draw all anew."""
        if not self.inputs:
            return
        training = self.encoder.training
        self.encoder.eval()
        found = self.encoder.stages(torch.stack(self.inputs).to(device), last=self.stage)[-1]  # (n, h, w, c)
        self.encoder.train(training)
        cells = torch.nn.functional.normalize(found.float(), dim=-1).movedim(-1, 1)
        self.columns[step] = cells.half().contiguous().cpu().numpy()
        write_safetensors(
            self.out / KEPT, {f"step-{at:08d}": torch.from_numpy(column) for at, column in self.columns.items()}
        )
        self.draw()

    def draw(self) -> None:
        """Write the picture: a row an image, a column a step."""
        steps = sorted(self.columns)
        every = np.concatenate([self.columns[step] for step in steps]).astype(np.float32)
        if not np.isfinite(every).all():
            return
        colours = np.split(maps.pca_maps({"all": every})["all"], len(steps))
        pixels = [sheets.seen_pixels(x.numpy(), self.spec) for x in self.inputs]
        columns = {f"step {step:,}": list(found) for step, found in zip(steps, colours, strict=True)}
        note = (
            f"Features of {STAGE_NAMES[self.stage]}, each cell scaled to length 1. Red, green and blue are the three "
            "strongest directions of all images and steps together: equal colours are equal features. "
            f"Images: {self.of}."
        )
        sheets.write_picture(sheets.timeline_sheet(pixels, self.names, columns, note=note), self.out / FEATURES)
