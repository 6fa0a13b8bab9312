"""My code uses transformers; I change the import and keep the lines, the folder and the numbers."""

import os
import shutil

import torch
from PIL import Image

import hierax
from hierax.compat.transformers import (  # instead of: from transformers import
    AutoImageProcessor,
    HieraBackbone,
    HieraForImageClassification,
    HieraModel,
)

shutil.copytree(os.environ["PHOTOS"], "photos")  # stands in for a folder of mine
photo = Image.open("photos/flowers/00.jpg")
hierax.load().save("mine", format="transformers")  # stands in for a folder that save_pretrained wrote

# The lines of the model card.
processor = AutoImageProcessor.from_pretrained("mine")
model = HieraForImageClassification.from_pretrained("mine")
inputs = processor(photo, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
assert output.logits.shape == (1, 16)
assert torch.equal(output["logits"], output[0])
label = model.config.id2label[int(output.logits.argmax(-1))]

# hierax's own lines on the same folder, for the same pixels and for the file.
predictor = hierax.load("mine")
with torch.no_grad():
    assert torch.allclose(predictor.model(inputs["pixel_values"]), output.logits, atol=1e-5)
assert predictor.classify("photos/flowers/00.jpg", top_k=1)[0][0].label == label

# Without the head, and as a backbone whose maps stand in image order.
hidden = HieraModel.from_pretrained("mine")(**inputs).last_hidden_state
assert hidden.shape == (1, 9, 256)
backbone = HieraBackbone.from_pretrained("mine", out_features=["stage1", "stage4"])
maps = backbone(inputs["pixel_values"]).feature_maps
assert [tuple(value.shape) for value in maps] == [(1, 32, 24, 24), (1, 256, 3, 3)]

# What I save is a folder like the one that I came with.
model.save_pretrained("again")
assert {"config.json", "model.safetensors"} <= set(os.listdir("again"))
assert torch.equal(HieraForImageClassification.from_pretrained("again")(**inputs).logits, output.logits)
