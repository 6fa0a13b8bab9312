"""`cluster="ray"` on two nodes, one of which dies in the middle: its part of the work goes to the other."""

from __future__ import annotations

import os

import pytest

import hierax

from ..members import write_png

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")
COUNT = 40


@pytest.mark.nightly
def test_node_that_dies__loses_and_doubles_nothing(tmp_path, monkeypatch):
    """An actor that is gone with its machine never answers, and what it had must be asked again."""
    from ray.cluster_utils import Cluster

    from hierax.bulk import local
    from hierax.bulk import ray as driver

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(local, "_TOGETHER", 4)
    (tmp_path / "album").mkdir()
    for number in range(COUNT):
        write_png(tmp_path / "album" / f"{number:02}.png", number)
    node = {"num_cpus": 1, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    real, idle, taken = driver._Fleet._take, driver._Fleet._idle, []

    def both(self):
        """No work before there are two to share it; `taken` holds what each said when it was ready."""
        return idle(self) if len(taken) >= 2 else None

    def take(self, actor, ref):
        taken.append(ref)
        real(self, actor, ref)
        if second in cluster.list_all_nodes() and len(taken) > 4:
            cluster.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(driver._Fleet, "_take", take)
    monkeypatch.setattr(driver._Fleet, "_idle", both)
    predictor = hierax.load()
    how = {"model": predictor, "batch_size": 4, "progress": False}
    try:
        done = hierax.embed(tmp_path / "album", tmp_path / "there", cluster="ray", actors=2, cpus_per_actor=1, **how)
        assert second not in cluster.list_all_nodes(), "the run was over before the node died"
    finally:
        cluster.shutdown()
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            monkeypatch.delenv(name, raising=False)
    assert (done.rows, done.errors) == (COUNT, 0)
    hierax.embed(tmp_path / "album", tmp_path / "here", **how)
    there, here = (hierax.open_store(tmp_path / name).to_arrow() for name in ("there", "here"))
    assert there["id"].to_pylist() == list(range(COUNT))
    assert there["embedding"].equals(here["embedding"])
