"""How good a network is, measured on labelled data: `knn`, `linear` and `retrieval` of frozen features, `accuracy`."""

from .frozen import knn, linear, retrieval
from .result import FeatureScores

__all__ = ["FeatureScores", "knn", "linear", "retrieval"]
