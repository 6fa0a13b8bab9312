"""Which parts of an image an answer comes from: attention rollout, Grad-CAM per stage, occlusion."""

from .run import explain

__all__ = ["explain"]
