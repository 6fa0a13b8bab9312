"""A SAM 2 trunk that was fine-tuned here goes back into a whole SAM 2 file, and SAM 2's own code runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import hierax
import hierax.weights.write
from hierax.cli import main

from ..members import MEMBERS, coloured_classes, pixels, tiny_sam2, weights_of
from ..peer_files import sam2_image_encoder, write_sam2_pt

__all__ = ["tiny_sam2"]
FEW = ["--batch-size", "4", "--set", "workers=0", "lr=0.01", "warmup_epochs=0.0"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data."""
    monkeypatch.chdir(tmp_path)
    coloured_classes(tmp_path / "data", per_class=4)
    return tmp_path


def whole_file(path: Path) -> dict[str, torch.Tensor]:
    """A small trunk among a neck and a decoder."""
    hierax.weights.write.write_weights(weights_of(MEMBERS["SAM 2 trunk"]), path, to="sam2")
    file = torch.load(path, weights_only=True)
    beside = {"image_encoder.neck.convs.0.conv.weight": torch.randn(4, 4), "no_mem_embed": torch.randn(1, 4)}
    torch.save({"model": {**file["model"], **beside}}, path)
    return beside


def exchanged(before: Path, after: Path, run: Path) -> torch.Tensor:
    """Whether the file's trunk is the run's, by the maps; answers how far it is from what it was."""
    x = pixels(1, 3, 64, 64)
    with torch.no_grad():
        maps = [hierax.load(path, input_size=64).model.detection_features(x) for path in (before, after, run)]
    assert all(torch.equal(maps[1][stage], maps[2][stage]) for stage in maps[1])
    return (maps[0]["stage4"] - maps[1]["stage4"]).abs().max()


@pytest.mark.usefixtures("tiny_sam2")
def test_tuned_trunk_goes_back(place, capsys, caplog):
    """It was refused twice, for the head and for the norm that training itself had added."""
    beside = whole_file(place / "sam.pt")
    assert main(["finetune", "data", "out", "-m", "sam.pt", "--steps", "3", *FEW]) == 0
    assert main(["convert", "out/model", "new.pt", "--to", "sam2"]) == 1
    assert "name a whole SAM 2 file" in capsys.readouterr().err
    shutil.copy(place / "sam.pt", place / "tuned.pt")
    assert main(["convert", "out/model", "tuned.pt", "--to", "sam2"]) == 0
    out = capsys.readouterr().out
    assert out.strip() == "tuned.pt"
    assert "classifier and its norm stay behind" in caplog.text
    assert exchanged(place / "sam.pt", place / "tuned.pt", place / "out" / "model") > 1e-3
    before, after = (torch.load(place / name, weights_only=True)["model"] for name in ("sam.pt", "tuned.pt"))
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in beside.items())
    assert (place / "tuned.pt.bak").read_bytes() == (place / "sam.pt").read_bytes()


@pytest.mark.usefixtures("tiny_sam2")
def test_a_second_run_and_a_frozen_trunk(place):
    """The result of a run on the result of a run has a norm that is no longer fresh."""
    whole_file(place / "sam.pt")
    assert main(["finetune", "data", "one", "-m", "sam.pt", "--steps", "1", *FEW]) == 0
    assert main(["finetune", "data", "two", "-m", "one/model", "--steps", "1", *FEW]) == 0
    shutil.copy(place / "sam.pt", place / "tuned.pt")
    assert main(["convert", "two/model", "tuned.pt", "--to", "sam2"]) == 0
    exchanged(place / "sam.pt", place / "tuned.pt", place / "two" / "model")
    assert main(["finetune", "data", "probe", "-m", "sam.pt", "--recipe", "linear_probe", "--steps", "1", *FEW]) == 0
    shutil.copy(place / "sam.pt", place / "same.pt")
    assert main(["convert", "probe/model", "same.pt", "--to", "sam2"]) == 0
    assert exchanged(place / "sam.pt", place / "same.pt", place / "probe" / "model") == 0


@pytest.mark.parity
@pytest.mark.slow
def test_sam2_runs_the_tuned_trunk(place):
    """What only hierax can read back is no SAM 2 file."""
    encoder = sam2_image_encoder()
    write_sam2_pt(encoder, place / "sam.pt")
    line = ["finetune", "data", "out", "-m", "sam.pt", "--steps", "1", *FEW, "input_size=64"]
    assert main(line) == 0
    shutil.copy(place / "sam.pt", place / "tuned.pt")
    assert main(["convert", "out/model", "tuned.pt", "--to", "sam2"]) == 0
    state = torch.load(place / "tuned.pt", weights_only=True)["model"]
    own = {
        key.removeprefix("image_encoder."): value for key, value in state.items() if key.startswith("image_encoder.")
    }
    encoder.load_state_dict(own, strict=True)
    x = pixels(1, 3, 64, 64)
    with torch.no_grad():
        theirs = encoder.trunk(x)
        ours = hierax.load("out/model").model.detection_features(x)
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(theirs, ours.values(), strict=True))
