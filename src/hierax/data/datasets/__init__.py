"""Data sets to train and evaluate on, all read by position."""
