"""Where a run is placed; no accelerator is needed to find out."""

from __future__ import annotations

import os

import pytest
import torch

from hierax.errors import RecipeError
from hierax.train.devices import Devices, wanted
from hierax.train.reading import recipe_of


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))


@pytest.mark.parametrize(
    ("name", "device"), [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu"), ("cuda:0", "cuda:0")]
)
def test_a_device_keeps_its_number(two_gpus, name, device):
    """Taking only what stands before the colon trains on the card that somebody else is using."""
    assert wanted(name) == torch.device(device)


@pytest.mark.parametrize("name", ["cuda:2", "gpu", "cuda:x", "", "tpu:0", "cuda:-1"])
def test_a_device_that_is_not_there(two_gpus, name):
    """Falling back to another in silence, or torch's own message."""
    with pytest.raises(RecipeError, match=r"device must be auto or one that is here.*cuda:1"):
        wanted(name)


def test_accelerate_is_given_the_number(two_gpus, monkeypatch):
    """Accelerate takes a number from the environment alone; one that stays there would place the next run too."""
    import accelerate

    seen = {}

    class Stub:
        process_index, num_processes, is_main_process, device = 0, 1, True, torch.device("cpu")

        def __init__(self, **options):
            seen.update(options, device=os.environ.get("ACCELERATE_TORCH_DEVICE"))

    monkeypatch.setattr(accelerate, "Accelerator", Stub)
    assert Devices(recipe_of({"device": "cuda:1"})).precision == "bf16"
    assert (seen["device"], seen["cpu"]) == ("cuda:1", False)
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ
    Devices(recipe_of({"device": "cuda"}))
    assert seen["device"] is None
    Stub.num_processes = 2
    with pytest.raises(RecipeError, match="without a number.*2 processes"):
        Devices(recipe_of({"device": "cuda:1"}))
