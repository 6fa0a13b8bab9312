"""Batches, and the process behind them: what fails fails alone, and a process that is lost is replaced."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from hierax.serve import Settings
from hierax.serve import line as watched
from hierax.serve.line import Item, Line
from hierax.serve.model import Failed, Model
from hierax.serve.replies import Refusal

from .conftest import PATIENCE_S, SOON_S, until


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(Settings())


def inputs(count: int, side: int = 96) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32))


def test_exception__fails_one_item(model, monkeypatch):
    """One bad item that failed its batch would fail strangers' requests."""
    good, run, calls = model.answer(inputs(4), [["embedding"]] * 4), model._run, []

    def touchy(batch, names):
        calls.append(len(batch))
        if (batch == 7).any():
            raise RuntimeError("a kernel of a length of 7")
        return run(batch, names)

    monkeypatch.setattr(model, "_run", touchy)
    asked = inputs(4)
    asked[2] = np.full_like(asked[2], 7)
    found = model.answer(asked, [["embedding"]] * 4)
    assert isinstance(found[2], Failed)
    assert not found[2].blamed
    assert "7" not in found[2].message
    for index in (0, 1, 3):
        assert np.abs(found[index][0] - good[index][0]).max() < 1e-5
    assert calls == [4, 1, 1, 1, 1]


def test_not_finite__fails_one_item(model):
    asked = inputs(3)
    asked[1] = np.full_like(asked[1], 3e38)
    found = model.answer(asked, [["embedding"], ["embedding"], ["embedding", "stage1"]])
    assert [isinstance(each, Failed) for each in found] == [False, True, False]
    assert [each.shape for each in found[2]] == [(256,), (32, 24, 24)]


def test_items_of_one_size_go_together():
    """Mixed sizes cannot be stacked; maps that only some asked for would be made for all."""
    keys = [Item(np.zeros(shape), names).key for shape in ((3, 32, 32), (3, 32, 64)) for names in (("embedding",), ("logits",), ("stage1",))]  # fmt: skip
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_batches_take_what_waits(server):
    """Items that came while the model was at work go together; a lone one does not wait for others."""
    line = server.service.line
    os.kill(line.worker, signal.SIGSTOP)
    before = _batches(server)
    try:
        first = line.submit(inputs(1), ["embedding"])
        until(lambda: line.depth == 0)
        small, large = line.submit(inputs(3), ["embedding"]), line.submit(inputs(2, 128), ["embedding"])
        more = line.submit(inputs(2), ["logits", "embedding"])
    finally:
        os.kill(line.worker, signal.SIGCONT)
    found = [each.answer.result(PATIENCE_S) for each in (*first, *small, *large, *more)]
    assert [len(each) for each in found] == [1, 1, 1, 1, 1, 1, 2, 2]
    # 1 alone; of the size in front the next four, then the other size, then what is left.
    assert [a - b for a, b in zip(_batches(server), before, strict=True)] == [2, 3, 4]
    again = [each.answer.result(PATIENCE_S)[0] for each in line.submit(inputs(3), ["embedding"])]
    assert np.abs(np.array(again) - np.array([each[0] for each in found[1:4]])).max() < 1e-5


def _batches(server) -> list[int]:
    """How many batches had at most 1, 2 and 4 images."""
    text = server.service.metrics.text().decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("hierax_batch_size_bucket"))
    counts = [int(float(lines[f'hierax_batch_size_bucket{{le="{size}.0"}}'])) for size in (1, 2, 4)]
    return [counts[0], counts[1], counts[2]]


def test_cancelled_items__are_passed_over(server):
    line = server.service.line
    os.kill(line.worker, signal.SIGSTOP)
    try:
        first = line.submit(inputs(1), ["embedding"])
        until(lambda: line.depth == 0)
        left = line.submit(inputs(2), ["embedding"])
        assert all(each.answer.cancel() for each in left)
    finally:
        os.kill(line.worker, signal.SIGCONT)
    first[0].answer.result(PATIENCE_S)
    until(lambda: line.pending == 0)


def test_killed_worker__is_replaced(server, images):
    """In mid-load: not ready soon, every request answered or refused with 503, ready again by itself."""
    right = server.post("/classify", images[0]).json()
    said, stop = [], threading.Event()

    def load() -> None:
        while not stop.is_set():
            answer = server.post("/classify", images[0])
            said.append((answer.status_code, answer.json()))
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
                stop.wait(0.05)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for each in threads:
        each.start()
    until(lambda: len(said) > 20)
    lost = server.service.line.worker
    os.kill(lost, signal.SIGKILL)
    until(lambda: server.client.get("/v2/health/ready").status_code == 503, SOON_S)
    assert server.client.get("/v2/health/live").status_code == 200
    until(lambda: server.client.get("/v2/health/ready").status_code == 200)
    before = len(said)
    until(lambda: len(said) > before + 20)
    stop.set()
    for each in threads:
        each.join()
    assert server.service.line.worker != lost
    assert {status for status, _ in said} == {200, 503}
    assert all(_same(answer, right) for status, answer in said if status == 200)
    assert "hierax_worker_restarts_total 0.0" not in server.service.metrics.text().decode()


def _same(one: list[dict], other: list[dict]) -> bool:
    return all(
        a["label"] == b["label"] and abs(a["score"] - b["score"]) < 1e-5 for a, b in zip(one, other, strict=True)
    )


def test_worker_that_cannot_be_understood__is_replaced(server, monkeypatch):
    """An error in the thread that watches would leave a server that never gets ready again."""
    line, real, spoilt = server.service.line, watched.receive, []

    def once(connection):
        found = real(connection)
        spoilt.append(found)
        return found if len(spoilt) > 1 else ({}, [])

    lost = line.worker
    monkeypatch.setattr(watched, "receive", once)
    until(lambda: line.worker != lost and line.ready)
    assert len(line.submit(inputs(1), ["embedding"])[0].answer.result(PATIENCE_S)) == 1


def test_silent_worker__is_not_ready(server):
    """A process that lives and does nothing: the web thread's word would be that all is well."""
    os.kill(server.service.line.worker, signal.SIGSTOP)
    try:
        until(lambda: server.client.get("/v2/health/ready").status_code == 503, SOON_S)
        assert server.client.get("/v2/health/live").status_code == 200
    finally:
        os.kill(server.service.line.worker, signal.SIGCONT)
    until(lambda: server.client.get("/v2/health/ready").status_code == 200)


def test_worker_that_stays_silent__is_replaced(server, monkeypatch):
    """Not ready for ever is no end: what it was at is refused, and what waits goes to the next one."""
    line = server.service.line
    lost = line.worker
    os.kill(lost, signal.SIGSTOP)
    [at] = line.submit(inputs(1), ["embedding"])
    until(lambda: line.depth == 0)
    [waits] = line.submit(inputs(1), ["embedding"])
    with monkeypatch.context() as short:  # for this one alone: the next one may be slow to say how it is
        short.setattr(watched, "_LOST_S", 0.5)
        short.setattr(watched, "_PAUSES_S", (0.0,))
        until(lambda: line.worker != lost)
    with pytest.raises(Refusal) as refused:
        at.answer.result(PATIENCE_S)
    assert (refused.value.status, refused.value.retry_after) == (503, 2)
    assert waits.answer.result(PATIENCE_S)[0].shape == (256,)
    assert not os.path.exists(f"/proc/{lost}")
    until(lambda: line.ready)


def test_worker_that_is_too_long_at_a_batch__is_replaced(server, monkeypatch):
    """It says four times a second that it lives, and would hold everybody up for ever."""
    line = server.service.line
    lost, settings = line.worker, line._settings
    with monkeypatch.context() as short:
        short.setattr(watched, "_PAUSES_S", (0.0,))
        short.setattr(line, "_settings", replace(settings, limits=replace(settings.limits, batch_s=1e-3)))
        items = line.submit(inputs(4, 1024), ["stage1"])
        until(lambda: line.worker != lost)
    for each in items:
        with pytest.raises(Refusal) as refused:
            each.answer.result(PATIENCE_S)
        assert refused.value.status == 503
    until(lambda: line.ready)
    assert line.submit(inputs(1), ["embedding"])[0].answer.result(PATIENCE_S)[0].shape == (256,)


def test_model_that_cannot_be_loaded__is_said_once(tmp_path):
    line = Line(Settings(model=str(tmp_path / "nothing")))
    line.start()
    assert "nothing" in until(lambda: line.failure)
    with pytest.raises(Refusal):
        line.submit(inputs(1), ["embedding"])
    line.close()
