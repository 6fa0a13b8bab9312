"""`hierax prepare` and `hierax cache`: what they print, and what they say where nothing can be kept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hierax import kept
from hierax.cli import main
from hierax.model.engines import keeping, openvino


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test, and a conversion that takes no time and starts no threads."""
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HIERAX_CACHE_LIMIT", raising=False)
    monkeypatch.setattr(openvino, "has_openvino", lambda: True)
    monkeypatch.setattr(openvino, "openvino", lambda: None)
    monkeypatch.setattr(keeping, "_version", lambda package: "1")
    monkeypatch.setattr(openvino, "_convert", lambda encoder, size, last: bytes(1000 * (last + 2)))
    monkeypatch.setattr(keeping, "_save", lambda model, path: path.write_bytes(model))
    monkeypatch.setattr(keeping, "_load", lambda path: path.read_bytes())
    monkeypatch.setattr(keeping, "_fits", lambda model, program: True)
    kept._tell.cache_clear()
    return tmp_path / "cache" / "programs"


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    """What a command prints as JSON."""
    assert main([*command, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_prepare__makes_and_finds(capsys: pytest.CaptureFixture[str]) -> None:
    """A second one that converts again would make image builds wait for nothing."""
    (row,) = printed(capsys, "prepare", "hiera_nano_96")
    assert (row["state"], row["input"], row["output"], row["precision"]) == ("made", "96x96", "embedding", "float32")
    assert Path(row["path"]).is_dir()
    rows = printed(capsys, "prepare", "hiera_nano_96", "--size", "96x96", "128x160", "--outputs", "embedding", "stage2")
    found = [(row["input"], row["output"], row["state"]) for row in rows]
    assert found == [
        ("96x96", "embedding", "kept already"),
        ("96x96", "stage2", "made"),
        ("128x160", "embedding", "made"),
        ("128x160", "stage2", "made"),
    ]
    listed = printed(capsys, "cache", "list")
    assert {row["path"] for row in listed} == {row["path"] for row in rows}
    assert all(row["bytes"] > 1000 for row in listed)


@pytest.mark.parametrize(("typed", "size"), [(["64", "96"], "64x96"), (["64"], "64x64"), (["64X96"], "64x96")])
def test_prepare__sizes(typed: list[str], size: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Two numbers are a height and a width."""
    assert [row["input"] for row in printed(capsys, "prepare", "hiera_nano_96", "--size", *typed)] == [size]


@pytest.mark.parametrize("typed", [["7"], ["64", "64", "64"], ["64x64", "64"], ["x"], ["64x64x64"]])
def test_prepare__no_size(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An error of tyro's, or of a layer deep inside, would not say how sizes are written."""
    assert main(["prepare", "hiera_nano_96", "--size", *typed]) == 1
    assert "64x" in (said := capsys.readouterr().err) or "multiple of 32" in said or "512x768" in said


def test_prepare__found_by_what_loads_alike(capsys: pytest.CaptureFixture[str]) -> None:
    """A program of tables that were resized otherwise than `load` does would never be found."""
    import hierax

    pytest.importorskip("openvino", reason="the engine is chosen where the extra is installed")
    assert main(["prepare", "hiera_nano_96", "--size", "128x160"]) == 0
    choice = hierax.load(input_size=(128, 160), fast=True).encoder.choice
    assert choice.startswith("engine openvino")
    assert hierax.load(fast=True).encoder.choice.startswith("engine torch")
    assert hierax.load(input_size=(128, 160)).encoder.pos_embed.shape != hierax.load().encoder.pos_embed.shape


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns for people, the sum on stderr."""
    main(["prepare", "hiera_nano_96"])
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["model", "input", "output", "precision", "MB", "state", "seconds"]
    assert main(["cache", "list"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[1].startswith("hiera_nano_96  96x96  embedding  float32")
    assert "1 program of 0.0 MB" in said.err
    assert "5000 MB" in said.err


def test_clear(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice: nothing to remove is no failure."""
    main(["prepare", "hiera_nano_96"])
    capsys.readouterr()
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out.startswith("1 program of ")
    assert os.listdir(cache) == []
    assert printed(capsys, "cache", "clear") == {"programs": 0, "bytes": 0, "folder": str(cache)}
    assert printed(capsys, "cache", "list") == []


@pytest.mark.parametrize("limit", ["0", "100"])
def test_prepare__no_room(limit: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0 would let an image be built without the program."""
    monkeypatch.setenv("HIERAX_CACHE_LIMIT", limit)
    assert main(["prepare", "hiera_nano_96"]) == 1
    assert "HIERAX_CACHE_LIMIT" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["prepare", "hiera_nano_96"], ["cache", "list"], ["cache", "clear"]])
def test_commands__a_file_in_the_way(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """It is said before a minute goes into a conversion, and the file stays."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(openvino, "_convert", None)
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "HIERAX_CACHE" in said
    assert "Traceback" not in said
    assert (tmp_path / "file").read_text() == "mine"


def test_load__what_cannot_be_kept_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    """A disk that refuses costs a warning."""
    import hierax

    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("HIERAX_CACHE", str(tmp_path / "file"))
    encoder: Any = hierax.load(fast=True, engine="openvino").encoder
    assert encoder.current().model((3, 96, 96), -1) == bytes(1000)
    assert encoder.current().model((3, 64, 96), -1) == bytes(1000)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1
    assert torch.is_tensor(encoder.pos_embed)
