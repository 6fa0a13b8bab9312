"""`cluster="ray"`: the rows of a local run, whichever process of the cluster is killed, on a real cluster of this machine."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import signal
import sys
import tarfile

import numpy as np
import pytest

import hierax
from hierax.errors import InputError, MissingExtraError

from ..members import write_png

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")
COUNT, BAD = 30, ("03b.png", "17b.png")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """One for all tests, as a person opens it; runs leave it open. It is this machine's alone."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    token = {"RAY_AUTH_TOKEN": "0" * 64}  # else Ray keeps one in the home directory
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", **token})
    handler = signal.getsignal(signal.SIGTERM)
    options = {"num_cpus": 2, "object_store_memory": 100 << 20, "include_dashboard": False, "log_to_driver": False}
    found = ray.init("local", _node_ip_address="127.0.0.1", logging_level="ERROR", **options)
    signal.signal(signal.SIGTERM, handler)
    yield found.address_info["gcs_address"]
    ray.shutdown()
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        del os.environ[name]
    os.environ.update(variables)


@pytest.fixture(scope="module")
def predictor():
    """The embedded model."""
    return hierax.load()


@pytest.fixture(scope="module")
def album(tmp_path_factory, predictor):
    """Thirty images and two files that are none, and `here/`: what a local run makes of them."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(COUNT):
        write_png(folder / f"{number:02}.png", number)
    for name in BAD:
        (folder / name).write_text("no image")
    return folder


@pytest.fixture
def embed(cluster, predictor, tmp_path, monkeypatch):
    """`hierax.embed` on the cluster, four images at a time in each chunk, so that there are many."""
    from hierax.bulk import local

    monkeypatch.setattr(local, "_TOGETHER", 4)
    monkeypatch.chdir(tmp_path)

    def run(source, out, **options):
        chosen = {"model": predictor, "batch_size": 4, "cluster": "ray", "progress": False, "cpus_per_actor": 1}
        return hierax.embed(source, out, **{**chosen, **options})

    return run


def same(a, b) -> None:
    """All columns of two stores, bit by bit."""
    one, other = hierax.open_store(a), hierax.open_store(b)
    assert one.metadata == other.metadata
    left, right = one.to_arrow(), other.to_arrow()
    assert left.column_names == right.column_names
    for name in left.column_names:
        assert left[name].equals(right[name]), name


def at_chunk(monkeypatch, acts) -> list[int]:
    """Do things to an actor at work, each once so many chunks are done; says which were done."""
    from hierax.bulk import ray as driver

    real, done, acted = driver._Fleet._take, [], []

    def take(self, actor, ref):
        done.append(actor.asked[ref] is not None)
        real(self, actor, ref)
        busy = [each for each in self._actors if each.ready and each.asked]
        if acts and sum(done) >= next(iter(acts)) and busy:
            acted.append(next(iter(acts)))
            acts.pop(acted[-1])(busy[0])

    monkeypatch.setattr(driver._Fleet, "_take", take)
    return acted


def test_rows__are_those_of_a_local_run(embed, album, predictor):
    """A chunk that comes back in another order, or an error that is worded by another code, shows in some column."""
    from hierax.compat.birder.inference.classification import infer_image

    with tarfile.open("some.tar", "w") as tar:
        for number in range(5):
            tar.add(album / f"{number:02}.png", f"{number}.png")
    inputs = [album, "some.tar"]
    how = {"columns": ["embedding", "stage2", "top5"], "exact": True}
    done = embed(inputs, "there/", actors=2, **how)
    assert (done.rows, done.errors) == (COUNT + 5, len(BAD))
    hierax.embed(inputs, "here/", model=predictor, batch_size=4, progress=False, **how)
    same("there", "here")
    store = hierax.open_store("there")
    paths = store.paths()[:COUNT]
    np.testing.assert_allclose(store.vectors()[:COUNT], predictor.embed(paths), atol=1e-6)
    transform = predictor.prepare
    _, vector = infer_image(predictor.model, paths[5], transform, return_embedding=True)
    np.testing.assert_allclose(store.vectors()[5], vector[0], atol=1e-5)


def test_killed__loses_and_doubles_nothing(embed, album, predictor, monkeypatch):
    """What an actor had is asked of another; the driver knows which chunks have come, and takes each once."""
    import psutil

    def sigkill(actor):
        os.kill(actor.greeting.process, signal.SIGKILL)

    def worker(actor):
        for child in psutil.Process(actor.greeting.process).children():
            child.kill()

    acted = at_chunk(monkeypatch, {2: sigkill, 4: worker})
    done = embed(album, "there/", actors=1)
    assert acted == [2, 4]
    assert (done.rows, done.errors) == (COUNT, len(BAD))
    hierax.embed(album, "here/", model=predictor, batch_size=4, progress=False)
    same("there", "here")


def test_stopped__goes_on(embed, album, predictor, monkeypatch):
    """A share of the source, stopped by Ctrl-C in the middle, and again by another way of running.

    Rows that wait for an earlier chunk are no part of what is kept, so the stop comes at a row, not at a chunk.
    """
    from hierax.bulk import ray as driver

    real = driver.ray_rows

    def stopped(*arguments, **options):
        with contextlib.closing(real(*arguments, **options)) as rows:
            yield from itertools.islice(rows, 6)
            raise KeyboardInterrupt

    monkeypatch.setattr(driver, "ray_rows", stopped)
    with pytest.raises(KeyboardInterrupt):
        embed(album, "there/", shard="1/2", actors=1)
    assert len(hierax.open_store("there")) == 6
    hierax.embed(album, "there/", shard="1/2", model=predictor, batch_size=4, progress=False)
    hierax.embed(album, "here/", shard="1/2", model=predictor, batch_size=4, progress=False)
    same("there", "here")
    with pytest.raises(InputError, match="made in one way"):
        embed(album, "there/", shard="1/2", normalize=True)


def test_refused__before_anything_is_written(predictor, album, tmp_path, monkeypatch):
    """A cluster that does not exist, or an option without one, must not be found out after hours."""
    monkeypatch.chdir(tmp_path)
    how = {"model": predictor, "progress": False}
    with pytest.raises(InputError, match="cluster='ray'"):
        hierax.embed(album, "out/", actors=2, **how)
    for options in ({"actors": 0}, {"actors": 1.5}, {"cpus_per_actor": 0}, {"gpus_per_actor": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            hierax.embed(album, "out/", cluster="ray", **options, **how)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="ray"):
        hierax.embed(album, "out/", cluster="ray", **how)
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "on_gpu", "wanted"),
    [
        (None, None, None, False, (10, 4, 0)),
        (None, None, None, True, (2, 8, 1)),
        (3, 2, 0, True, (3, 2, 0)),
        (None, 2, 0.5, True, (4, 2, 0.5)),
        (None, 99, None, False, (1, 99, 0)),
    ],
)
def test_size__fills_the_cluster(actors, cpus, gpus, on_gpu, wanted):
    """Actors that need more than a node has wait for ever; too few leave GPUs idle."""
    from hierax.bulk.ray_cluster import Node, Size, size_of

    found = [Node(24, 0), Node(16, 2), Node(3, 0)]
    assert size_of(found, actors, cpus, gpus, on_gpu=on_gpu) == Size(*wanted)


@pytest.mark.nightly
def test_image_that_kills_its_actor__is_a_row(embed, album, predictor):
    """Asked of one actor after the other it would end them all; its neighbours must not go with it."""
    poisoned = predictor.with_model(copy.deepcopy(predictor.model))
    bad = predictor.prepare(album / "09.png")

    def end(module, inputs):
        if any((each == bad).all() for each in inputs[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    next(iter(poisoned.model.children())).register_forward_pre_hook(end)
    done = embed(album, "there/", model=poisoned, actors=1, engine="none")
    assert (done.rows, done.errors) == (COUNT - 1, len(BAD) + 1)
    rows = hierax.open_store("there").to_arrow().to_pylist()
    assert [row["id"] for row in rows] == list(range(COUNT + len(BAD)))
    assert "09.png" in next(row["error"] for row in rows if row["path"].endswith("09.png"))


@pytest.mark.nightly
def test_inputs_that_a_node_lacks__end_the_run(embed, album, monkeypatch, tmp_path):
    """A million rows that say "no such file" are a night lost; so are vectors of half of the photographs."""
    from hierax.bulk.ray_actor import Job

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(album)
    of = Job.of
    monkeypatch.setattr(Job, "of", lambda options, folder: of(options, folder=str(tmp_path / "elsewhere")))
    with pytest.raises(InputError, match="every node"):
        embed(["00.png", "gone.png"], tmp_path / "there", actors=1)
    embed(["gone.png", album / "00.png"], tmp_path / "there", actors=1)
    assert len(hierax.open_store(tmp_path / "there")) == 2
