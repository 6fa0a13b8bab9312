"""Odd but ordinary input: what people name their files, and the slips that they make. One line says what to do."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from hierax.cli import main

from ..members import write_png

NAMES = [
    "A.PNG",
    "with space.png",
    "new\nline.png",
    'quo"te, comma.png',
    "-dash.png",
    "\u00fcml\u00e4ut \u732b.png",
    "escape\x1b[31m\x9b31m.png",
    "right\u202eto left.png",
    os.fsdecode(b"not utf-8 \xff.png"),
]


@pytest.fixture
def album(desk):
    """A folder with every odd name that this file system takes."""
    folder = desk / "album"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        try:
            write_png(folder / name, seed)
        except OSError:
            pytest.skip("this file system takes no such names")
    return folder


def said(capsys, code: int) -> str:
    """The one line on stderr of a command that failed."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("hierax: ")
    assert "internal error" not in lines[0]
    assert code != 1 or not captured.out
    return lines[0]


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "hierax", *arguments], capture_output=True, check=False, **options)  # type: ignore[call-overload]


def stdin(data: bytes) -> types.SimpleNamespace:
    return types.SimpleNamespace(buffer=io.BytesIO(data))


def texts(names) -> set[str]:
    """What names become in text: bytes that are no UTF-8 as escapes."""
    return {os.fsencode(name).decode("utf-8", "backslashreplace") for name in names}


def test_names__survive_csv(album, capsys):
    """A line break or a quote that is not quoted moves every later column."""
    assert main(["classify", "album", "--top-k", "2", "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert {row["path"].removeprefix("album/") for row in rows} == texts(NAMES)
    assert [row["rank"] for row in rows] == ["1", "2"] * len(NAMES)


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_names__survive_json(album, capsys, format):
    """One line a file, whatever its name holds."""
    assert main(["classify", "album", "--format", format]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out) if format == "json" else [json.loads(line) for line in out.split("\n") if line]
    assert {row["path"].removeprefix("album/") for row in rows} == texts(NAMES)


def test_names__cannot_steer_a_terminal(album, capsys):
    """A file from the internet could clear the screen, or write lines that look like ours."""
    (album / "bro\x1b]0;title\x07ken\n.png").write_text("no image")
    assert main(["classify", "album", "--top-k", "1"]) == 3
    assert main(["embed", "album", "-o", "v.npz"]) == 3
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(text)
    lines = [line for line in captured.out.splitlines() if not line.startswith(" ")]  # a reason goes on below, indented
    assert len(lines) == len(NAMES) + 2
    assert len(captured.err.splitlines()) == 4  # one file is broken, in two commands
    assert any("new\\nline.png" in line for line in lines)
    assert "with space.png" in captured.out


@pytest.mark.slow
def test_names__as_real_processes_print_them(album):
    """A strict encoder dies on a name that is no UTF-8, and on any in a terminal of another language."""
    for encoding in ("utf-8", "ascii"):
        done = run("classify", "album", "--format", "csv", env={**os.environ, "PYTHONIOENCODING": encoding})
        assert done.returncode == 0, done.stderr
        assert b"not utf-8 \\xff.png" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16"])
def test_names__json_of_any_terminal(album, encoding):
    """What the stream escapes for want of a character, as the flag and the cat, is no escape of JSON."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run("classify", "album", "--format", "json", env={**environment, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0
    assert {record["path"] for record in json.loads(done.stdout.decode(encoding))} == {
        f"album/{n}" for n in texts(NAMES)
    }


def test_names__in_files(album):
    """Bytes that are no UTF-8 must be readable beside the vector, and be there exactly in Parquet."""
    pq = pytest.importorskip("pyarrow.parquet")
    assert main(["embed", "album", "-o", "v.npz"]) == 0
    assert {path.removeprefix("album/") for path in np.load("v.npz")["path"]} == texts(NAMES)
    assert main(["embed", "album", "-o", "v.parquet"]) == 0
    table = pq.read_table("v.parquet").to_pydict()
    assert {os.path.basename(name) for name in table["path_bytes"]} == set(map(os.fsencode, NAMES))


def test_leading_dash__after_two_dashes(desk, capsys):
    """An option named like a file must not win over the file."""
    write_png("-v")
    assert main(["classify", "--top-k", "1", "--", "-v"]) == 0
    assert "-v " in capsys.readouterr().out


def test_same_file_twice__two_rows(desk, capsys):
    """Whoever names a file twice gets as many rows as names."""
    assert main(["classify", "a.png", "./a.png", "a.png", "--format", "jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_stdin__lines_of_any_system(desk, capsys, monkeypatch, ends):
    """A carriage return kept at the end would name a file that does not exist."""
    write_png("b.png")
    monkeypatch.setattr(sys, "stdin", stdin(ends.join([b"a.png", b"", b"b.png", b""])))
    assert main(["classify", "-", "--top-k", "1", "--format", "jsonl"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_stdin__empty_or_closed(desk, capsys, monkeypatch):
    """`find ... | hierax classify -` that found nothing."""
    monkeypatch.setattr(sys, "stdin", stdin(b""))
    assert main(["classify", "-"]) == 1
    assert "'-'" in said(capsys, 1)
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["classify", "-"]) == 1
    assert "'-'" in said(capsys, 1)


@pytest.mark.parametrize("suffix", [".npz", ".NPZ", ".Parquet"])
def test_embed__writes_exactly_the_name_given(desk, suffix):
    """savez adds .npz to any other ending: an empty V.NPZ, and the vectors in a file that nobody asked for."""
    if suffix == ".Parquet":
        pytest.importorskip("pyarrow")
    assert main(["embed", "a.png", "-o", f"V{suffix}"]) == 0
    assert sorted(os.listdir()) == sorted([f"V{suffix}", "a.png"])
    if suffix != ".Parquet":
        assert np.load(f"V{suffix}")["embedding"].shape == (1, 256)


def test_features__writes_exactly_the_names_given(desk):
    """As embed; the picture too."""
    assert main(["features", "a.png", "-o", "F.NPZ", "--plot", "F.PNG", "--stages", " stage2,stage2"]) == 0
    assert sorted(os.listdir()) == ["F.NPZ", "F.PNG", "a.png"]
    assert set(np.load("F.NPZ")) == {"path", "error", "index", "stage2", "metadata"}


def test_output__into_a_missing_folder(desk):
    """It is created: the run would otherwise fail after all the work."""
    assert main(["embed", "a.png", "-o", "new/deep/v.npz"]) == 0
    assert os.listdir("new/deep") == ["v.npz"]


def test_huge_numbers__are_no_overflow(desk, capsys):
    """What exceeds a machine word reaches slicing and splitting, and fails there as an internal error."""
    huge = "9" * 30
    assert main(["classify", "a.png", "--batch-size", huge, "--top-k", huge, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 16
    assert main(["embed", "a.png", "-o", "v.npz", "--batch-size", huge]) == 0
    assert main(["features", "a.png", "-o", "f.npz", "--batch-size", huge]) == 0


REFUSED = [
    (["classify"], "Name at least one file"),
    (["classify", "empty"], "'empty'"),
    (["classify", "*.nothing"], "'*.nothing'"),
    (["classify", "b.png"], "Did you mean 'a.png'"),
    (["classify", "a.png", "--top-k", "0"], "top_k"),
    (["classify", "a.png", "--batch-size", "0"], "batch_size"),
    (["classify", "a.png", "--views", "2"], "--views"),
    (["classify", "a.png", "--device", "nonsense"], "nonsense"),
    (["classify", "a.png", "--dtype", "nonsense"], "nonsense"),
    (["classify", "a.png", "-m", "empty"], "no weights file"),
    (["classify", "a.png", "-m", ""], "Unknown model ''"),
    (["classify", "a.png", "-m", "a.png"], "neither a safetensors nor a torch file"),
    (["classify", "a.png", "-m", "hiera_tiny_223"], "Did you mean 'hiera_tiny_224'"),
    (["embed", "a.png", "-o", "new"], ".parquet or .npz"),
    (["embed", "a.png", "-o", "folder.npz"], "folder"),
    (["embed", "a.png", "-o", "a.png/v.npz"], "a.png"),
    (["embed", "a.png", "-o", "n" * 300 + ".npz"], "too long"),
    (["embed", "a.png", "-o", "v.npy"], "Did you mean '.npz'"),
    (["features", "a.png", "-o", "f.npz", "--stages", "stage9"], "stage1, stage2, stage3, stage4"),
    (["features", "a.png", "-o", "f.npz", "--stages", ","], "stage1"),
    (["features", "a.png", "-o", "f.npz", "--plot", "f.jpg"], ".png"),
    (["features", "a.png", "-o", "f.npz", "--plot", "folder.png"], "folder"),
    (["list", "zzz"], "hierax list"),
    (["list", "hieradet_smalll*", "--commercial"], "Did you mean 'hieradet_small"),
    (["describe", "a.png"], "neither a safetensors nor a torch file"),
    (["verify", "empty"], "no weights file"),
    (["convert", "a.png", "out", "--to", "hierax"], "neither a safetensors nor a torch file"),
    (["eval", "accuracy", "empty"], "CLASS/IMAGE.jpg"),
    (["finetune", "empty", "run"], "CLASS/IMAGE.jpg"),
    (["finetune", "empty", "run", "--set", "lr"], "KEY=VALUE"),
    (["finetune", "empty", "run", "--set", "lrr=1"], "'lr'"),
    (["finetune", "empty", "run", "--set", "data=other"], "data=other"),
    (["pretrain", "empty", "run", "-m", "mae_hiera_tiny_224"], "'empty'"),
    (["render", "a.png"], "a file"),
    (["render", "new", "--count", "-3"], "-3"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), REFUSED, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else ""
)
def test_refused__in_one_line(desk, capsys, arguments, words):
    """A traceback, silence, or a file left behind instead of one line with the remedy."""
    for name in ("empty", "folder.npz", "folder.png"):
        (desk / name).mkdir()
    assert main(arguments) == 1
    assert words in said(capsys, 1)
    assert {"a.png", "empty", "folder.npz", "folder.png"} >= set(os.listdir()) - {"run"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["clasify", "a.png"], "Did you mean 'classify'"),
        (["eval"], "accuracy"),
        (["embed", "a.png"], "--output"),
        (["classify", "-dash.png"], "-dash.png"),
        (["classify", "a.png", "--top-k", "five"], "five"),
        (["list", "--format", "xml"], "xml"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_usage__exits_2(desk, capsys, arguments, words):
    """A script must be able to tell its own mistake from a failure."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_unreadable__rows_and_exit_3(desk, capsys):
    """Whatever is wrong with a file, the next one is read."""
    (desk / "zero.png").write_bytes(b"")
    (desk / "link.png").symlink_to("nowhere.png")
    (desk / "folder.png").mkdir()
    os.mkfifo("pipe.png")
    names = ["zero.png", "link.png", "pipe.png", "missing.png", "a.png"]
    assert main(["classify", *names, "--format", "jsonl"]) == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [bool(row["error"]) for row in rows] == [True, True, True, True, False]
    assert main(["embed", *names, "-o", "v.npz"]) == 3
    assert (np.load("v.npz")["error"] != "").tolist() == [True, True, True, True, False]
    assert main(["features", "zero.png", "-o", "f.npz", "--plot", "f.png"]) == 3
    assert not os.path.exists("f.png")


def test_no_permission(desk, capsys):
    """A closed folder or file is said and passed over; a closed output is refused before any work."""
    os.chmod(write_png("closed.png"), 0)
    if os.access("closed.png", os.R_OK):
        pytest.skip("root may read everything")
    (desk / "closed").mkdir(mode=0o500)
    assert main(["classify", "a.png", "closed.png", "--format", "jsonl"]) == 3
    capsys.readouterr()
    assert main(["embed", "a.png", "-o", "closed/v.npz"]) == 1
    assert "cannot be written" in said(capsys, 1)


def test_features__plot_of_clips_is_refused_before_any_work(desk, capsys, monkeypatch):
    """The clips were decoded, the maps written, and then the picture failed on the first clip."""
    import hierax

    encoder = types.SimpleNamespace(config=types.SimpleNamespace(is_video=True))
    predictor = types.SimpleNamespace(encoder=encoder, card=types.SimpleNamespace(name="clips"))
    monkeypatch.setattr(hierax, "load", lambda *a, **k: predictor)
    (desk / "clip.mp4").write_bytes(b"whatever")
    assert main(["features", "clip.mp4", "-o", "f.npz", "--plot", "f.png"]) == 1
    assert "--plot" in said(capsys, 1)
    assert not os.path.exists("f.npz")
