"""How good a network is, measured: frozen features (`knn`, `linear`, `retrieval`), `accuracy`, explanations, seams."""

from .explanations import explanations
from .frozen import knn, linear, retrieval
from .result import ExplanationScores, FeatureScores, SeamScores
from .seams import seams

__all__ = [
    "ExplanationScores", "FeatureScores", "SeamScores", "explanations", "knn", "linear", "retrieval", "seams",
]  # fmt: skip
