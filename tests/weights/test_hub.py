"""Downloads against a real server that misbehaves, in processes that start with their own environment."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

import hierax
from hierax.cli import main
from hierax.errors import IntegrityError
from hierax.weights.catalog import resolve
from hierax.weights.hub import fetch

from .. import warm
from ..net import server
from ..net.server import COMMIT, Hub

pytestmark = pytest.mark.slow  # nearly every test starts a process
SOURCE = str(Path(__file__).parents[2] / "src")
WEIGHTS = b"\x80\x02" + bytes(range(256)) * 200  # begins as a torch file does
SHA = hashlib.sha256(WEIGHTS).hexdigest()
RESOLVE = "/org/repo/resolve/main/"
PRELUDE = """
import dataclasses, json, sys
from pathlib import Path
import hierax.net.transfer as transfer
from hierax.config import architecture
from hierax.weights.catalog import CatalogEntry, resolve
from hierax.weights.hub import fetch, fetch_source, announce_license
from hierax.errors import HieraxError
transfer._FIRST_WAIT_S = 0.01
HUB = {hub!r}
def entry(**fields):
    return CatalogEntry(name="toy", config=architecture("hiera_tiny_224"), format="meta", **fields)
def fetch_repo(name):
    return fetch_source(name)[0]
def fetch_url(url, sha256=""):
    return fetch(entry(url=url, sha256=sha256))
def tell(call):
    try:
        print(json.dumps(["ok", str(call())]))
    except HieraxError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def hub(web):
    web.repos["org/repo"] = {
        "config.json": b'{"a": 1}',
        "preprocessor_config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "pytorch_model.bin": b"never needed",
        "README.md": b"never needed",
    }
    web.plain["toy.pth"] = WEIGHTS
    return web


def start(hub, home, code, *, patience_s=20, **extra):
    """A process that begins with our environment, forked from one that has torch; and the files that it prints to."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HIERAX_"))},
        "PYTHONPATH": SOURCE,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_ETAG_TIMEOUT": str(patience_s),
        "HF_HUB_DOWNLOAD_TIMEOUT": str(patience_s),
        **extra,
    }
    nothing, printed, said = files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  `answers` closes them
    child = warm.start(
        [],
        code=PRELUDE.format(hub=hub.url) + code,
        files=tuple(file.fileno() for file in files),
        environment=environment,
        forget=("hierax", "huggingface_hub"),
    )
    nothing.close()
    return child, printed, said


def answers(started):
    """Each `tell` of a process as (kind, text), and its stderr."""
    child, *files = started
    code, texts = child.wait(), []
    for file in files:
        with file:
            file.seek(0)
            texts.append(file.read().decode())
    assert code == 0, texts[1]
    return [tuple(json.loads(line)) for line in texts[0].splitlines()], texts[1]


def run(hub, home, code, **extra):
    return answers(start(hub, home, code, **extra))


REPO = 'tell(lambda: fetch_repo("org/repo"))'
URL = f'tell(lambda: fetch_url(HUB + "/plain/toy.pth", sha256="{SHA}"))'


def test_fetch_repo__brings_configs_and_one_weights_file_only(hub, tmp_path):
    """A snapshot of everything would double the download; missing configs would lose labels and sizes."""
    [(kind, folder)], _ = run(hub, tmp_path, REPO)
    assert kind == "ok"
    assert sorted(p.name for p in Path(folder).iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS
    assert Path(folder).name == COMMIT


def test_fetch_repo__second_time_hashes_nothing_and_downloads_nothing(hub, tmp_path):
    """Verifying on every load would read gigabytes each start; refetching would be worse."""
    code = "import hierax.net.cache as i\ncalls = []\nreal = i.sha256_of\n"
    code += "i.sha256_of = lambda p: (calls.append(p), real(p))[1]\n" + REPO + "\ntell(lambda: len(calls))"
    (_, (_, first)), _ = run(hub, tmp_path, code)
    gets = hub.count("GET", "model.safetensors")
    (_, (_, second)), _ = run(hub, tmp_path, code)
    assert (first, second) == ("1", "0")
    assert gets == hub.count("GET", "model.safetensors") == 1


def test_fetch_repo__four_processes_download_once(hub, tmp_path):
    """Without a lock across processes, a cluster start downloads each file once for every worker."""
    processes = [start(hub, tmp_path, REPO + "\n" + URL) for _ in range(4)]
    results = [answers(process)[0] for process in processes]
    assert {kind for result in results for kind, _ in result} == {"ok"}
    assert len({tuple(result) for result in results}) == 1
    assert hub.count("GET", "model.safetensors") == hub.count("GET", "toy.pth") == 1


def test_fetch__same_size_corruption_is_deleted_and_fetched_once_more(hub, tmp_path):
    """huggingface_hub accepts wrong bytes of the right length; so would a loader without sha256."""
    hub.faults[f"GET {RESOLVE}model.safetensors"] = ["wrong", "right"]
    hub.faults["GET /plain/toy.pth"] = ["wrong", "right"]
    [(kind, folder), (kind_url, path)], err = run(hub, tmp_path, REPO + "\n" + URL)
    assert (kind, kind_url) == ("ok", "ok")
    assert (Path(folder) / "model.safetensors").read_bytes() == Path(path).read_bytes() == WEIGHTS
    assert hub.count("GET", "model.safetensors") == hub.count("GET", "toy.pth") == 2
    assert err.count("deleted") == 2


def test_fetch__wrong_bytes_twice_is_an_integrity_error_and_leaves_nothing(hub, tmp_path):
    """A file left behind would be taken from the cache by the next call, or by another program."""
    hub.faults[f"GET {RESOLVE}model.safetensors"] = ["wrong"]
    hub.faults["GET /plain/toy.pth"] = ["wrong"]
    results, _ = run(hub, tmp_path, REPO + "\n" + URL)
    assert [kind for kind, _ in results] == ["IntegrityError", "IntegrityError"]
    assert all("sha256" in text for _, text in results)
    assert hub.count("GET", "model.safetensors") == hub.count("GET", "toy.pth") == 2
    left = [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size == len(WEIGHTS)]
    assert left == []


def test_fetch__corruption_in_the_cache_is_found(hub, tmp_path):
    """A flipped byte in a cached file loads without complaint; size alone does not see it."""
    [(_, folder), (_, path)], _ = run(hub, tmp_path, REPO + "\n" + URL)
    for victim in (Path(folder) / "model.safetensors", Path(path)):
        victim = victim.resolve()
        victim.write_bytes(b"x" + WEIGHTS[1:])
        os.utime(victim, (1, 1))
    results, _ = run(hub, tmp_path, REPO + "\n" + URL + '\ntell(lambda: fetch_url(HUB + "/plain/toy.pth"))')
    assert [kind for kind, _ in results] == ["ok"] * 3
    assert (Path(folder) / "model.safetensors").read_bytes() == Path(path).read_bytes() == WEIGHTS


def test_fetch__catalogue_hash_goes_before_the_hub_and_superseded_is_accepted(hub, tmp_path):
    """A replaced upload agrees with the hub's own tag; only the catalogue notices it."""
    old = "\ntell(lambda: fetch(entry(repo='org/repo', file='model.safetensors', sha256='0' * 64%s)%s))"
    code = old % ("", "") + old % (f", superseded=('{SHA}',)", "") + old % ("", ", revision='main'")
    [(refused, text), (old_kind, path), (pinned, _)], err = run(hub, tmp_path, code)
    assert (refused, old_kind, pinned) == ("IntegrityError", "ok", "ok")
    assert "0" * 64 in text
    assert "revision=" in text
    assert Path(path).read_bytes() == WEIGHTS
    assert "earlier published version" in err


def test_fetch__offline_uses_the_cache_and_says_what_is_missing(hub, tmp_path):
    """Offline mode that still asks the network hangs on machines without one."""
    run(hub, tmp_path, REPO + "\n" + URL)
    before = len(hub.log)
    code = REPO + "\n" + URL + '\ntell(lambda: fetch_repo("org/other"))\ntell(lambda: fetch_url(HUB + "/plain/b.pth"))'
    results, _ = run(hub, tmp_path, code, HF_HUB_OFFLINE="1")
    assert [kind for kind, _ in results] == ["ok", "ok", "CheckpointError", "CheckpointError"]
    assert len(hub.log) == before
    assert "HF_HUB_OFFLINE" in results[3][1]


def test_fetch__cached_copy_serves_when_the_hub_is_down(hub, tmp_path):
    """An outage must not stop a machine that has the weights."""
    run(hub, tmp_path, REPO)
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        hub.faults[f"* {RESOLVE}{name}"] = [503]
    [(kind, _)], err = run(hub, tmp_path, REPO)
    assert kind == "ok"
    assert "using the cached" in err


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "UnknownNameError", "HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "CheckpointError", "accept"),
        (429, {"Retry-After": "0"}, "CheckpointError", "wait"),
        (500, {}, "CheckpointError", "later"),
    ],
)
def test_fetch_repo__refusals_name_a_remedy(hub, tmp_path, status, headers, kind, words):
    """A raw HTTP traceback tells a newcomer nothing; endless retries tell even less."""
    hub.faults[f"* {RESOLVE}model.safetensors"] = [{"status": status, "headers": headers}]
    [(got, text)], _ = run(hub, tmp_path, REPO)
    assert got == kind, text
    assert words in text
    assert len(hub.log) <= 6


def test_fetch__unknown_repository_revision_and_file(hub, tmp_path):
    """All three are 404; taken for one another they send the user the wrong way."""
    code = "\n".join(
        f"tell(lambda: {call})"
        for call in (
            'fetch_repo("org/nothing")',
            'fetch_repo("org/repo@nothing")',
            'fetch(entry(repo="org/repo", file="nothing.pt"))',
            'fetch_repo("not a repo/at/all")',
            'fetch_url(HUB + "/plain/nothing.pth")',
            'fetch_url("ftp://host/file")',
            'fetch(resolve("hieradet_d_small"))',
            'fetch(resolve("hiera_base_abswin_256"))',
        )
    )
    results, _ = run(hub, tmp_path, code)
    kinds = [kind for kind, _ in results]
    assert kinds == ["UnknownNameError"] * 2 + ["CheckpointError", "UnknownNameError"] + ["CheckpointError"] * 4
    assert "nothing.pt" in results[2][1]
    assert "404" in results[4][1]
    assert "hieradet_d_small_dino-v2-imagenet12k" in results[6][1]
    assert "hierax.create" in results[7][1]


def test_fetch_url__refusals_loops_and_error_pages(hub, tmp_path):
    """Any of these saved as a weights file fails later, far from its cause."""
    wanted = {"loop": "circle", "html": "web page", 403: "refused", 500: "later", 429: "wait"}
    code = ""
    for number, fault in enumerate(wanted):
        hub.plain[f"{number}.pth"] = WEIGHTS
        hub.faults[f"GET /plain/{number}.pth"] = [fault]
        code += f'\ntell(lambda: fetch_url(HUB + "/plain/{number}.pth"))'
    results, _ = run(hub, tmp_path, code)
    for (kind, text), words in zip(results, wanted.values(), strict=True):
        assert kind == "CheckpointError", text
        assert words in text
    assert hub.count("GET", "2.pth") == 1
    assert hub.count("GET", "3.pth") == 5
    assert not [p for p in tmp_path.rglob("*.pth") if p.is_file()]


def test_fetch_url__resumes_a_short_body_and_gives_up_on_a_stall(hub, tmp_path):
    """Without Range each cut starts from zero; without a timeout a stall waits for ever."""
    hub.plain["big.pth"] = WEIGHTS * 20
    hub.faults["GET /plain/big.pth"] = ["short", "short", "right"]
    hub.plain["cut.pth"] = WEIGHTS
    hub.faults["GET /plain/cut.pth"] = [500, 503, "right"]
    hub.faults["GET /plain/toy.pth"] = ["stall"]
    first, second, third = (f'tell(lambda: fetch_url(HUB + "/plain/{n}.pth"))\n' for n in ("big", "cut", "toy"))
    [(_, path), (kind, _)], _ = run(hub, tmp_path, f"transfer.ATTEMPTS = 3\n{first}{second}")
    [(stalled, text)], _ = run(hub, tmp_path, f"transfer.ATTEMPTS = 2\n{third}", patience_s=1)
    assert Path(path).read_bytes() == WEIGHTS * 20
    ranges = [h.get("Range") for _, p, h in hub.log if p.endswith("big.pth")]
    assert ranges[0] is None
    assert ranges[1].startswith("bytes=")
    assert kind == "ok"
    assert stalled == "CheckpointError"
    assert "reachable" in text


def test_fetch_repo__stall_and_redirect_loop_end(hub, tmp_path):
    """huggingface_hub alone retries a stalled answer for six minutes."""
    hub.repos["org/loop"] = {"model.safetensors": WEIGHTS}
    hub.faults["* /org/loop/resolve/main/model.safetensors"] = ["loop"]
    hub.faults[f"HEAD {RESOLVE}model.safetensors"] = ["stall"]
    [(stalled, text)], _ = run(hub, tmp_path, "transfer.ATTEMPTS = 2\n" + REPO, patience_s=1)
    [(looped, loop_text)], _ = run(hub, tmp_path, 'tell(lambda: fetch_repo("org/loop"))')
    assert (stalled, looped) == ("CheckpointError", "CheckpointError")
    assert "reachable" in text
    assert "circle" in loop_text


def test_fetch_repo__short_body_from_the_hub_is_repeated(hub, tmp_path):
    """A body cut on its way has a valid beginning; only its length or hash tells."""
    hub.faults[f"GET {RESOLVE}model.safetensors"] = ["short", "right"]
    [(kind, folder)], _ = run(hub, tmp_path, REPO)
    assert kind == "ok"
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS


def test_fetch__token_never_leaves_the_hub(hub, tmp_path):
    """The hub redirects weights to a storage host; forwarding the header there gives the account away."""
    foreign = Hub()
    with contextlib.closing(foreign):
        foreign.repos = hub.repos
        foreign.plain = hub.plain
        hub.elsewhere = foreign.url
        code = REPO + f'\ntell(lambda: fetch_url("{foreign.url}/plain/toy.pth"))'
        results, _ = run(hub, tmp_path, code, HF_TOKEN="hf_secret")
        assert [kind for kind, _ in results] == ["ok", "ok"]
        assert foreign.count("GET", "model.safetensors") == foreign.count("GET", "toy.pth") == 1
        assert all(
            "hf_secret" in headers.get("authorization", headers.get("Authorization", "")) for _, _, headers in hub.log
        )
        assert "hf_secret" not in json.dumps(foreign.log)


def test_fetch_repo__sharded_and_unusual_weights(hub, tmp_path):
    """An index without its shards, or a repository with only a .pt file, would load nothing."""
    index = json.dumps({"weight_map": {"a": "a-1.safetensors", "b": "b-2.safetensors"}}).encode()
    hub.repos["org/shards"] = {"model.safetensors.index.json": index, "a-1.safetensors": b"1", "b-2.safetensors": b"2"}
    hub.repos["org/evil"] = {"model.safetensors.index.json": b'{"weight_map": {"a": "../../x"}}'}
    hub.repos["org/pt"] = {"net.pt": WEIGHTS, "net.json": b"{}", "other.txt": b""}
    hub.repos["org/two"] = {"a.pt": WEIGHTS, "b.pt": WEIGHTS}
    hub.repos["org/none"] = {"README.md": b""}
    code = "\n".join(f'tell(lambda: fetch_repo("org/{name}"))' for name in ("shards", "evil", "pt", "two", "none"))
    [(_, shards), (evil, _), (_, pt), (two, text), (none, _)], _ = run(hub, tmp_path, code)
    assert len(list(Path(shards).iterdir())) == 3
    assert (evil, two, none) == ("CheckpointError",) * 3
    assert Path(pt).name == "net.pt"
    assert (Path(pt).parent / "net.json").is_file()
    assert "a.pt, b.pt" in text
    offline, _ = run(hub, tmp_path, code.splitlines()[2], HF_HUB_OFFLINE="1")
    assert offline == [("ok", pt)]


def test_fetch_url__hub_address_goes_through_the_hub_cache(hub, tmp_path):
    """Fetched as a plain URL it would have no token, no hash and a second copy on disk."""
    code = f'tell(lambda: fetch_url(HUB + "{RESOLVE}model.safetensors"))'
    [(kind, path)], _ = run(hub, tmp_path, code)
    assert kind == "ok"
    assert COMMIT in path


@pytest.mark.parametrize(("quiet", "times"), [("", 1), ("1", 0)])
def test_announce_license__once_and_on_stderr(hub, tmp_path, quiet, times):
    """Said on stdout it corrupts piped data; said on every load, or with -q, it is noise; unsaid it misleads products."""
    code = "for _ in range(3):\n    announce_license(resolve('hiera_tiny_224'))\n    announce_license(resolve('sam2_hiera_tiny'))"
    results, err = run(hub, tmp_path, code, HIERAX_QUIET=quiet)
    assert results == []
    assert [err.count(word) for word in ("CC-BY-NC-4.0", "NON-COMMERCIAL", "APACHE-2.0")] == [times] * 3


def test_fetch__cache_that_takes_no_notes_still_serves(hub, tmp_path):
    """Containers mount the cache read-only; a lock or a note that must be written would break them."""
    run(hub, tmp_path, REPO)
    shutil.rmtree(tmp_path / "hierax")
    (tmp_path / "hierax").write_text("not a folder, so nothing can be written here")
    [(kind, text), (refused, remedy)], _ = run(hub, tmp_path, REPO + "\n" + URL)
    assert kind == "ok", text
    assert refused == "CheckpointError"
    assert "HF_HOME" in remedy


@pytest.mark.parametrize("left", [len(WEIGHTS) // 2, len(WEIGHTS)])
def test_fetch_url__continues_what_a_killed_process_left(hub, tmp_path, left):
    """A partial file as long as the whole makes the server answer 416, at every later start."""
    url = hub.url + "/plain/toy.pth"
    folder = tmp_path / "hierax" / "urls" / hashlib.sha256(url.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    (folder / "toy.pth.part").write_bytes(WEIGHTS[:left])
    (folder / "toy.pth.part.etag").write_text(f'"{hashlib.sha1(WEIGHTS).hexdigest()}"')
    [(kind, path)], _ = run(hub, tmp_path, URL)
    assert kind == "ok", path
    assert [p.name for p in folder.iterdir()] == ["toy.pth"]
    assert hub.log[0][2]["Range"] == f"bytes={left}-"


def test_load__takes_an_address(tmp_path, web, cache, capsys):
    """A file somebody shares has no catalogue and no repository; its permit belongs to no message."""
    web.plain["shared.pth"] = hierax.convert("hiera_nano_96", tmp_path / "shared.pth", to="meta").read_bytes()
    url = f"{web.url}/plain/shared.pth?permit=s3cret"
    theirs, ours = hierax.load(url, name="hiera_nano_96"), hierax.load()
    assert all(map(torch.equal, theirs.model.state_dict().values(), ours.model.state_dict().values()))
    assert "s3cret" not in str(theirs.card) + capsys.readouterr().err
    for call in (lambda: hierax.describe(url), lambda: hierax.load(url, revision="main")):
        with pytest.raises(hierax.errors.HieraxError) as caught:
            call()
        assert "s3cret" not in str(caught.value)


def verify(path, capsys):
    """Exit code of `hierax verify` and what it says."""
    code = main(["verify", str(path)])
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture
def shared(tmp_path, web, cache, monkeypatch):
    """The address of a whole checkpoint, and a catalogue that names it without a hash, at an address and at the hub."""
    written = hierax.convert("hiera_nano_96", tmp_path / "shared.pth", to="meta")
    web.plain["shared.pth"] = web.repos.setdefault("org/repo", {})["shared.pth"] = written.read_bytes()
    model = '[[model]]\nname = "{}"\narchitecture = "hiera_nano_96"\nformat = "meta"\nlicense = "mit"\ninput_size = [96, 96]\n'
    text = model.format("by_url") + f'url = "{web.url}/plain/shared.pth"\n'
    text += model.format("by_hub") + 'repo = "org/repo"\nfile = "shared.pth"\n'
    (tmp_path / "catalog.toml").write_text(text)
    monkeypatch.setenv("HIERAX_CATALOG", str(tmp_path / "catalog.toml"))
    monkeypatch.setattr(constants, "ENDPOINT", web.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache.parent / "hub"))
    return web


def other(content):
    """Another checkpoint of the same length: one bit of one weight differs."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("name", ["by_url", "by_hub"])
def test_verify_reads_every_byte_of_the_cache(shared, capsys, name):
    """A flipped bit leaves size and time as they were; a check that looks at those alone calls the file whole."""
    path = fetch(resolve(name))
    code, said = verify(name, capsys)
    assert code == 0, said
    assert "the hub's own" in said if name == "by_hub" else "unchanged since its first download" in said
    whole, status = path.read_bytes(), path.stat()
    path.resolve().write_bytes(other(whole))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fetch(resolve(name)).read_bytes() != whole  # cheap looks cannot see it
    for source in (path, name):
        path.resolve().write_bytes(other(whole))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        fetch(resolve(name)) if source == name else None
        code, said = verify(path, capsys)
        assert code == 1
        assert "changed since" in said
        assert fetch(resolve(name)).read_bytes() == whole
        status = path.stat()


@pytest.mark.parametrize("name", ["by_url", "by_hub"])
def test_what_was_fetched_first_is_what_is_accepted_later(shared, cache, capsys, name):
    """Nobody published a hash: another file at the same place, a year later, would be loaded without a word."""
    first = fetch(resolve(name)).read_bytes()
    said = capsys.readouterr().err
    assert ("nobody published a hash" in said) == (name == "by_url")
    for folder in ("urls", "verified", "../hub"):
        shutil.rmtree(cache / folder, ignore_errors=True)
    shared.plain["shared.pth"] = shared.repos["org/repo"]["shared.pth"] = other(first)
    with pytest.raises(IntegrityError, match="first download") as caught:
        fetch(resolve(name))
    assert not list(cache.parent.rglob("shared.pth"))
    record = Path(str(caught.value).split("delete ")[1].split(" and")[0])
    record.unlink()
    assert fetch(resolve(name)).read_bytes() == other(first)


def test_a_branch_that_moved_leaves_the_cached_weights_in_use(shared, cache, monkeypatch, capsys):
    """What was trusted must not be exchanged because the hub has a new commit."""
    first = fetch(resolve("by_hub")).read_bytes()
    shared.repos["org/repo"]["shared.pth"] = other(first)
    monkeypatch.setattr(server, "COMMIT", "0" * 40)
    assert fetch(resolve("by_hub")).read_bytes() == first
    assert "the cached one is used" in capsys.readouterr().err
    assert fetch(resolve("by_hub"), revision="main").read_bytes() == other(first)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"sha256": 5}', b"[" * 5000, b"\xff"])
def test_a_damaged_record_is_as_good_as_none(shared, cache, damage):
    """A bad block in the cache must not be an error at every start."""
    path = fetch(resolve("by_url"))
    (record,) = (cache / "first-use").iterdir()
    record.write_bytes(damage)
    assert fetch(resolve("by_url")) == path
