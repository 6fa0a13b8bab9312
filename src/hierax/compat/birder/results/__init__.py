"""birder's results."""

from ...names import refuse_unknown
from ..reasons import REASONS

__all__ = ["classification"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)
