"""birder's helpers."""

from ...names import refuse_unknown
from ..reasons import REASONS

__all__ = ["fs_ops", "lib"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)
