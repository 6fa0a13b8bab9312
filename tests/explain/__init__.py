"""Tests of explain/ and of the tensors behind it."""
