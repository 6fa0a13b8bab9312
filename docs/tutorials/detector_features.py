"""A feature pyramid and a small detection head on stage maps, trained on one core."""

# %% [markdown]
# # Features for a detector
#
# The stage maps of an encoder under a feature pyramid and a head that finds where things are: the smallest thing that
# has all the parts of a detector. Plain PyTorch; torchvision's, birder's or transformers' parts take the same maps.
#
# The scenes: two rendered shapes on a canvas of 128 x 160 pixels, a size the network was not trained at. The target
# is a heat map at stride 8: 1 where a shape has its centre.

# %%
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import nn

import hierax
from hierax.data.datasets.samples import ShapeData

torch.manual_seed(0)
shapes = ShapeData(400, 9, 48)
height, width, stride = 128, 160, 8


def scene(seed):
    """A canvas with two shapes, and their centres in pixels."""
    draw = np.random.default_rng(seed)
    canvas, centres = np.full((height, width, 3), 127, np.uint8), []
    for left in (0, width // 2):  # one in each half, so that they never touch
        pixels = np.asarray(shapes.read(int(draw.integers(len(shapes)))))
        top, x = int(draw.integers(height - 48)), left + int(draw.integers(width // 2 - 48))
        canvas[top : top + 48, x : x + 48] = pixels
        centres.append((top + 24, x + 24))
    return canvas, centres


canvas, centres = scene(0)
print(canvas.shape, centres)

# %% [markdown]
# ## The encoder
#
# `input_size` takes any multiple of 32; `num_classes=0` drops the head. Names, channels and strides are data.

# %%
predictor = hierax.load(input_size=(height, width), num_classes=0)
encoder = predictor.encoder.requires_grad_(False)
for name, channels, step in zip(("stage1", "stage2", "stage3", "stage4"), encoder.return_channels, encoder.strides):
    print(name, channels, "channels, stride", step)

# %% [markdown]
# ## Pyramid and head
#
# A 1x1 convolution brings each stage to one width, coarse maps are added to fine ones, and two convolutions make one
# number a cell. Maps are un-normed and differ in scale, hence the norm in front.


# %%
class Finder(nn.Module):
    """Heat map of centres from three stages."""

    stages = ("stage2", "stage3", "stage4")

    def __init__(self, channels, width=32):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Sequential(nn.GroupNorm(1, c), nn.Conv2d(c, width, 1)) for c in channels)
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GELU(), nn.Conv2d(width, 1, 1))

    def forward(self, maps):
        """Logits at the stride of the first map."""
        levels = [lateral(maps[stage]) for lateral, stage in zip(self.lateral, self.stages)]
        top = levels[-1]
        for level in reversed(levels[:-1]):
            top = level + F.interpolate(top, size=level.shape[-2:], mode="nearest")
        return self.head(top)[:, 0]


finder = Finder(encoder.return_channels[1:])
print(sum(p.numel() for p in finder.parameters()), "parameters to train")

# %% [markdown]
# ## Train the head on frozen maps
#
# The encoder is frozen, so its maps are computed once.


# %%
def prepared(seeds):
    """Maps, targets and centres of some scenes."""
    scenes = [scene(seed) for seed in seeds]
    x = torch.stack([predictor.prepare(canvas) for canvas, _ in scenes])
    with torch.inference_mode():
        maps = encoder.detection_features(x, Finder.stages)
    target = torch.zeros(len(scenes), height // stride, width // stride)
    for row, (_, found) in zip(target, scenes):
        for y, x in found:
            row[y // stride, x // stride] = 1
    return {stage: value.clone() for stage, value in maps.items()}, target, [found for _, found in scenes]


maps, target, _ = prepared(range(1, 129))
optimizer = torch.optim.AdamW(finder.parameters(), lr=3e-3)
for _ in range(300):
    picked = torch.randperm(len(target))[:16]
    logits = finder({stage: value[picked] for stage, value in maps.items()})
    loss = F.binary_cross_entropy_with_logits(logits, target[picked], pos_weight=torch.tensor(20.0))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("learned:", loss.item() < 0.3)

# %% [markdown]
# ## On scenes that it has not seen
#
# The two highest cells, one in each half, against the true centres.

# %%
maps, _, truth = prepared(range(1000, 1032))
with torch.inference_mode():
    heat = finder(maps).sigmoid()
hits = 0
found = []
for row, true in zip(heat, truth):
    half = row.shape[1] // 2
    peaks = [np.unravel_index(int(part.argmax()), part.shape) for part in (row[:, :half], row[:, half:])]
    points = [((y + 0.5) * stride, (x + 0.5 + side * half) * stride) for side, (y, x) in enumerate(peaks)]
    found.append(points)
    hits += sum(max(abs(y - ty), abs(x - tx)) <= 12 for (y, x), (ty, tx) in zip(points, true))
print("most centres found within 12 pixels:", hits > 0.8 * 2 * len(truth))

# %%
picture = Image.new("RGB", (2 * width, 2 * height))
for place, seed in enumerate(range(1000, 1004)):
    tile = Image.fromarray(scene(seed)[0])
    for y, x in found[place]:
        ImageDraw.Draw(tile).ellipse((x - 5, y - 5, x + 5, y + 5), outline=(255, 0, 255), width=2)
    picture.paste(tile, (width * (place % 2), height * (place // 2)))
picture.save("detector-found.png")

# %% [markdown]
# ![Four scenes with the centres that were found](detector-found.png)
#
# ## From here
#
# - Train the encoder too: leave `requires_grad_(False)` out and give it a smaller learning rate.
# - A larger network: `hierax.load("sam2.1_hiera_small", input_size=(512, 768), num_classes=0)`.
# - What other libraries' necks expect: [Feature maps](../tasks/features.md#what-necks-and-detectors-expect).
