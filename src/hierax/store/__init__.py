"""A data set of embeddings: a folder of Parquet parts that is whole up to its last commit; no torch."""

from __future__ import annotations

from .read import Store, open_store

__all__ = ["Store", "open_store"]
