"""I build a detector and need the maps of all stages: files for a first look, then a module that learns."""

import json
import os
import shutil

import numpy as np
import torch
from PIL import Image

import hierax
from hierax.cli import main

shutil.copytree(os.environ["PHOTOS"], "photos")  # stands in for a folder of mine

# A first look: all photographs to a folder, in parts that NumPy maps into memory, and a picture.
command = ["features", "photos", "-o", "maps/", "--stages", "stage1,stage4", "--images-per-part", "10"]
assert main(["-q", *command, "--plot", "maps.png"]) == 0
with open("maps/index.jsonl") as file:
    rows = [json.loads(line) for line in file]
assert len(rows) == 24
assert [row["part"] for row in rows] == [0] * 10 + [1] * 10 + [2] * 4
last = rows[-1]
part = np.load(f"maps/stage1-{last['part']:05}.npy", mmap_mode="r")
assert part.shape == (4, 32, 24, 24)
wanted = hierax.load().features(last["path"], stages=["stage1"])["stage1"][0]
assert np.allclose(part[last["row"]], wanted, atol=1e-4)
assert min(Image.open("maps.png").size) > 300

# The module: un-normed maps in image order, at a size of the detector's, not square.
encoder = hierax.load(num_classes=0, input_size=(128, 192)).model
assert encoder.return_channels == [32, 64, 128, 256]
assert tuple(encoder.strides) == (4, 8, 16, 32)
maps = encoder.detection_features(torch.zeros(2, 3, 128, 192))
for (stage, value), stride, channels in zip(maps.items(), encoder.strides, encoder.return_channels, strict=True):
    assert value.shape == (2, channels, 128 // stride, 192 // stride), stage
    assert value.is_contiguous(), stage

# A small head on top learns to tell where something bright lies; the first stages stay as they are.
head = torch.nn.ModuleList([torch.nn.Conv2d(channels, 8, 1) for channels in encoder.return_channels[2:]])
last_step = torch.nn.Conv2d(8, 1, 1)
for name, parameter in encoder.named_parameters():
    parameter.requires_grad_(name.startswith("blocks.") and int(name.split(".")[1]) >= len(encoder.blocks) - 1)
frozen = {name: value.clone() for name, value in encoder.named_parameters() if not value.requires_grad}
learning = [p for p in encoder.parameters() if p.requires_grad] + [*head.parameters(), *last_step.parameters()]
optimizer = torch.optim.AdamW(learning, lr=3e-3)
torch.manual_seed(0)
images = torch.zeros(4, 3, 128, 192)
targets = torch.zeros(4, 1, 8, 12)
for index in range(4):
    images[index, :, 32 * index : 32 * (index + 1), 48:96] = 2.0
    targets[index, :, 2 * index : 2 * (index + 1), 3:6] = 1.0
losses = []
for _ in range(12):
    fine, coarse = encoder.detection_features(images, ["stage3", "stage4"]).values()
    mixed = head[0](fine) + torch.nn.functional.interpolate(head[1](coarse), size=fine.shape[-2:])
    loss = torch.nn.functional.binary_cross_entropy_with_logits(last_step(mixed.relu()), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss))
assert losses[-1] < 0.7 * losses[0], losses
assert all(torch.equal(value, frozen[name]) for name, value in encoder.named_parameters() if name in frozen)
