"""What the colours of stage maps mean, and what they do not."""

# %% [markdown]
# # Read the PCA colours
#
# `hierax features --plot` draws maps of hundreds of channels as colours. This page makes such a picture by hand and
# says what may be read from it.

# %%
from pathlib import Path

import numpy as np

import hierax
from hierax.data.datasets.shapes import render_folder
from hierax.visualize.maps import pca_maps
from hierax.visualize.sheets import feature_sheet, seen_pixels, stack_sheets, write_picture

predictor = hierax.load()
folder = render_folder("photos", count=32, seed=2, size=96, image_format="png")
paths = [next((folder / name).iterdir()) for name in ("ring", "star", "stripes", "dots")]
maps = predictor.features(paths, stages=["stage1", "stage2", "stage3"])
for stage, values in maps.items():
    print(stage, values.shape)

# %% [markdown]
# ## From channels to three colours
#
# All cells of all images of a stage are put in one heap; their three strongest directions become red, green and blue,
# red the strongest. Each colour is stretched from the 1st to the 99th percentile.

# %%
cells = np.moveaxis(maps["stage2"], 1, -1).reshape(-1, maps["stage2"].shape[1])
strengths = np.linalg.svd(cells - cells.mean(0), compute_uv=False) ** 2
share = strengths[:3].sum() / strengths.sum()
print(f"three of {cells.shape[1]} directions hold {share:.0%} of what varies")

# %% [markdown]
# That share says how much of the map you see. Below a half, cells of one colour may still differ a lot.

# %%
colours = pca_maps(maps)
sheets = []
for index, path in enumerate(paths):
    from hierax.data.decode import decode_image

    seen = seen_pixels(predictor.prepare(path).numpy(), predictor.preprocess)  # maps are maps of this
    drawn = {stage: found[index] for stage, found in colours.items()}
    sheets.append(feature_sheet(decode_image(path), drawn, seen=seen, name=path.parent.name))
write_picture(stack_sheets(sheets), Path("colours-sheet.png"))

# %% [markdown]
# ![Four images and three maps of each](colours-sheet.png)
#
# ## What may be read
#
# - **Equal colours in one column mean similar features**, across all images of the picture: basis and scale are
#   shared.
# - **Edges** of a colour are where features change; compare them with edges of the image.
# - **Coarse blocks** are the cells: 4 pixels in stage 1, 32 in stage 4. No detail finer than a cell is there.
#
# ## What may not
#
# - **Colours of two columns, or of two pictures,** have nothing to do with each other: each stage of each run has a
#   basis of its own. To compare pictures, draw them in one call:

# %%
alone = pca_maps({"stage2": maps["stage2"][:1]})["stage2"][0]
together = colours["stage2"][0]
print("same image, other company, same colours:", bool(np.array_equal(alone, together)))

# %% [markdown]
# - **Red is not more important than green** for a task: directions are sorted by how much they vary, not by what they
#   mean.
# - **A flat grey map** means that nothing varies, not that nothing is there.
# - **Rims** that follow the border of the image or of windows are made by padding and windowed attention. They say
#   where the network's windows lie, and not what the image shows.
# - **The crop**: networks whose recipe crops see the centre of an image only; see [How images are
#   read](../reference/images.md#from-pixels-to-input).
