"""Masks from a few scribbles: a small head on frozen stage maps, and labels that follow a video.

from hierax.segment import load_head, predict, propagate, train

trained = train("labels", "hiera_base_224")     # images and scribbles
trained.head.save("head.safetensors")
predict("head.safetensors", "photos", "masks")
"""

from .head import Head, load_head
from .predict import Written, predict
from .propagate import propagate
from .train import Trained, train

__all__ = ["Head", "Trained", "Written", "load_head", "predict", "propagate", "train"]
