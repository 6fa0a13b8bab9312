"""What the tests of bulk embedding share."""

from __future__ import annotations

import pytest

import hierax


@pytest.fixture(scope="module")
def predictor():
    """The embedded model."""
    return hierax.load()
