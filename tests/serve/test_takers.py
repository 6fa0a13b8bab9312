"""A client that never takes its answer, or takes it by drips, is given up: its place, the memory and the drain are others'."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from hierax.serve import Limits, Settings

from .conftest import PATIENCE_S, Served, served, until

LARGE = 24_000_000  # bytes: more than the system's buffers of a connection hold
KEPT = 1_000_000  # bytes of it that a connection may keep in this process


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """A server with a large answer and little patience; its model is not asked."""
    from starlette.responses import Response

    async def large() -> Response:
        return Response(bytes(LARGE), media_type="application/octet-stream")

    limits = Limits(send_s=2.0, headers_s=1.0, held_bytes=2 * LARGE, connections=8)
    with served(Settings(limits=limits), wait=False) as found:
        for path in ("/large", "/v2/health/large"):
            found.app.add_api_route(path, large, methods=["GET"])
        yield found


@contextlib.contextmanager
def asking(server: Served, path: str, times: int = 1, *, buffer: int = 4096) -> Iterator[socket.socket]:
    """A connection that asked, and takes nothing by itself but what its buffer holds."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        found.settimeout(PATIENCE_S)
        found.connect((host, int(port)))
        found.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * times)
        yield found


def kept(server: Served) -> int:
    """Bytes that connections keep for clients to take."""
    return sum(each.transport.get_write_buffer_size() for each in list(server.server.server_state.connections))


def rest(connection: socket.socket) -> bool:
    """Whether a connection was ended by the other side before all of a large answer was sent."""
    got = 0
    try:
        while part := connection.recv(1 << 16):
            got += len(part)
    except ConnectionError:
        pass
    return got < LARGE


def test_never_taken__is_given_up(strict, caplog):
    """Written to the connection at once, it would be in memory for as long as the client lives, and counted nowhere.

    A server that is asked to stop would end before it was sent, as well: it waits for what is active.
    """
    with asking(strict, "/large") as silent:
        until(lambda: strict.service.leaving == LARGE)
        assert strict.service.active == 1
        assert kept(strict) < KEPT
        until(lambda: strict.service.active == 0)
        assert strict.service.leaving == 0
        until(lambda: kept(strict) == 0)
        assert rest(silent)
    assert not [each for each in caplog.records if each.levelname in ("WARNING", "ERROR")]


def test_dripped__is_given_up(strict):
    """A client that takes a little now and then would begin a new time with each part of an answer."""
    with asking(strict, "/large") as slow:
        until(lambda: strict.service.leaving == LARGE)
        until(lambda: (slow.recv(4096), strict.service.active == 0)[1])
        until(lambda: kept(strict) == 0)
        assert rest(slow)


def test_taken__comes_whole(strict):
    """In parts, and byte by byte what was to be sent; many small reads are no drip."""
    with asking(strict, "/large", buffer=1 << 20) as good:
        head, got = b"", 0
        while b"\r\n\r\n" not in head:
            head += good.recv(1 << 16)
        got = len(head.partition(b"\r\n\r\n")[2])
        while got < LARGE:
            part = good.recv(1 << 16)
            assert part.count(0) == len(part)
            got += len(part)
        assert f"content-length: {LARGE}".encode() in head
    assert strict.client.get("/large").content == bytes(LARGE)


def test_memory_of_answers__is_counted(strict):
    """Two that nobody takes fill what there is; the model is not asked for a third."""
    from hierax.serve.replies import Refusal

    with asking(strict, "/large"), asking(strict, "/large"):
        until(lambda: strict.service.leaving == 2 * LARGE)
        with pytest.raises(Refusal) as refused:
            strict.service.room(4)
        assert refused.value.status == 429
        until(lambda: strict.service.leaving == 0)
        strict.service.room(4)


@pytest.mark.parametrize("times", [1, 2])
def test_health__holds_no_connection_either(strict, times):
    """It has no place to lose; a second answer behind one that is not taken would wait for ever, with its connection."""
    connections = strict.server.server_state.connections
    until(lambda: not [each for each in list(connections) if kept(strict)])
    with asking(strict, "/v2/health/large", times) as silent:
        until(lambda: kept(strict) > KEPT)
        until(lambda: kept(strict) == 0)
        assert rest(silent)
    assert strict.client.get("/v2/health/live").status_code == 200
