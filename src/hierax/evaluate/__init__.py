"""How good a network is, measured on labelled data."""
