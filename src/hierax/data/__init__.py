"""Pixels in: finding, decoding, preprocessing and batching images and clips."""
