"""birder's API for the Hiera family on hierax: `import hierax.compat.birder as birder`.

Results equal birder's to 1e-5 on the same file.
"""

from .pretrained import (
    ModelInfo,
    get_channels_from_signature,
    get_size_from_signature,
    list_pretrained_models,
    load_pretrained_model,
    load_pretrained_model_and_transform,
)
from .transform import classification_transform

__all__ = [
    "ModelInfo",
    "classification_transform",
    "get_channels_from_signature",
    "get_size_from_signature",
    "list_pretrained_models",
    "load_pretrained_model",
    "load_pretrained_model_and_transform",
]
