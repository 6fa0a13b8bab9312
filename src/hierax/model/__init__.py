"""Tensors in, tensors out: the encoder and its masked autoencoder."""
