"""My code uses birder; I change the import and keep the lines, my own weights file and my numbers."""

import os
import shutil

import numpy as np
from PIL import Image

import hierax
import hierax.compat.birder as birder  # instead of: import birder
from hierax.compat.birder.inference.classification import infer_batch, infer_image

shutil.copytree(os.environ["PHOTOS"], "photos")  # stands in for a folder of mine
photo = "photos/temples/05.jpg"
hierax.load().save("mine.pt", format="birder")  # stands in for a file that birder's training wrote

# The lines of birder's model card.
net, info = birder.load_pretrained_model("hiera_nano_96", dst="mine.pt", inference=True)
size = birder.get_size_from_signature(info.signature)
assert size == (96, 96)
assert birder.get_channels_from_signature(info.signature) == 3
transform = birder.classification_transform(size, info.rgb_stats)
out, embedding = infer_image(net, photo, transform, return_embedding=True)
assert out.shape == (1, 16)
assert embedding.shape == (1, 256)
assert np.isclose(out.sum(), 1, atol=1e-5)
names = {index: name for name, index in info.class_to_idx.items()}

# hierax's own three lines give the same class of the same file, and the probability within the rounding of resizing.
predictor = hierax.load("mine.pt")
(guess,) = predictor.classify(photo, top_k=1)[0]
assert names[int(out.argmax())] == guess.label
assert np.isclose(out.max(), guess.score, atol=0.05)

# Feature maps for a detector, by birder's names, and a batch at a size of my own.
maps = net.detection_features(transform(Image.open(photo))[None])
assert list(maps) == ["stage1", "stage2", "stage3", "stage4"]
assert net.return_channels == [value.shape[1] for value in maps.values()]
net.adjust_size((128, 160))
batch = birder.classification_transform((128, 160), info.rgb_stats)(Image.open(photo))[None]
out, _ = infer_batch(net, batch)
assert out.shape == (1, 16)

# What does not exist is said by name, with what does.
try:
    birder.load_pretrained_model("hieradet_d_smal_dino-v2", dst="mine.pt")
except hierax.UnknownNameError as error:
    assert "hieradet_d_small_dino-v2" in str(error)
else:
    raise SystemExit("a name that does not exist was taken")
