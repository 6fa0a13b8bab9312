"""The code of the three model cards, verbatim, and the one change that running it on hierax needs."""

from __future__ import annotations

SAM2_EMBEDDING = """
import birder
from birder.inference.classification import infer_image

(net, model_info) = birder.load_pretrained_model("hieradet_small_sam2_1", inference=True)

# Get the image size the model was trained on
size = birder.get_size_from_signature(model_info.signature)

# Create an inference transform
transform = birder.classification_transform(size, model_info.rgb_stats)

image = "path/to/image.jpeg"  # or a PIL image
(out, embedding) = infer_image(net, image, transform, return_embedding=True)
# embedding is a NumPy array with shape of (1, 768)
"""

SAM2_FEATURES = """
from PIL import Image
import birder

(net, model_info) = birder.load_pretrained_model("hieradet_small_sam2_1", inference=True)

# Get the image size the model was trained on
size = birder.get_size_from_signature(model_info.signature)

# Create an inference transform
transform = birder.classification_transform(size, model_info.rgb_stats)

image = Image.open("path/to/image.jpeg")
features = net.detection_features(transform(image).unsqueeze(0))
# features is a dict (stage name -> torch.Tensor)
print([(k, v.size()) for k, v in features.items()])
"""

SAM2_PRINTED = (
    "[('stage1', torch.Size([1, 96, 56, 56])), ('stage2', torch.Size([1, 192, 28, 28])), "
    "('stage3', torch.Size([1, 384, 14, 14])), ('stage4', torch.Size([1, 768, 7, 7]))]\n"
)

DINO_CLASSES = """
import birder
from birder.inference.classification import infer_image

(net, model_info) = birder.load_pretrained_model("hieradet_small_dino-v2-imagenet12k", inference=True)

# Get the image size the model was trained on
size = birder.get_size_from_signature(model_info.signature)

# Create an inference transform
transform = birder.classification_transform(size, model_info.rgb_stats)

image = "path/to/image.jpeg"  # or a PIL image, must be loaded in RGB format
(out, _) = infer_image(net, image, transform)
# out is a NumPy array with shape of (1, 11821), representing class probabilities.
"""

DINO_EMBEDDING = """
import birder
from birder.inference.classification import infer_image

(net, model_info) = birder.load_pretrained_model("hieradet_small_dino-v2-imagenet12k", inference=True)

# Get the image size the model was trained on
size = birder.get_size_from_signature(model_info.signature)

# Create an inference transform
transform = birder.classification_transform(size, model_info.rgb_stats)

image = "path/to/image.jpeg"  # or a PIL image
(out, embedding) = infer_image(net, image, transform, return_embedding=True)
# embedding is a NumPy array with shape of (1, 768)
"""

DINO_FEATURES = """
from PIL import Image
import birder

(net, model_info) = birder.load_pretrained_model("hieradet_small_dino-v2-imagenet12k", inference=True)

# Get the image size the model was trained on
size = birder.get_size_from_signature(model_info.signature)

# Create an inference transform
transform = birder.classification_transform(size, model_info.rgb_stats)

image = Image.open("path/to/image.jpeg")
features = net.detection_features(transform(image).unsqueeze(0))
# features is a dict (stage name -> torch.Tensor)
print([(k, v.size()) for k, v in features.items()])
"""

DINO_PRINTED = (
    "[('stage1', torch.Size([1, 96, 64, 64])), ('stage2', torch.Size([1, 192, 32, 32])), "
    "('stage3', torch.Size([1, 384, 16, 16])), ('stage4', torch.Size([1, 768, 8, 8]))]\n"
)

HIERA_MODEL = """
from transformers import AutoImageProcessor, HieraModel
import torch
from PIL import Image
import requests
url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)
image_processor = AutoImageProcessor.from_pretrained("facebook/hiera-base-plus-224-hf")
model = HieraModel.from_pretrained("facebook/hiera-base-plus-224-hf")
inputs = image_processor(images=image, return_tensors="pt")
outputs = model(**inputs)
"""

HIERA_BACKBONE = """
from transformers import AutoImageProcessor, HieraBackbone
import torch
from PIL import Image
import requests
url = "http://images.cocodataset.org/val2017/000000039769.jpg"
image = Image.open(requests.get(url, stream=True).raw)
image_processor = AutoImageProcessor.from_pretrained("facebook/hiera-base-plus-224-hf")
model = HieraBackbone.from_pretrained("facebook/hiera-base-plus-224-hf", out_features=['stage1', 'stage2', 'stage3', 'stage4'])
inputs = image_processor(images=image, return_tensors="pt")
outputs = model(**inputs)
feature_maps = outputs.feature_maps
"""

PREFIXES = (
    ("\nimport birder\n", "\nimport hierax.compat.birder as birder\n"),
    ("from birder.", "from hierax.compat.birder."),
    ("from transformers import", "from hierax.compat.transformers import"),
)


def ported(snippet: str) -> str:
    """The snippet with its import prefix changed, and nothing else."""
    for old, new in PREFIXES:
        snippet = snippet.replace(old, new)
    return snippet
