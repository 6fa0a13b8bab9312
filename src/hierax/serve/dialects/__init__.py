"""What requests and answers look like: one file a dialect, and no web framework in any."""

from . import classify, embeddings, features, health, inference, search

DIALECTS = (embeddings, classify, features, search, inference, health)
