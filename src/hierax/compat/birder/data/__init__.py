"""birder's data sets and transforms."""

from ...names import refuse_unknown
from ..reasons import REASONS

__all__ = ["datasets", "transforms"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)
