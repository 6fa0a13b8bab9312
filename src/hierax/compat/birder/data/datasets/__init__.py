"""birder's data sets."""

from ....names import refuse_unknown
from ...reasons import REASONS

__all__ = ["directory"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)
