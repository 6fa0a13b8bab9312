"""birder's API for the Hiera family on hierax: `import hierax.compat.birder as birder`.

Results equal birder's to 1e-5 on the same file.
"""

from ..names import refuse_unknown
from .common.lib import get_channels_from_signature, get_size_from_signature
from .config import load_model_with_cfg
from .detector import detector_backbone
from .inference.classification import evaluate as evaluate_classification
from .pretrained import (
    ModelInfo,
    list_pretrained_models,
    load_pretrained_model,
    load_pretrained_model_and_transform,
)
from .reasons import REASONS
from .transform import classification_transform

__all__ = [
    "ModelInfo",
    "classification_transform",
    "detector_backbone",
    "evaluate_classification",
    "get_channels_from_signature",
    "get_size_from_signature",
    "list_pretrained_models",
    "load_model_with_cfg",
    "load_pretrained_model",
    "load_pretrained_model_and_transform",
]
__getattr__ = refuse_unknown(__name__, "birder", [*__all__, "common", "data", "inference", "results"], REASONS)
