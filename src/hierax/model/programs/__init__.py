"""Exported programs in the place of an encoder: what runs `model.onnx`, `model.xml` and `model.pt2`."""
