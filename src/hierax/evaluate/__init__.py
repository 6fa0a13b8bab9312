"""How good a network is, measured: frozen features and maps on labelled data, `accuracy`, explanations, seams."""

from .explanations import explanations
from .frozen import knn, linear, retrieval
from .propagation import propagation
from .result import ExplanationScores, FeatureScores, SeamScores
from .seams import seams
from .segmentation import segmentation

__all__ = [
    "ExplanationScores", "FeatureScores", "SeamScores", "explanations", "knn", "linear", "propagation", "retrieval",
    "seams", "segmentation",
]  # fmt: skip
