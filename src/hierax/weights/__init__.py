"""Weights: where they are, what is in them, and how they become one of our networks."""
