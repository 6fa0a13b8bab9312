"""birder's inference transform under the name and module that it has there."""

from ....names import refuse_unknown
from ...reasons import REASONS
from ...transform import classification_transform as inference_preset

__all__ = ["inference_preset"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)
