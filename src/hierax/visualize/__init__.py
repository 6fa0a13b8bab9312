"""Pictures of what a model sees and how a run went: feature maps, MAE triptychs, confusion matrices, curves."""

from __future__ import annotations

from .curves import curves
from .maps import feature_sheet, pca_maps
from .masked import masked_triptych, reconstruction
from .paper import stack_sheets, write_picture
from .results import confusion_matrix_picture, contact_sheet

__all__ = [
    "confusion_matrix_picture",
    "contact_sheet",
    "curves",
    "feature_sheet",
    "masked_triptych",
    "pca_maps",
    "reconstruction",
    "stack_sheets",
    "write_picture",
]
