"""transformers' Hiera API on hierax: `from hierax.compat.transformers import AutoImageProcessor, HieraModel`.

Results equal transformers' to 1e-5, with one deliberate difference that `HieraBackbone` explains.
"""

from .configuration import HieraConfig
from .image_processing import AutoImageProcessor, BatchFeature, BitImageProcessor
from .models import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from .outputs import (
    BackboneOutput,
    HieraForImageClassificationOutput,
    HieraForPreTrainingOutput,
    HieraModelOutput,
    ModelOutput,
)

__all__ = [
    "AutoImageProcessor",
    "BackboneOutput",
    "BatchFeature",
    "BitImageProcessor",
    "HieraBackbone",
    "HieraConfig",
    "HieraForImageClassification",
    "HieraForImageClassificationOutput",
    "HieraForPreTraining",
    "HieraForPreTrainingOutput",
    "HieraModel",
    "HieraModelOutput",
    "ModelOutput",
]
