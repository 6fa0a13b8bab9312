"""Search a folder of photos by example, with embeddings and NumPy."""

# %% [markdown]
# # Search your photos
#
# Find the images of a folder that look like a given one, and those that are almost the same. You need hierax and
# NumPy.
#
# So that this runs anywhere, the photos are rendered shapes, and the network is the one in the package. For your own:
# set `folder` to yours and load a network that knows photographs, e.g. `hierax.load("hieradet_d_small_dino-v2")`.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

import hierax
from hierax.data.datasets.shapes import render_folder

folder = render_folder("photos", count=160, seed=5, size=96, image_format="jpg")
paths = sorted(folder.rglob("*.jpg"))
predictor = hierax.load()
print(len(paths), "photos")

# %% [markdown]
# ## Embed once, keep the vectors
#
# With `normalize=True` every vector has length 1, so that a dot product is a cosine. For many photos use the command
# `hierax embed photos -o vectors.npz --normalize`: there a broken file becomes a row with the reason; here it would
# be an error.

# %%
vectors = predictor.embed(paths, normalize=True)
np.savez("vectors.npz", embedding=vectors, path=[str(path) for path in paths])
print(vectors.shape, vectors.dtype)

# %% [markdown]
# ## Ask with one photo
#
# The query may be any image, of the folder or not.


# %%
def search(image, k=5):
    """Paths and cosines of the k nearest."""
    scores = vectors @ predictor.embed(image, normalize=True)[0]
    best = np.argsort(-scores)[:k]
    return [(paths[index], float(scores[index])) for index in best]


query = next(path for path in paths if path.parent.name == "star")
for path, score in search(query):
    print(f"{score:.2f}  {path.parent.name}")

# %% [markdown]
# The first is the query itself. A picture of several searches, the query on the left:

# %%
from hierax.visualize.sheets import contact_sheet, write_picture

rows, captions = [], []
for name in ("star", "waves", "ring"):
    query = next(path for path in paths if path.parent.name == name)
    for rank, (path, score) in enumerate(search(query, k=4)):
        rows.append(np.asarray(Image.open(path).convert("RGB")))
        captions.append("query" if rank == 0 else f"{path.parent.name}\n{score:.2f}")
write_picture(contact_sheet(rows, captions), Path("search-neighbours.png"))

# %% [markdown]
# ![Queries and their neighbours](search-neighbours.png)
#
# ## How good is it?
#
# The folders say what is shown, so it can be counted: of the five nearest to each photo, how many show the same?

# %%
names = np.array([path.parent.name for path in paths])
similar = vectors @ vectors.T
np.fill_diagonal(similar, -1)  # a photo does not find itself
nearest = np.argsort(-similar, axis=1)[:, :5]
print(f"{(names[nearest] == names[:, None]).mean():.0%} of the neighbours show the same")

# %% [markdown]
# ## Almost the same
#
# Two files of one photo, scaled or compressed anew, lie closer to each other than two photos of one thing. Where the
# threshold lies depends on the network and on your photos: look at some pairs around it.

# %%
copy = Image.open(paths[0]).resize((64, 64))
copy.save("copy.jpg", quality=60)
(path, score), (_, other) = search("copy.jpg", k=2)
print(path == paths[0], score > 0.95, score > other)

# %% [markdown]
# ## Larger collections
#
# A million vectors of 256 numbers are one gigabyte, which a search passes over once; beyond that, an index such as
# usearch or FAISS takes the same normalised vectors with the inner product as its metric. Keep the file's metadata
# with them: vectors of different weights or preprocessing must not be compared.
