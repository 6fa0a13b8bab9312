"""What one client may cost the others is bounded, and a refusal costs next to nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hierax.serve import Limits, Settings

from ..members import encoded, picture, plain_image
from .conftest import PATIENCE_S, Served, served, until
from .test_dialects import data_address

KEY = "a key"


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """A server that allows little, and asks for a key; a busy machine sends a request within its times."""
    limits = Limits(
        body_bytes=40_000,
        pixels=10_000,
        items=2,
        requests=6,
        queue=3,
        headers_s=4.0,
        receive_s=4.0,
        connections=40,
        held_bytes=60_000,
        answer_bytes=100_000,
    )
    with served(Settings(limits=limits, key=KEY, batch_size=1)) as found:
        found.client.headers["Authorization"] = f"Bearer {KEY}"
        yield found


@pytest.fixture(scope="module")
def hasty() -> Iterator[Served]:
    """A server whose times are so short that tests can wait for their end."""
    with served(Settings(limits=Limits(headers_s=0.3, receive_s=0.3), key=KEY), wait=False) as found:
        yield found


def refused(said, status: int, kind: str) -> None:
    assert (said.status_code, said.json()["error_type"]) == (status, kind), said.text


def test_bytes(strict):
    """A body that says how long it is, and one that does not."""
    refused(strict.post("/classify", b"x" * 40_001), 413, "TooLarge")
    refused(strict.post("/classify", (b"x" * 10_000 for _ in range(9))), 413, "TooLarge")
    until(lambda: strict.service.active == 0)


def test_pixels(strict):
    """A bomb is refused by what it declares, before any pixel is there."""
    bomb = plain_image(size=(101, 100))
    refused(strict.post("/classify", bomb), 422, "Validation")
    assert strict.post("/classify", plain_image(size=(100, 100))).status_code == 200


def test_pixels__are_this_server_s_alone(strict, predictor):
    """A limit kept in the environment would be that of every other reader of images in the process."""
    strict.post("/classify", plain_image())
    assert predictor.embed(picture((200, 200))).shape == (1, 256)


def test_items(strict):
    texts = [data_address(plain_image())] * 3
    refused(strict.client.post("/v1/embeddings", json={"input": texts}), 413, "TooLarge")


@pytest.mark.parametrize("path", ["/classify", "/v1/embeddings", "/features", "/search", "/nowhere"])
@pytest.mark.parametrize("key", ["", "Bearer wrong", f"Basic {KEY}", "Bearer", f"Bearer {KEY}x"])
def test_key(strict, path, key):
    said = strict.post(path, plain_image(), headers={"Authorization": key})
    refused(said, 401, "Unauthorized")
    assert said.headers["www-authenticate"] == "Bearer"


def test_key__not_for_health_and_words(strict):
    for path in ("/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"):
        assert strict.client.get(path, headers={"Authorization": ""}).status_code == 200
    assert strict.client.get("/metrics", headers={"Authorization": ""}).status_code == 401


def test_encoding__is_refused(strict):
    """Forty bytes of gzip are forty megabytes of zeros."""
    refused(strict.post("/classify", b"x", headers={"Content-Encoding": "gzip"}), 415, "Validation")


def opened(server: Served) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


HEAD = f"POST /classify HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Type: image/png\r\n"


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes: head and body of an answer may come apart."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


def test_slow_body__is_given_up(hasty):
    """A client that sends a byte now and then would hold its place for ever."""
    with opened(hasty) as slow:
        slow.sendall(f"{HEAD}Content-Length: 100\r\n\r\nx".encode())
        said = everything(slow)
    assert b"408" in said.split(b"\r\n")[0]
    assert b'"Timeout"' in said
    until(lambda: hasty.service.active == 0)


def test_slow_head__is_closed(hasty):
    with opened(hasty) as slow:
        slow.sendall(b"POST /classify HTTP/1.1\r\nHost:")
        assert slow.recv(100) == b""
    with opened(hasty) as idle:
        assert idle.recv(100) == b""


def test_second_head__is_not_waited_for_either(hasty):
    """The clock must start again after an answer, for connections are used again."""
    with opened(hasty) as slow:
        slow.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in slow.recv(4096)
        slow.sendall(b"GET /v2/health/live HTTP/1.1\r\n")
        until(lambda: slow.recv(100) == b"")


def test_slow_senders__leave_room(strict):
    """Six places that slow senders hold: others are told so at once, and are answered when these are given up."""
    slow = [opened(strict) for _ in range(6)]
    for each in slow:
        each.sendall(f"{HEAD}Content-Length: 100\r\n\r\nx".encode())
    until(lambda: strict.service.active == 6)
    said = strict.post("/classify", plain_image())
    refused(said, 429, "Overloaded")
    assert int(said.headers["retry-after"]) >= 1
    assert strict.client.get("/v2/health/live").status_code == 200
    assert strict.service.active == 6  # none was waited for
    for each in slow:
        each.recv(100)
        each.close()
    until(lambda: strict.service.active == 0)
    assert strict.post("/classify", plain_image()).status_code == 200


def test_answer_bytes(strict):
    """Maps are a thousand times larger than the request for them."""
    refused(strict.post("/features", plain_image()), 413, "TooLarge")
    assert strict.post("/features?stage=stage4", plain_image()).status_code == 200


def test_held_bytes(strict):
    """Bodies that are each allowed must not fill the memory together."""
    slow = [opened(strict) for _ in range(2)]
    for each in slow:
        each.sendall(f"{HEAD}Content-Length: 39000\r\n\r\n".encode() + b"x" * 35_000)
    said = [each.recv(4096).split(b"\r\n")[0] for each in slow]
    assert sorted(b"429" in each for each in said) == [False, True]
    assert all(b"429" in each or b"408" in each for each in said)
    for each in slow:
        each.close()


def test_connections(strict):
    """Sockets are the system's, and few."""
    idle = [opened(strict) for _ in range(45)]
    closed = [each.recv(4096) for each in idle]
    assert any(each.startswith(b"HTTP/1.1 503") for each in closed)
    assert any(each == b"" for each in closed)
    for each in idle:
        each.close()


def test_full_line__is_told(strict):
    """With the model held up, a place in the line is all there is; nobody waits outside it."""
    import os
    import signal

    image = encoded_one()
    os.kill(strict.service.line.worker, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(6) as pool:
            under_way = [pool.submit(strict.post, "/classify", image)]
            until(lambda: (strict.service.line.pending, strict.service.line.depth) == (1, 0))  # the model has it
            under_way += [pool.submit(strict.post, "/classify", image) for _ in range(3)]
            until(lambda: strict.service.line.depth == 3)
            refused(strict.post("/classify", image), 429, "Overloaded")
            assert strict.client.get("/v2/health/ready").status_code == 503
            os.kill(strict.service.line.worker, signal.SIGCONT)
            assert [each.result().status_code for each in under_way] == [200] * 4
    finally:
        os.kill(strict.service.line.worker, signal.SIGCONT)
    until(lambda: strict.service.ready)


def encoded_one() -> bytes:
    return plain_image(size=(64, 64))


def test_client_that_goes_away__is_not_worked_for(strict):
    import os
    import signal

    os.kill(strict.service.line.worker, signal.SIGSTOP)
    try:
        leaving = opened(strict)
        image = encoded_one()
        leaving.sendall(f"{HEAD}Content-Length: {len(image)}\r\n\r\n".encode() + image)
        until(lambda: strict.service.line.pending == 1)
        leaving.close()
        until(lambda: strict.service.active == 0)
    finally:
        os.kill(strict.service.line.worker, signal.SIGCONT)
    until(lambda: strict.service.line.pending == 0)


def test_junk_on_the_socket__harms_nobody(strict):
    rng = np.random.default_rng(0)
    for junk in (
        b"\x16\x03\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        rng.bytes(500),
        b"POST /classify HTTP/1.1\r\n" + b"A: b\r\n" * 9000,
    ):
        with opened(strict) as other:
            other.sendall(junk)
            other.settimeout(5)
            try:
                while other.recv(4096):
                    pass
            except OSError:
                pass
    assert strict.post("/classify", encoded(picture((50, 50)))).status_code == 200
