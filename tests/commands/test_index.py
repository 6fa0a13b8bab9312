"""`hierax index` as a user runs it: a folder that changes, a store that another command made, and the end of a watch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import hierax
from hierax.cli import main

from ..members import picture
from ..search.conftest import _album, album  # noqa: F401


def said(capsys):
    return [line.removeprefix("hierax: ") for line in capsys.readouterr().err.splitlines() if "as they were" in line][
        -1
    ]


def test_index__follows_a_folder(tmp_path, capsys, monkeypatch):
    """New, changed, deleted and broken files, by way of the real model; unchanged ones load none."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("photos")
    for number in range(3):
        picture((60, 50), number).save(f"photos/{number}.jpg")
    arguments = ["index", "photos", "store", "--workers", "0"]
    assert main([*arguments, "--columns", "embedding,stage4", "--normalize"]) == 0
    assert said(capsys).startswith("3 new")
    store = hierax.open_store("store")
    assert sorted(store.spec.vectors) == ["embedding", "stage4"]
    assert store.metadata["normalized"] is True
    code = "import sys; from hierax.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False"], done.stderr
    picture((60, 50), 9).save("photos/1.jpg")
    picture((60, 50), 8).save("photos/caf\xe9 new.jpg")
    os.unlink("photos/2.jpg")
    open("photos/broken.jpg", "w").close()
    assert main(arguments) == 3
    assert said(capsys) == "2 new, 1 changed, 1 removed, 1 as they were, 1 could not be read"
    store = hierax.open_store("store")
    own = hierax.load().embed(store.paths(), normalize=True)
    assert abs(own - store.vectors()).max() < 1e-5
    assert main(["embed", "photos", "-o", "store/", "--columns", "embedding,stage4", "--normalize"]) == 1
    assert "hierax index" in capsys.readouterr().err


def test_index__a_store_that_embed_made(album, capsys):  # noqa: F811
    """Its rows are relative, and nobody noted its files: those older than the store need no model."""
    time_before = os.stat("store/_store.json").st_mtime_ns
    os.utime("store/_store.json", ns=(time_before, time.time_ns() + 10**9))
    assert main(["index", "photos", "store"]) == 0
    assert said(capsys).startswith("0 new, 0 changed, 0 removed, 30 as")
    assert main(["index", "photos", "store", "-m", "hiera_tiny_224"]) == 1
    assert "architecture" in capsys.readouterr().err


def test_index__refusals(album, capsys):  # noqa: F811
    """Nothing to look at must not empty a store; a folder of somebody's files is no store."""
    os.mkdir("empty")
    for arguments, words in (
        (["empty", "store"], "at least one image"),
        (["nowhere", "store"], "nowhere"),
        (["photos", "photos"], "folder of its own"),
        (["photos", "store", "--columns", "stage1"], "columns"),
        (["photos", "store", "--normalize"], "Leave it out"),
        (["photos", "new", "--watch", "--interval", "0"], "interval"),
        (["photos", "new", "--columns", "nothing"], "nothing"),
    ):
        assert main(["index", *arguments]) == 1, arguments
        captured = capsys.readouterr()
        assert words in captured.err
        assert "Traceback" not in captured.err
    assert hierax.open_store("store").rows == 29
    assert not os.path.exists("new")


def test_watch__ends_in_order(album):  # noqa: F811
    """SIGTERM leaves a store that the next command can write at once."""
    command = [
        sys.executable,
        "-m",
        "hierax",
        "index",
        "photos",
        "watched",
        "--watch",
        "--interval",
        "600",
        "--workers",
        "0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "30 new" in line:
            break
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=600)[1]
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert main(["index", "photos", "watched"]) == 0
