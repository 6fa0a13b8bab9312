"""I try things cell by cell; what a cell ends with is shown, so it must be short, and a table where it is one."""

import os
import shutil
import sys
import time
from typing import Any

shown: list[str] = []


def show(value: Any) -> str:
    """What a notebook does with the last value of a cell: HTML where there is any, else its repr."""
    text = value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)
    shown.append(text)
    return text


# In [1]: an import that does not make me wait.
started = time.process_time()
import hierax  # noqa: E402

assert time.process_time() - started < 1.0
assert "torch" not in sys.modules
shutil.copytree(os.environ["PHOTOS"], "photos")  # stands in for a folder of mine

# In [2]: what is there?
names = hierax.list_models("*tiny*")
assert "hiera_tiny_224" in names
assert "hiera_tiny_224" not in hierax.list_models("*tiny*", commercial=True)

# In [3]: a card, without a download, as a table.
card = hierax.describe("hiera_tiny_224")
html = show(card)
assert html.lstrip().startswith("<table")
assert "cc-by-nc-4.0" in html.lower()
assert card.commercial is False

# In [4]: the predictor on one line.
predictor = hierax.load()
line = show(predictor)
assert "\n" not in line
assert len(line) < 160
assert line.startswith("Predictor(hiera_nano_96")

# In [5]: answers as a table, and one of them on a line; one photograph or several, a path or an open image.
from PIL import Image  # noqa: E402

answers = predictor.classify(["photos/flowers/00.jpg", Image.open("photos/temples/00.jpg")], top_k=3)
html = show(answers)
assert html.count("<tr>") == 1 + 6
assert len(show(answers[0][0])) < 80
assert show(predictor.classify([])) == "<p>no predictions</p>"

# In [6]: a slip, told in one line with the remedy.
for slip, remedy in (
    (lambda: hierax.load("hiera_tiny_24"), "hiera_tiny_224"),
    (lambda: predictor.classify("photos/flowers/0.jpg"), "does not exist"),
    (lambda: predictor.features("photos/flowers/00.jpg", stages=["stage5"]), "stage4"),
    (lambda: hierax.load(input_size=100), "32"),
    (lambda: hierax.load(engine="openvino"), "fast=True"),
):
    try:
        slip()
    except hierax.HieraxError as error:
        assert remedy in str(error), error
        assert len(str(error).splitlines()) == 1
    else:
        raise SystemExit(f"nothing said what was wrong: {remedy}")

# In [7]: a short run, its summary on one line, without the loss of each step.
summary = hierax.finetune("photos", "run", steps=2, batch_size=8, workers=0, device="cpu")
line = show(summary)
assert line.startswith("RunSummary(")
assert "losses" not in line
assert len(line) < 400
assert summary.classes == ["flowers", "temples"]
assert len(shown) == 6
