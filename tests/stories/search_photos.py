"""I want the photographs that look like a given one, and those that I have twice."""

import os
import shutil

import numpy as np
from PIL import Image

import hierax

shutil.copytree(os.environ["PHOTOS"], "photos")  # stands in for a folder of mine
Image.open("photos/flowers/03.jpg").resize((120, 90)).save("photos/smaller-copy.jpg", quality=70)
with open("photos/notes.jpg", "w") as file:
    file.write("no picture at all")

# Every photograph gets a row, with a vector or the reason why there is none; nothing stops the others.
predictor = hierax.load()
rows = list(predictor.embed_files("photos", normalize=True))
assert len(rows) == 26
(failed,) = [row for row in rows if row.error]
assert failed.name == "photos/notes.jpg"
assert "must be one of JPEG" in failed.error
good = [row for row in rows if row.error is None]
vectors, names = np.stack([row.value for row in good]), [row.name for row in good]

# Nearest to one flower: the flower itself, then its copy. (The small network knows shapes, not flowers: for what lies
# behind those two, load one that was trained on photographs.)
scores = vectors @ predictor.embed("photos/flowers/03.jpg", normalize=True)[0]
order = [names[index] for index in np.argsort(-scores)]
assert order[0] == "photos/flowers/03.jpg"
assert order[1] == "photos/smaller-copy.jpg", order[:3]

# What I have twice: each photograph with the one most like it; the surest pair is the photograph and its copy.
alike = vectors @ vectors.T - 2 * np.eye(len(vectors))
pair = {names[index] for index in np.unravel_index(alike.argmax(), alike.shape)}
assert pair == {"photos/flowers/03.jpg", "photos/smaller-copy.jpg"}, pair

# The same as a table, where pyarrow is installed.
try:
    import pyarrow  # noqa: F401
except ImportError:
    pass
else:
    table = predictor.embed_files("photos").to_arrow()
    assert table.column_names == ["path", "embedding", "error"]
    assert table.num_rows == 26
    assert table["embedding"].null_count == 1

# A folder in the place of a photograph is told what to call.
try:
    predictor.embed("photos")
except hierax.InputError as error:
    assert "embed_files" in str(error)
else:
    raise SystemExit("a folder was taken for an image")
shutil.rmtree("photos")
