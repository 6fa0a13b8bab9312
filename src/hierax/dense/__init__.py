"""Answers for every cell of an image: stage maps of images of any size, linear maps of them, and labels that follow."""
