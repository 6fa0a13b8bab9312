"""Features on disk: computed once, never stale, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import hierax
from hierax.data.datasets.open import open_data
from hierax.evaluate import kept
from hierax.evaluate.features import described, histograms, network, untrained

from ..members import coloured_classes


@pytest.fixture
def data(tmp_path):
    return coloured_classes(tmp_path / "data", per_class=4)


@pytest.fixture
def predictor():
    return hierax.load()


def computed(predictor, data, features="embedding", **options):
    """The vectors, and how many inputs the network was given."""
    seen = []
    hook = predictor.model.register_forward_pre_hook(lambda *_: None)
    embed = predictor.embed

    def counted(batch, **given):
        seen.append(len(batch))
        return embed(batch, **given)

    predictor.embed = counted
    try:
        return described(network(predictor, features), open_data(data), **options), sum(seen)
    finally:
        hook.remove()
        predictor.embed = embed


def test_second_time__nothing_is_computed(cache, predictor, data):
    """The whole point; and equal images are computed once, under whatever name."""
    (data / "class_0" / "copy.png").write_bytes((data / "class_0" / "000.png").read_bytes())
    different = len({path.read_bytes() for path in data.glob("*/*.png")})
    first, count = computed(predictor, data)
    assert count == different
    again, count = computed(predictor, data)
    assert count == 0
    assert (first.vectors == again.vectors).all()
    assert len(first.vectors) == 13
    assert first.vectors == pytest.approx(predictor.embed(sorted(data.glob("*/*.png"))), abs=1e-5)


def test_changed_image__is_computed(cache, predictor, data):
    """By name, size or time a changed image would keep the vector of the old one."""
    computed(predictor, data)
    one, other = data / "class_0" / "000.png", data / "class_1" / "000.png"
    before = one.stat()
    one.write_bytes(other.read_bytes())
    os.utime(one, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, _ = computed(predictor, data)
    assert (found.vectors[0] == found.vectors[4]).all()


def test_changed_network__is_computed(cache, predictor, data):
    """Trained on, with other sizes, or another kind of feature: the numbers of before are wrong."""
    first, count = computed(predictor, data)
    assert count
    with torch.no_grad():
        next(predictor.model.parameters()).mul_(1.5)
    second, count = computed(predictor, data)
    assert count
    assert not np.allclose(first.vectors, second.vectors)
    _, count = computed(hierax.load(input_size=64), data)
    assert count
    _, count = computed(untrained(predictor), data)
    assert count
    assert described(network(predictor, "stages"), open_data(data)).vectors.shape[1] == 480
    assert described(histograms(), open_data(data)).vectors.shape[1] == 192


def test_random_weights__are_the_same_each_time(predictor):
    """Else a baseline would be another one in each run; the state of whoever draws numbers is left alone."""
    state = torch.get_rng_state()
    one, other = (network(untrained(predictor), "embedding").space for _ in range(2))
    assert one == other != network(predictor, "embedding").space
    assert torch.equal(state, torch.get_rng_state())


def test_no_cache(cache, predictor, data):
    """Leaves nothing, and takes nothing that is there."""
    computed(predictor, data, keep=False)
    assert not (cache / "features").exists()
    computed(predictor, data)
    _, count = computed(predictor, data, keep=False)
    assert count


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_damaged_file__is_computed_again(cache, predictor, data, damage):
    """A disk that lies must not decide which network is better."""
    first, _ = computed(predictor, data)
    (path,) = (cache / "features").rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-9] ^= 0x40
    path.write_bytes({"cut": content[:-100], "flipped": content, "empty": b"", "text": b"x" * 500}[damage])
    again, count = computed(predictor, data)
    assert count
    assert (first.vectors == again.vectors).all()
    assert computed(predictor, data)[1] == 0


def test_place_that_cannot_be_written(cache, predictor, data, capsys):
    """A read-only cache is no reason not to evaluate."""
    cache.mkdir(parents=True)
    (cache / "features").write_text("a file")
    found, count = computed(predictor, data)
    assert (len(found.vectors), count > 0) == (12, True)
    assert "not kept" in capsys.readouterr().err


def test_bound(cache, data, monkeypatch):
    """What was not used for longest goes first, and never what was just written."""
    monkeypatch.setattr(kept, "MOST_BYTES", 2500)
    spaces = [kept.KeptFeatures(name) for name in ("first", "second", "third")]
    key, row = [b"0" * 16], np.ones((1, 200), np.float32)
    spaces[0].add(key, row)
    spaces[1].add(key, row)
    for name, age in (("first", 10), ("second", 20)):
        (path,) = (cache / "features" / name).glob("*.safetensors")
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    spaces[2].add(key, row)
    assert [len(space.find(key)) for space in spaces] == [1, 0, 1]


@pytest.mark.nightly
def test_two_processes_at_once(cache, data):
    """Both end well, and what they leave is whole."""
    code = (
        "import sys, hierax\n"
        "from hierax.evaluate import knn\n"
        "print(knn(sys.argv[1], k=2, baselines='none').results[0]['top1'])\n"
    )
    environment = {**os.environ, "HF_HOME": str(cache.parent), "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(data)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1]
    assert not [path for path in (cache / "features").rglob("*") if "partial" in path.name]
    assert computed(hierax.load(), data)[1] == 0
