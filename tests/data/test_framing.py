"""Images far from the input's shape: who counts as such, which input fits, and what a person is told."""

from __future__ import annotations

import dataclasses
import math

import pytest

from hierax.config import architecture
from hierax.data.framing import are_far, fitting_size, remark, stretch

NANO = architecture("hiera_nano_96")


@pytest.mark.parametrize("size", [(96, 96), (200, 300), (300, 200), (768, 1024), (1080, 1920), (1920, 1080)])
def test_photographs_are_cropped_as_ever(size):
    """3:2, 4:3 and 16:9, upright too: a rule that took them for strips would change every ordinary run."""
    assert not are_far([size] * 32, (96, 96))
    assert remark([size] * 32, NANO, cropped=True) is None


def test_a_few_panoramas_change_nothing():
    """One strip in five is no reason to distort the others; one in four is."""
    assert not are_far([(100, 100)] * 4 + [(100, 900)], (96, 96))
    assert are_far([(100, 100)] * 3 + [(100, 900)], (96, 96))
    assert not are_far([], (96, 96))


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([(200, 16)], (352, 32)),
        ([(16, 200)], (32, 352)),
        ([(100, 240)], (64, 160)),
        ([(200, 16), (16, 200)], (96, 96)),  # no shape suits both
        ([(60_000, 1)], (352, 32)),  # as long as may be, and no more pixels than that
        ([(100, 100)], (96, 96)),
    ],
)
def test_the_input_that_fits(sizes, wanted):
    """Of about as many pixels as before: a strip at its full length would cost as much as its length."""
    assert fitting_size(sizes * 10, NANO) == wanted
    NANO.with_input_size(wanted)
    assert math.prod(wanted) <= 1.25 * 96 * 96


def test_what_is_far_from_a_square_is_near_a_strip():
    """A model made for strips says nothing of strips, and does of squares."""
    made = dataclasses.replace(NANO, input_size=(352, 32))
    assert stretch((200, 16), (352, 32)) < 1.2
    assert remark([(200, 16)] * 8, made, cropped=True) is None
    assert remark([(90, 90)] * 8, made, cropped=True) is not None


def test_what_is_said():
    """The share that is seen, and what helps; a little squashing does no harm."""
    told = remark([(200, 16)] * 30 + [(60, 60)] * 2, NANO, cropped=True)
    assert "94% of the images" in told
    assert "shows about 8% of each" in told
    assert "--input-size 320x32" in told
    assert "squarer pieces" in remark([(200, 16), (16, 200)] * 8, NANO, cropped=True)
    small = dataclasses.replace(NANO, input_size=(64, 64))  # five units of 32 pixels: still far from it, but less so
    assert "--input-size 160x32" in remark([(200, 16)] * 8, small, cropped=True)
    assert "squashed to it, about 12 times" in remark([(200, 16)] * 8, NANO, cropped=False)
    assert remark([(200, 60)] * 8, NANO, cropped=False) is None
