"""Search and duplicates from the command line: what is printed where, pictures, pipes, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import hierax
from hierax.cli import main

from ..search.conftest import _album, album  # noqa: F401
from ..search.stores import write_store


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hierax", *map(str, arguments)],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_search__forms_of_output(album, capsys):  # noqa: F811
    """stdout must be the hits alone: one more line, and a pipe opens a file of that name."""
    query = hierax.open_store("store").paths()[2]
    assert main(["search", "store", query, "--top-k", "3"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == ["1.0000", query]
    assert main(["search", "store", query, query, "--top-k", "3", "--others", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3, 1, 2, 3]
    assert query not in [row["path"] for row in rows]
    assert set(rows[0]) == {"query", "rank", "path", "score", "row"}
    assert main(["search", "store", "row:2", "--top-k", "2", "--format", "paths"]) == 0
    assert capsys.readouterr().out.splitlines() == [query, table[2].split()[1]]


def test_search__vectors_and_stages_from_a_file(album, capsys):  # noqa: F811
    """Each row of a .npy file is a query of its own, in the column that was named."""
    store = hierax.open_store("store")
    np.save("queries.npy", store.vectors("stage2")[[4, 1]])
    assert main(["search", "store", "queries.npy", "--column", "stage2", "--top-k", "1", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["query"], row["row"]) for row in rows] == [("queries.npy[0]", 4), ("queries.npy[1]", 1)]


def test_search__contact_sheet(album, capsys):  # noqa: F811
    """A file that is gone must be shown as such, not end the run; a picture that is there stays."""
    store = hierax.open_store("store")
    query, gone = store.paths()[2], store.search(2, k=2)[1].path
    os.unlink(gone)
    arguments = ["search", "store", query, "--contact-sheet", "found.png", "--top-k", "5"]
    assert main(arguments) == 0
    with Image.open("found.png") as sheet:
        assert sheet.size[0] > 300
        grey = np.asarray(sheet.convert("RGB")) == (232, 233, 235)
    assert 3000 < grey.all(-1).sum() < 25000, "one tile for what is not there"
    assert main(arguments) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--crop", "5,5,40,40"]) == 0


def test_duplicates__pipe_into_a_tool_that_deletes(album):  # noqa: F811
    """What is printed for `xargs -0 rm` must be the smaller copies, exactly; after it nothing is left to delete."""
    odd = b"photos/caf\xe9 1.jpg"
    with Image.open("photos/arrow/09.jpg") as image, open(odd, "wb") as file:
        image.resize((48, 48)).save(file, "JPEG")
    hierax.embed("photos", "again/", workers=0, progress=False)
    done = run("duplicates", "again", "--threshold", "0.985", "--format", "paths", "-0")
    assert done.returncode == 0, done.stderr
    paths = done.stdout.split(b"\0")
    assert paths.pop() == b""
    assert odd in paths
    assert sum(b"-small" in path for path in paths) == 4
    assert not any(b"-large" in path for path in paths)
    for path in paths:
        os.unlink(path)
    assert run("duplicates", "again", "--threshold", "0.985", "--format", "paths", "-0").stdout == b""


def test_duplicates__groups_as_json_and_picture(album, capsys):  # noqa: F811
    """One line a file, the first of a group marked as the one to keep."""
    assert main(["duplicates", "store", "--threshold", "0.985", "--format", "jsonl", "--contact-sheet", "d.png"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    groups = {row["group"] for row in rows}
    assert [sum(row["keep"] for row in rows if row["group"] == group) for group in groups] == [1] * len(groups)
    with Image.open("d.png") as sheet:
        assert sheet.height > len(groups) * 150
    assert main(["duplicates", "store", "--threshold", "1", "--contact-sheet", "none.png"]) == 0
    assert not os.path.exists("none.png")


def test_duplicates__what_lies_in_a_shard_is_no_path(tmp_path, capsys, monkeypatch):
    """A member of a tar has a name that a deleting tool would take for a file beside it."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9)).save("a.png")
    shards, paths = ["x.tar", "x.tar", None], ["x.tar/a.png", "x.tar/b.png", "a.png"]
    write_store(tmp_path / "store", np.ones((3, 4)), paths, shard=shards, width=[9, 8, 7], height=[9, 8, 7])
    assert main(["duplicates", "store", "--format", "paths"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == ["a.png"]
    assert "1 duplicates lie in shards" in captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "store"], "at least one query"),
        (["search", "nowhere", "x.jpg"], "nowhere"),
        (["search", "photos", "x.jpg"], "photos"),
        (["search", "store", "nowhere.jpg"], "none of these"),
        (["search", "store", "photos/broken.jpg"], "broken.jpg"),
        (["search", "store", "row:0", "--crop", "1,2,3"], "x,y,width,height"),
        (["search", "store", "row:0", "--crop", "1,2,3,4"], "crop"),
        (["search", "store", "row:0", "--top-k", "0"], "top_k"),
        (["search", "store", "row:0", "--exact", "--ann"], "one of them"),
        (["search", "store", "row:0", "--null"], "--format paths"),
        (["search", "store", "row:0", "--contact-sheet", "x.jpg"], ".png"),
        (["search", "store", "row:0", "--column", "nothing"], "stage2"),
        (["search", "store", "photos/broken.jpg", "-m", "hiera_tiny_224"], "architecture"),
        (["duplicates", "store", "--threshold", "1.5"], "up to 1"),
        (["duplicates", "store", "--threshold", "nan"], "up to 1"),
    ],
)
def test_refusals(album, capsys, arguments, words):  # noqa: F811
    """One sentence with the remedy, and nothing on stdout."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_search__starts_without_torch(album):  # noqa: F811
    """A row against rows needs no network: torch would make every look-up wait for seconds."""
    code = (
        "import sys; from hierax.cli import main\n"
        "code = main(['search', 'store', 'row:1']); main(['duplicates', 'store'])\n"
        "print([name for name in ('torch', 'sklearn', 'usearch') if name in sys.modules], int(code))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr
