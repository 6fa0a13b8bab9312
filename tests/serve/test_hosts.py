"""A web page of a stranger reaches nothing of a server on loopback: neither by a name of its own nor by a form."""

from __future__ import annotations

import socket

import pytest

from hierax.errors import InputError
from hierax.serve import Settings
from hierax.serve.hosts import bound_to, foreign

from ..members import plain_image


def asked(settings: Settings, *fields: tuple[str, str], server: tuple | None = ("127.0.0.1", 8000)) -> bool:
    """Whether a request with these fields is answered."""
    scope = {"server": server, "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields]}
    return foreign(scope, settings) is None


OWN = [
    "localhost",
    "LOCALHOST:8000",
    "127.0.0.1",
    "127.0.0.1:8000",
    "127.0.0.1:9000",
    "[::1]",
    "[::1]:8000",
    "localhost.",
]
OTHERS = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example@127.0.0.1",
    "127.0.0.1@evil.example",
    "localhost:8000:evil.example",
    "localhost/evil.example",
    "localhost evil.example",
    "localhost,evil.example",
    "evil-localhost",
    "[::1]evil.example",
    "[::1",
    "::1",
    "2130706433",
    "192.168.0.1",
    "0.0.0.0",
    "",
    " ",
    ":8000",
    "*",
    "localhost\x00",
    "locälhost",
]  # fmt: skip


@pytest.mark.parametrize("host", OWN)
def test_names_of_this_machine__are_answered(host):
    """A tunnel comes from another port; a check of the port would keep out its owner and nobody else."""
    assert asked(Settings(), ("host", host))


@pytest.mark.parametrize("host", OTHERS)
def test_other_names__are_refused(host):
    """A test of how the name begins or ends would be passed by a name that somebody registers."""
    assert not asked(Settings(), ("host", host))


def test_no_name_or_two__are_refused():
    """Of two, a proxy and this server may each heed another."""
    assert not asked(Settings())
    assert not asked(Settings(), ("host", "localhost"), ("host", "evil.example"))
    assert not asked(Settings(), ("host", "evil.example"), ("host", "localhost"))


@pytest.mark.parametrize("server", [("10.0.0.7", 8000), ("::", 8000), None, ("", None)])
def test_elsewhere_than_loopback__any_name(server):
    """A proxy in front of it says the name that its clients said."""
    assert asked(Settings(), ("host", "models.example"), server=server)


def test_with_a_key__any_name():
    """A page of a stranger has no key."""
    assert asked(Settings(key="k"), ("host", "models.example"), ("origin", "https://elsewhere.example"))


def test_named_hosts__are_all_that_is_answered():
    """Named ones hold with a key, and elsewhere than on loopback, too; this machine's own stay."""
    for settings in (Settings(hosts=("Models.example",)), Settings(hosts=("models.example",), key="k")):
        for server in (("127.0.0.1", 80), ("10.0.0.7", 80)):
            assert asked(settings, ("host", "models.EXAMPLE:443"), server=server)
            assert asked(settings, ("host", "localhost"), server=server)
            assert not asked(settings, ("host", "evil.example"), server=server)
            assert not asked(settings, ("host", "a.models.example"), server=server)
        assert asked(settings, ("host", "10.0.0.7"), server=("10.0.0.7", 80))
    assert asked(Settings(hosts=("*",)), ("host", "evil.example"), ("origin", "https://evil.example"))


@pytest.mark.parametrize(
    ("fields", "answered"),
    [
        ({"origin": "http://127.0.0.1:8000"}, True),
        ({"origin": "http://localhost:3000"}, True),  # another program of this machine, or a proxy that changes Host
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),  # a sandboxed frame
        ({"origin": "file://"}, False),
        ({"origin": "localhost"}, False),
        ({"origin": "https://localhost.evil.example"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),  # <img src=.../search/images/7>
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),  # a link to the page
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, True),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, True),
    ],
)
def test_pages_of_elsewhere__are_refused(fields, answered):
    """They cannot read an answer, and could keep the model busy with images that nobody asked for."""
    assert asked(Settings(), ("host", "127.0.0.1:8000"), *fields.items()) == answered


def test_where_it_listens__decides(monkeypatch):
    """0.0.0.0 is reached over loopback by a proxy on the same machine; a name may be loopback's."""
    assert bound_to(Settings(), "127.0.0.1").hosts is None
    assert bound_to(Settings(), "::1").hosts is None
    assert bound_to(Settings(), "localhost").hosts is None
    assert bound_to(Settings(), "0.0.0.0").hosts == ("*",)
    assert bound_to(Settings(), "::").hosts == ("*",)
    assert bound_to(Settings(), "").hosts == ("*",)  # as 0.0.0.0
    assert bound_to(Settings(hosts=("a",)), "0.0.0.0").hosts == ("a",)
    assert bound_to(Settings(key="k"), "0.0.0.0").hosts is None
    found = {"here": "127.0.1.1", "there": "192.0.2.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, _: [(0, 0, 0, "", (found[host], 0))])
    assert bound_to(Settings(), "here").hosts == ("here",)
    assert bound_to(Settings(), "there").hosts == ("*",)


@pytest.mark.parametrize("host", ["", "http://a", "a:80", "a/b", "a b", "[::1]", "*.example.com", "-a", "a" * 300])
def test_hosts__are_names(host):
    with pytest.raises(InputError, match="A host is a name"):
        Settings(hosts=(host,))


def test_settings_of_the_environment():
    for host in ("models.example", "10.0.0.7", "fe80::1", "*"):
        assert Settings.from_dict({"hosts": [host]}).hosts == (host,)


def decoded(server) -> list[str]:
    """How many images were decoded, as the metrics say it."""
    return [each for each in server.service.metrics.text().decode().splitlines() if "decode_seconds_count" in each]


def test_refusal__is_told_and_costs_nothing(server, images):
    """Every address, health too: a probe that says all is well would hide that nobody else is answered."""
    host = {"Host": "evil.example:8000"}
    for path in ("/", "/page/page.js", "/docs", "/metrics", "/v2", "/v2/health/ready", "/search/images/0", "/nowhere"):
        said = server.client.get(path, headers=host)
        assert (said.status_code, said.json()["error_type"]) == (403, "Forbidden")
        assert "access-control-allow-origin" not in said.headers
    before = decoded(server)
    said = server.post("/classify", images[0], headers=host)
    assert (said.status_code, said.json()["error_type"]) == (403, "Forbidden")
    assert "evil.example" in said.json()["error"]
    assert "--allow-host" in said.json()["error"]
    assert decoded(server) == before


def test_form_of_another_page__is_refused_before_it_is_read(server):
    """A form needs no leave of the browser's to be sent; its files would be decoded."""
    said = server.client.post(
        "/classify",
        files=[("file", ("a.png", plain_image(), "image/png"))] * 3,
        headers={"Origin": "https://a.example"},
    )
    assert said.status_code == 403
    assert "https://a.example" in said.json()["error"]
    large = server.post("/classify", b"x" * 3_000_000, "text/plain", headers={"Origin": "https://a.example"})
    assert large.status_code == 403
    assert server.post("/classify", plain_image(), headers={"Origin": server.url}).status_code == 200
