"""Bad requests between good ones: every good one is answered right, health is honest, and memory stays flat."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from benchmarks import serve as load
from PIL import Image

from .conftest import Served


@pytest.fixture(scope="module")
def right(predictor) -> tuple[np.ndarray, list[bytes]]:
    """Sixteen images, and the embedding of each."""
    images = load.pictures()
    return predictor.embed([Image.open(io.BytesIO(each)) for each in images]), images


def bad(host: str, images: list[bytes], numbers: range, statuses: list) -> None:
    for number in numbers:
        statuses.append(load.poison(host, images[number % len(images)], number))


def test_poison__harms_nobody(server: Served, right):
    """Bombs, cut files, 40 MB, NaN, wrong types and slow senders; a 500 would be a fault of ours."""
    running = load.Server(None, server.url.removeprefix("http://"))  # type: ignore[arg-type]
    statuses: list = []
    senders = [
        threading.Thread(target=bad, args=(running.host, right[1], range(start, start + 40), statuses))
        for start in (0, 40)
    ]
    senders.append(threading.Thread(target=load.slow, args=(running.host, 0.5)))
    for each in senders:
        each.start()
    found = load.loaded(running, *right, seconds=1.0, clients=4)
    while any(each.is_alive() for each in senders):
        found = load.loaded(running, *right, seconds=0.2, clients=4)
    assert found.wrong == 0
    assert found.refused == []
    assert {each for each in statuses if each is None or each >= 500} == set()
    assert server.client.get("/v2/health/ready").status_code == 200


@pytest.mark.nightly
def test_poison__five_hundred_mutations_between_sixteen_clients(right):
    with load.server() as running:
        health: list[int] = []
        stop, statuses = threading.Event(), []
        load.loaded(running, *right, seconds=2.0)
        threads = [threading.Thread(target=load.honest, args=(running, stop, health))]
        threads += [threading.Thread(target=load.slow, args=(running.host, 8.0)) for _ in range(20)]
        # Of ten kinds of poison one in five is a mutation: 2500 in all.
        shares = [range(start, 2500, 4) for start in range(4)]
        senders = [threading.Thread(target=bad, args=(running.host, right[1], share, statuses)) for share in shares]
        for each in (*threads, *senders):
            each.start()
        good = 0
        while any(each.is_alive() for each in senders):
            found = load.loaded(running, *right, seconds=2.0)
            good += len(found.seconds)
            assert (found.wrong, found.refused) == (0, [])
        stop.set()
        for each in threads:
            each.join()
        assert good > 100
        assert len(statuses) == 2500
        assert {each for each in statuses if each is None or each >= 500} == set()
        assert set(health) == {200}


@pytest.mark.nightly
def test_memory__is_flat_over_ten_thousand_requests(predictor):
    """Anything kept of a request would be ten thousand of it. Small images, and clients enough to fill batches."""
    images, clients = load.pictures(side=96), 8
    right = predictor.embed([Image.open(io.BytesIO(each)) for each in images])
    with load.server() as running:

        def ask(numbers: range) -> None:
            connection = running.connection()
            for number in numbers:
                if number % 10 == 9:
                    load.poison(running.host, images[number % 16], 64 * number + 5)
                    continue
                answer = load.asked(connection, images[number % 16])
                assert not isinstance(answer, int)
                assert np.abs(answer - right[number % 16]).max() < load.TOLERANCE

        def all_of(first: int, end: int) -> float:
            with ThreadPoolExecutor(clients) as pool:
                for each in [pool.submit(ask, range(first + own, end, clients)) for own in range(clients)]:
                    each.result()
            return running.resident_mb()

        memory = [all_of(first, first + 1000) for first in range(0, 10_000, 1000)]
        print("MB after each 1000 requests:", [round(each) for each in memory])
        assert memory[-1] - memory[0] < 50


@pytest.mark.nightly
def test_workers_killed_again_and_again__leave_nothing(right):
    """File descriptors and processes of workers that are gone would add up."""
    import os
    import signal
    from pathlib import Path

    with load.server() as running:
        handles = len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))
        for _ in range(3):
            worker = running.children()[0]
            os.kill(worker, signal.SIGKILL)
            end = time.monotonic() + 60
            while time.monotonic() < end and (not running.children() or running.children()[0] == worker):
                time.sleep(0.05)
            found = load.Load(refused=[503])
            while found.refused and time.monotonic() < end:
                found = load.loaded(running, *right, seconds=0.2, clients=2)
            assert (found.wrong, found.refused) == (0, [])
        assert len(running.children()) == 1
        assert len(list(Path(f"/proc/{running.process.pid}/fd").iterdir())) <= handles + 8
