"""A run on shards of which half are broken: it trains on what is good and reports the rest."""

from __future__ import annotations

import json
import tarfile
from collections import Counter

import pytest

from hierax.train import finetune, pretrain

from ..members import plain_image, samples, save_learner, write_tar
from . import runs


@pytest.mark.parametrize("task", ["finetune", "pretrain"])
@pytest.mark.parametrize("where", ["on a block boundary", "off one"])
def test_broken_shards(tmp_path, capsys, where, task):
    """One bad member that stops the run, or a loss that nobody hears of, fails; so does CMYK or 1 x 1 taken for bad."""
    data = tmp_path / "shards"
    data.mkdir()
    write_tar(data / "train-0.tar", samples(6))
    odd = [
        ("a.jpg", plain_image(mode="CMYK", kind="JPEG")), ("a.cls", b"1"), ("b.png", plain_image(size=(1, 1))), ("b.cls", b"2"),
        ("c.jpg", plain_image(kind="JPEG")), ("d.jpg", b"<html>"), ("d.cls", b"0"),
    ]  # fmt: skip
    write_tar(data / "train-1.tar", odd)
    cut = write_tar(data / "train-2.tar", samples(4, 20))
    with tarfile.open(cut) as tar:
        third = tar.getmembers()[4]
    cut.write_bytes(cut.read_bytes()[: third.offset if where == "on a block boundary" else third.offset_data + 100])
    train = finetune if task == "finetune" else pretrain
    summary = train(
        data, tmp_path / "out", model=save_learner(tmp_path / "m", decoder=task == "pretrain"), epochs=2,
        validation_fraction=0.0, **runs.SETTINGS
    )  # fmt: skip
    unlabelled = task == "pretrain"  # labels are not missed where none are needed
    assert summary.skipped_steps == 0
    assert summary.samples == 6 + 3 + 2 + unlabelled
    assert set(summary.unreadable) == {"train-1.tar/d"}
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    problems = Counter(name.partition("/")[0] if "2.tar" in name else name for name, _ in written["problems"])
    assert problems.keys() == {"train-2.tar"} | (set() if unlabelled else {"train-1.tar/c"})
    assert any("cut off" in reason or "truncated" in reason for _, reason in written["problems"])
    assert set(written["unreadable"]) == {"train-1.tar/d"}
    said = capsys.readouterr().err
    assert f"{len(written['problems'])} left out of the data" in said
    assert "1 could not be read" in said


def test_a_permit_in_the_data_s_address_is_written_nowhere(tmp_path, web, cache, capsys):
    """A published model's card would give the signed address of the images to everybody."""
    web.plain["a.tar"] = write_tar(tmp_path / "a.tar", samples(4)).read_bytes()
    out = tmp_path / "out"
    finetune(
        f"{web.url}/plain/a.tar?permit=s3cret", out, model=save_learner(tmp_path / "m"), epochs=1,
        validation_fraction=0.0, **runs.SETTINGS
    )  # fmt: skip
    held = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"a.tar" in held
    assert b"s3cret" not in held + capsys.readouterr().err.encode()
