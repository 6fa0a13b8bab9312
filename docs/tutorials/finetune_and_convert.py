"""Fine-tune on a folder, convert the result, and load it in transformers and birder."""

# %% [markdown]
# # Fine-tune on your folder, and use it elsewhere
#
# A classifier of your own classes, trained here, then loaded by transformers and by birder. You need `hierax[train]`,
# and for the last two parts those packages.
#
# The folder has one sub-folder a class. Rendered shapes stand in for your photographs; with these name a network that
# knows photographs by `model=`, see [Choose a model](../models.md).

# %%
import contextlib
import io

import numpy as np
import torch
from PIL import Image

import hierax
from hierax.data.datasets.shapes import render_folder

folder = render_folder("mine", count=160, seed=3, size=96, image_format="jpg")
print(sorted(path.name for path in folder.iterdir())[:4], "...")

# %% [markdown]
# ## Train
#
# Two epochs of fine-tuning, on one core. A tenth of each class is held out by itself. (Progress goes to stderr and is
# not shown here.)

# %%
with contextlib.redirect_stderr(io.StringIO()):
    summary = hierax.finetune("mine", "run", steps=20, batch_size=16, seed=1, workers=0)
print(summary.steps, "steps on", summary.samples, "images of", len(summary.classes), "classes")
print("held out:", summary.metrics["total"], "images, right:", summary.metrics["correct1"] > 10)

# %%
predictor = hierax.load(summary.model)
photo = next((folder / "star").iterdir())
ours = predictor.classify(photo, top_k=1)[0][0]
print(ours.label, "licence:", predictor.card.license, "from:", predictor.card.base_model)

# %% [markdown]
# ## In transformers
#
# `convert` writes a folder that `from_pretrained` takes, image processor included.

# %%
hierax.convert(summary.model, "for_transformers", to="transformers")

from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("for_transformers")
model = AutoModelForImageClassification.from_pretrained("for_transformers").eval()
with torch.inference_mode():
    scores = model(**processor(Image.open(photo), return_tensors="pt")).logits.softmax(-1)[0]
print(type(model).__name__, model.config.id2label[int(scores.argmax())])

# %% [markdown]
# The networks compute the same; on the same input to the last few bits:

# %%
x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    print("same numbers:", torch.allclose(model(x).logits, predictor.model(x), atol=1e-4))

# %% [markdown]
# The image processors differ by rounding, since transformers resizes bytes: scores may differ in the third digit.
#
# ## In birder
#
# birder finds published networks by name. A file of your own says in itself what it is, and `load_model_with_cfg`
# builds it; `hiera_tiny` only names the class of network.

# %%
hierax.convert(summary.model, "for_birder.pt", to="birder")

import birder
from birder.inference.classification import infer_image

file = torch.load("for_birder.pt", weights_only=True)
config = {
    "name": "hiera_tiny",
    "registered_name": None,
    "task": file["task"],
    "model_config": file["config"],
    "signature": file["signature"],
}
net, _ = birder.load_model_with_cfg(config, "for_birder.pt")
net.eval().requires_grad_(False)
transform = birder.classification_transform(birder.get_size_from_signature(file["signature"]), file["rgb_stats"])
out, _ = infer_image(net, str(photo), transform)
names = {index: name for name, index in file["class_to_idx"].items()}
print(type(net).__name__, names[int(out.argmax())], "same score:", bool(np.isclose(out.max(), ours.score, atol=0.01)))

# %% [markdown]
# Which network goes into which format: [Conversions](../conversions.md). What lies in `run`: [Output
# files](../reference/outputs.md#a-training-run-out).
