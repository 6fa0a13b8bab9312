"""stdout is data and comes early, stderr is talk and can be silenced, and both may be gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types

import pytest

import hierax
from hierax.bulk.run import Row
from hierax.cli import COMMANDS, command, help_text, main
from hierax.commands import MEANINGS, Exit
from hierax.commands.common import exit_code
from hierax.predictor import Prediction

from ..members import coloured_classes, save_learner, write_png


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_classify__prints_as_results_come(desk, capsys, monkeypatch, format):
    """A consumer of a million images would see nothing for hours, and nothing at all after a crash."""
    seen = []

    def rows(predictor, paths, function, **options):
        for path in paths:
            yield Row(path, [Prediction("star", 4, 0.9)])
            seen.append(capsys.readouterr().out)

    monkeypatch.setattr("hierax.bulk.run.run", rows)
    write_png("b.png")
    assert main(["classify", "a.png", "b.png", "--format", format]) == 0
    assert len(seen) == 2
    assert "a.png" in seen[0]
    assert "b.png" not in seen[0]
    assert "b.png" in seen[1]


def test_run__yields_a_batch_before_the_next_is_decoded(desk):
    """Rows that are gathered first would need memory for all of them."""
    from hierax.bulk.run import run

    predictor, opened = hierax.load(), []
    watched = types.SimpleNamespace(
        encoder=predictor.encoder, prepare=lambda p: opened.append(p) or predictor.prepare(p)
    )
    names = [desk / "a.png"] * 200
    rows = run(watched, names, predictor.embed, batch_size=2)
    assert next(rows).error is None
    assert len(opened) < 100
    rows.close()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_quiet__before_and_after_the_command(desk, capsys, place):
    """-q must leave the data, the errors and nothing else."""
    (desk / "broken.png").write_text("no image")
    arguments = ["embed", "a.png", "broken.png", "-o", "v.npz"]
    assert main(arguments) == 3
    assert len(capsys.readouterr().err.splitlines()) == 3
    arguments.insert(place * 2, "-q")
    assert main([*arguments, "--overwrite"]) == 3
    assert capsys.readouterr() == ("", "hierax: 1 of 2 files could not be read\n")
    assert main(["--quiet", "embed", "a.png", "-o", "w.npz"]) == 0
    assert capsys.readouterr() == ("", "")


def test_verbose__shows_where_an_error_comes_from_and_no_other_library(desk, capfd):
    """Pillow logs every chunk of every PNG."""
    write_png("b.png")
    assert main(["-v", "features", "a.png", "-o", "f.npz", "--plot", "f.png"]) == 0
    assert "STREAM" not in capfd.readouterr().err
    with pytest.raises(hierax.InputError):
        main(["classify", "missing.png", "-v"])


def test_quiet__is_only_a_name_after_two_dashes(desk, capsys):
    """`-- -q` names a file."""
    write_png("-q")
    assert main(["embed", "-o", "v.npz", "--", "-q"]) == 0
    assert capsys.readouterr().err != ""


def test_closed_streams(desk):
    """`>&-` and a full disk: one line at most, never a traceback, and the exit code tells."""
    prefix = [sys.executable, "-m", "hierax"]

    def shell(line: str) -> subprocess.CompletedProcess:
        text = line.replace("hierax", " ".join(prefix), 1)
        return subprocess.run(text, shell=True, capture_output=True, text=True, check=False)

    done = shell("hierax list >&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert shell("hierax classify missing.png 2>&-").returncode == 1
    assert shell("hierax classify - <&-").returncode == 1
    done = shell("hierax list | head -1")
    assert (done.returncode, done.stderr) == (0, "")
    if os.path.exists("/dev/full"):
        done = shell("hierax list > /dev/full")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1


def test_interrupt__exits_130(desk, capsys, monkeypatch):
    """Ctrl-C is no failure of ours and leaves no half file."""

    def interrupted(*args, **options):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("hierax.bulk.local.local_rows", interrupted)
    assert main(["embed", "a.png", "-o", "v.npz"]) == 130
    assert capsys.readouterr().err == "hierax: interrupted\n"
    assert os.listdir() == ["a.png"]


def test_exit_codes__one_rule(capsys):
    """3 wherever some files failed, and help says so."""
    assert exit_code(5, 0) == 0
    assert capsys.readouterr().err == ""
    assert exit_code(5, 2) == 3
    assert "2 of 5" in capsys.readouterr().err
    assert set(MEANINGS) == set(Exit)
    for code, meaning in MEANINGS.items():
        assert f"{code:d} " in help_text()
        assert meaning in help_text()


def test_finetune__quiet_and_unreadable_samples_exit_3(tmp_path, capsys):
    """eval answered 3 and finetune 0 for the same broken file; -q left the licence, the notes and the progress."""
    data, model = coloured_classes(tmp_path / "data", per_class=4), save_learner(tmp_path / "tiny")
    arguments = [str(data), str(tmp_path / "out"), "-m", str(model), "--steps", "3", "--batch-size", "8"]
    assert main(["-q", "finetune", *arguments, "--set", "workers=0", "--device", "cpu"]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'out' / 'model'}\n", "")
    (data / "class_0" / "000.png").write_text("no image")
    arguments[1] = str(tmp_path / "again")
    assert main(["-q", "finetune", *arguments, "--set", "workers=0", "--device", "cpu"]) == 3
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'again' / 'model'}\n"
    assert captured.err == "hierax: 1 of 12 files could not be read\n"


def test_wrong_path__is_told_without_torch(desk):
    """Seconds of loading for a slip of the finger; in a script over many files, hours."""
    code = (
        "import sys; from hierax.cli import main\n"
        "codes = [main(['classify', 'b.png']), main(['embed', 'b.png', '-o', 'v.npz']), main(['list', 'zzz'])]\n"
        "sys.exit(codes != [1, 1, 1] or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help__says_what_the_docstring_says(name):
    """Two descriptions of one command drift apart."""
    assert COMMANDS[name][1] == (command(name).__doc__ or "").splitlines()[0]


def test_list__json_is_data_alone(capsys):
    """A note on stdout would break whoever parses it."""
    assert main(["list", "hieradet_small", "--format", "json"]) == 0
    assert all("hieradet_small" in row["name"] for row in json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("command", ["list", "--help", "classify --help", "--version"])
@pytest.mark.parametrize(
    ("redirected", "code", "lines"),
    [(">/dev/full", 1, 1), ("2>/dev/full", 0, 0), (">/dev/full 2>/dev/full", 1, 0), ("| true", 0, 0), (">&- 2>&-", 0, 0)],
)  # fmt: skip
def test_streams__data(desk, command, redirected, code, lines):
    """The interpreter flushes at its end too: exit code 120 and a line of its own where ours was told already."""
    if "/dev/full" in redirected and not os.path.exists("/dev/full"):
        pytest.skip("no such device here")
    line = f"set -o pipefail; {sys.executable} -m hierax {command} {redirected}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, lines), done.stderr
    assert not lines or "Cannot write the standard output: No space left on device." in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "2>&1 | true"])
def test_streams__talk(desk, redirected):
    """Exit codes are documented: 2 for usage, 3 for partial, whoever listens to stderr."""
    if "/dev/full" in redirected and not os.path.exists("/dev/full"):
        pytest.skip("no such device here")
    (desk / "bad.png").write_text("no image")
    commands = {"classify --nonsense": 2, "classify missing.png": 1, "embed a.png bad.png -o v.npz": 3}
    for arguments, code in commands.items():
        line = f"set -o pipefail; {sys.executable} -m hierax {arguments} {redirected}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == code, arguments
        assert done.stderr == ""


def test_broken_pipe__that_is_not_stdout_is_a_failure(capsys, monkeypatch):
    """A worker that dies breaks a pipe too: to answer 0 then would be a success without a result."""

    def fail(*args, **options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("hierax.weights.catalog.list_models", fail)
    assert main(["list"]) == 1
    assert "Broken pipe" in capsys.readouterr().err
