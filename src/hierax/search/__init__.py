"""Looking things up in a store: images like this one, near-duplicates, clusters; and keeping a store fresh."""

from __future__ import annotations

from .library import Hit, Store, open_store

__all__ = ["Hit", "Store", "open_store"]
