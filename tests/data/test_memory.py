"""The bound on the memory of all threads that decode: kept, fair, and never in the way."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from PIL import Image

from hierax.data import decode, memory
from hierax.data.decode import decode_image, decoded
from hierax.data.loader import map_batches
from hierax.data.memory import Budget

from ..members import encoded, picture


def in_threads(count, work):
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_never_more_than_the_total():
    """A check without the addition, or an addition outside of the lock, lets two in where one fits."""
    budget, lock, seen = Budget(100), threading.Lock(), [0, 0]

    def work(index):
        for size in (30, 45, 1, 250, 70):  # 250 are more than there is, and mean alone
            with budget.hold(size):
                with lock:
                    seen[0] += min(size, 100)
                    seen[1] = max(seen)
                with lock:
                    seen[0] -= min(size, 100)

    in_threads(8, work)
    assert 0 < seen[1] <= 100


def test_first_come_first_served():
    """Small requests that overtake let a large one wait for ever."""
    budget, served = Budget(10), []
    first = budget.hold(10)
    first.__enter__()
    threads = []
    for name, size in (("large", 9), ("small", 2)):

        def work(name=name, size=size):
            with budget.hold(size):
                served.append(name)

        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()
        while len(budget._line) < len(threads):
            pass
    first.__exit__(None, None, None)
    for thread in threads:
        thread.join(60)
    assert served == ["large", "small"]


def test_errors_give_back():
    """What a failed decode keeps is missing until the end of the process."""
    budget = Budget(10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.hold(10):
            raise ZeroDivisionError
    assert not budget._held


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork_while_others_decode():
    """A forked child has the locks of threads that it does not have, and would wait for them for ever."""
    data = encoded(picture(), "PNG")
    entered, leave = threading.Event(), threading.Event()

    def work():
        with memory.PIXELS.hold(memory.PIXELS.total), decode._lock:
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    entered.wait(60)
    child = os.fork()
    if child == 0:
        threading.Timer(120, os._exit, (9,)).start()
        os._exit(0 if decode_image(data).shape == (32, 48, 3) else 1)
    _, status = os.waitpid(child, 0)
    leave.set()
    thread.join(60)
    assert os.waitstatus_to_exitcode(status) == 0


def test_decoders_wait_for_each_other(monkeypatch):
    """Each thread alone is within its bound; all together are eight times above it."""
    budget, most = Budget(3 * 40_000), []
    monkeypatch.setattr(decode, "PIXELS", budget)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    real = decode.rgb_of
    monkeypatch.setattr(
        decode, "rgb_of", lambda *args, **more: most.append(sum(budget._held.values())) or real(*args, **more)
    )

    def prepare(item):
        with decoded(item) as pixels:
            return torch.from_numpy(pixels[:2, :2].copy())

    data = [encoded(Image.new("RGB", (60, 60)), form) for form in ("GIF", "WEBP", "PNG", "JPEG", "AVIF") * 6]
    batches = list(map_batches(data, prepare, batch_size=8))
    assert sum(len(batch.indices) for batch in batches) == 30
    assert 40_000 < max(most) <= budget.total
    assert not budget._held
