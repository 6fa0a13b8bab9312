"""Maps of many images in a folder of parts: exact, streamed, whole or recognisably not, and nobody's files lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hierax
from hierax.bulk.parts import claimed_folder, write_parts
from hierax.bulk.run import Row
from hierax.cli import main

from ..members import write_png
from ..small_disk import on_small_disk, result_of


@pytest.fixture
def album(tmp_path, monkeypatch):
    """Seven photographs, and two files that are none, among them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()
    for number in range(7):
        write_png(tmp_path / "album" / f"{number}.png", number)
    (tmp_path / "album" / "2b.png").write_text("no image")
    (tmp_path / "album" / "9.png").write_text("no image")
    return tmp_path / "album"


def read(folder: Path) -> tuple[list[dict], dict]:
    lines = (folder / "index.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "metadata.json").read_text("utf-8"))


def test_parts__hold_what_the_predictor_gives(album, capsys):
    """A row in the wrong part, a part of the wrong length, or a count that leaves out the failed."""
    assert main(["features", "album", "-o", "maps/", "--stages", "stage1,stage4", "--images-per-part", "3"]) == 3
    assert "maps: 7 maps each of stage1 32x24x24, stage4 256x3x3" in capsys.readouterr().err
    assert sorted(os.listdir("maps")) == [
        "index.jsonl", "metadata.json", *(f"{stage}-{part:05}.npy" for stage in ("stage1", "stage4") for part in range(3)),
    ]  # fmt: skip
    rows, about = read(Path("maps"))
    names = ["0", "1", "2", "2b", "3", "4", "5", "6", "9"]
    assert [row["path"] for row in rows] == [f"album/{name}.png" for name in names]
    assert [(row["part"], row["row"]) for row in rows] == [
        (0, 0), (0, 1), (0, 2), (None, None), (1, 0), (1, 1), (1, 2), (2, 0), (None, None),
    ]  # fmt: skip
    assert [row["error"] is None for row in rows] == [row["part"] is not None for row in rows]
    assert (about["images"], about["good"], about["failed"], about["parts"]) == (9, 7, 2, 3)
    assert about["stages"] == {"stage1": [32, 24, 24], "stage4": [256, 3, 3]}
    assert about["images_per_part"] == 3
    assert about["hierax.model"] == "hiera_nano_96"
    predictor = hierax.load()
    for row in rows:
        if row["error"] is None:
            wanted = predictor.features(row["path"])
            for stage in ("stage1", "stage4"):
                part = np.load(f"maps/{stage}-{row['part']:05}.npy", mmap_mode="r")
                assert part.dtype == np.float32
                assert part.shape[0] == (1 if row["part"] == 2 else 3)
                np.testing.assert_allclose(part[row["row"]], wanted[stage][0], atol=1e-5)


def test_parts__of_an_existing_folder_without_a_slash(album):
    """A folder is a folder, however it is written; one that is empty is nobody's."""
    Path("maps").mkdir()
    Path("link").symlink_to("maps")
    assert main(["features", "album/0.png", "-o", "link", "--stages", "stage4"]) == 0
    assert np.load("maps/stage4-00000.npy").shape == (1, 256, 3, 3)
    assert Path("link").is_symlink()


def test_npz__stays(album):
    """Files that were written yesterday must be written today."""
    assert main(["features", "album/0.png", "-o", "maps.npz"]) == 0
    assert np.load("maps.npz")["stage4"].shape == (1, 256, 3, 3)


def test_overwrite__only_maps_and_only_when_asked(album, capsys):
    """Someone's folder of photographs must not be emptied, nor yesterday's maps be mixed with today's."""
    command = ["features", "album/0.png", "album/1.png", "-o", "maps/", "--images-per-part", "1"]
    assert main(command) == 0
    before = {name: Path("maps", name).read_bytes() for name in os.listdir("maps")}
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert {name: Path("maps", name).read_bytes() for name in os.listdir("maps")} == before
    assert main([*command[:2], "-o", "maps", "--stages", "stage4", "--overwrite"]) == 0
    assert sorted(os.listdir("maps")) == ["index.jsonl", "metadata.json", "stage4-00000.npy"]
    Path("maps", "photo.jpg").write_text("precious")
    assert main([*command, "--overwrite"]) == 1
    assert "'photo.jpg'" in capsys.readouterr().err
    assert Path("maps", "photo.jpg").read_text() == "precious"
    assert main(["features", "album/0.png", "-o", "album/"]) == 1
    assert len(os.listdir("album")) == 9


@pytest.mark.parametrize("place", ["maps", "maps.npy", "maps.zarr"])
def test_names_that_are_neither__say_how_a_folder_is_written(album, capsys, place):
    """One slip must not become a folder of gigabytes somewhere, nor a riddle."""
    assert main(["features", "album/0.png", "-o", place]) == 1
    assert f"Write '{place}/'" in capsys.readouterr().err
    assert not os.path.exists(place)


@pytest.mark.parametrize("arguments", [["-o", "a.png/"], ["-o", "maps/", "--images-per-part", "0"], ["-o", "maps/", "--stages", "x"]])  # fmt: skip
def test_refusals__leave_nothing(album, capsys, arguments):
    """An empty folder left behind would be taken for a result."""
    write_png("a.png")
    assert main(["features", "album/0.png", *arguments]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not os.path.exists("maps")


def test_nothing_readable__is_told_and_written_down(album):
    """No part is no failure of the writer: the reasons are in the index."""
    assert main(["features", "album/2b.png", "album/9.png", "-o", "maps/", "--stages", "stage4"]) == 3
    rows, about = read(Path("maps"))
    assert [row["error"] is None for row in rows] == [False, False]
    assert (about["images"], about["good"], about["failed"], about["parts"]) == (2, 0, 2, 0)
    assert sorted(os.listdir("maps")) == ["index.jsonl", "metadata.json"]


def test_interrupted__leaves_nothing_and_can_be_run_again(album):
    """Half a set of maps that looks like a whole one is worse than none."""

    def rows():
        yield Row(Path("a"), {"stage4": np.zeros((2, 1, 1), np.float32)})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), claimed_folder(Path("maps"), overwrite=False) as out:
        write_parts(rows(), out, stages=["stage4"], metadata={}, images_per_part=1)
    assert not os.path.exists("maps")


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from hierax.bulk.parts import claimed_folder, write_parts
from hierax.bulk.run import Row

def rows():
    for number in range(100):
        if number == 50:
            print("half", flush=True)
            sys.stdin.readline()
        yield Row(Path(str(number)), {"stage4": np.zeros((2, 1, 1), np.float32)})

with claimed_folder(Path("maps"), overwrite=False) as out:
    write_parts(rows(), out, stages=["stage4"], metadata={}, images_per_part=10)
"""


def test_killed__and_two_at_once(album, capsys):
    """A second process must wait its turn; what a killed one left must neither count as maps nor stop the next."""
    child = subprocess.Popen([sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "half\n"
    assert main(["features", "album/0.png", "-o", "maps/"]) == 1
    assert f"process {child.pid} is writing it" in capsys.readouterr().err
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not any(name.endswith((".npy", ".json", ".jsonl")) for name in os.listdir("maps"))
    assert main(["features", "album/0.png", "-o", "maps/", "--stages", "stage4"]) == 0
    assert sorted(os.listdir("maps")) == ["index.jsonl", "metadata.json", "stage4-00000.npy"]


@pytest.mark.slow
def test_full_disk(tmp_path):
    """One line with the remedy; what was there is whole, and nothing half written stays."""
    code = """
    import contextlib, io
    import numpy as np
    from PIL import Image
    for name in "abcdef":
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(DISK / f"{name}.png")
    photos = [str(DISK / f"{name}.png") for name in "abcdef"]
    first = main(["-q", "features", photos[0], "-o", str(DISK / "maps") + "/", "--stages", "stage4"])
    before = listing()
    fill(left=200_000)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        codes = [main(["-q", "features", *photos, "-o", str(DISK / place) + "/", *more]) for place, more in (("new", []), ("maps", ["--overwrite"]))]
    free()
    print(json.dumps([first, codes, said.getvalue(), listing() == before, sorted(os.listdir(DISK))]))
    """
    first, codes, said, whole, left = result_of(on_small_disk(tmp_path / "disk", code, size="4m"))
    assert (first, codes) == (0, [1, 1])
    assert said.count("No space left on device. Free some space") == 2
    assert len(said.splitlines()) == 2
    assert whole
    assert "new" not in left


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from hierax.bulk.parts import claimed_folder, write_parts
from hierax.bulk.run import Row

marks = []
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
def rows():
    for number in range(120):
        if number == 20:
            marks.append(peak())
        yield Row(Path(str(number)), {"stage1": np.full((96, 64, 64), number, np.float32)})
with claimed_folder(Path("maps"), overwrite=False) as out:
    write_parts(rows(), out, stages=["stage1"], metadata={}, images_per_part=50)
print(peak() - marks[0])
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    """Maps of a thousand photographs of SAM 2 are 100 GB: a part that is gathered first ends the process."""
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20  # 190 MB were written
    last = np.load(tmp_path / "maps" / "stage1-00002.npy", mmap_mode="r")
    assert last.shape == (20, 96, 64, 64)
    assert (last[-1] == 119).all()
    assert last[0, 0, 0, 0] == 100
