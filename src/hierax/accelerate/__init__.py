"""Models of other packages made faster in place: same type, same outputs, undoable.

    import hierax

    handle = hierax.accelerate(model)  # a loaded SAM 2, transformers, timm, birder or Meta model, or what holds one
    print(handle.report)  # how far outputs moved, and the speed
    handle.undo()

One file a peer says how its encoder is recognised, which of its methods are answered, and in what shape.
"""

from __future__ import annotations

from .door import accelerate, is_accelerated, restore
from .handle import Acceleration
from .report import Report

__all__ = ["Acceleration", "Report", "accelerate", "is_accelerated", "restore"]
