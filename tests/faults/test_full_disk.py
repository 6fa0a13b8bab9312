"""A disk that fills at any write: one line with the remedy, nothing half written, what was there unharmed.

The disk is a real one of some hundred kilobytes; libraries fail on it in ways that no mock of ours would think of.
"""

from __future__ import annotations

import pytest

from ..small_disk import on_small_disk, result_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("to", "name"), [("hierax", "m"), ("transformers", "m"), ("meta", "m.pth"), ("timm", "m.safetensors"), ("birder", "m.pt")]
)  # fmt: skip
def test_save_and_convert(tmp_path, to, name):
    """safetensors and torch raise types of their own, which were an internal error."""
    code = f"""
    import hierax
    predictor, place = hierax.load(), DISK / {name!r}
    predictor.save(place, format={to!r})
    before = listing()
    fill(left=100_000)
    said = []
    for write in (lambda: predictor.save(place, format={to!r}), lambda: hierax.convert(place, DISK / {"x" + name!r}, to={to!r})):
        try:
            write()
        except hierax.CheckpointError as error:
            said.append(str(error))
    free()
    whole = listing() == before
    predictor.save(place, format={to!r})
    print(json.dumps([said, whole, listing() == before, sorted(os.listdir(DISK))]))
    """
    said, whole, again, left = result_of(on_small_disk(tmp_path / "disk", code, size="16m"))
    assert len(said) == 2
    for line, place in zip(said, (name, f"x{name}"), strict=True):
        assert f"{place}: No space left on device. Free some space" in line
        assert "partial" not in line
    assert whole
    assert again
    assert not any("partial" in entry for entry in left)


ALBUM = """
    import tempfile
    from PIL import Image
    import numpy as np
    album = Path(tempfile.mkdtemp(dir=DISK.parent))
    for seed in range(40):
        pixels = np.random.default_rng(seed).integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(album / f"{seed}.png")
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "-o", "DISK/v.npz"],
        ["embed", "-o", "DISK/v.parquet"],
        ["features", "-o", "DISK/f.npz"],
        ["features", "-o", "DISK/../f.npz", "--overwrite", "--plot", "DISK/f.png"],
    ],
    ids=lambda value: f"{value[0]} {value[-1]}",
)
def test_results(tmp_path, arguments):
    """Half a file would be taken for a whole one; with --overwrite what was there must survive."""
    if "DISK/v.parquet" in arguments:
        pytest.importorskip("pyarrow")
    code = f"""
    {ALBUM.strip()}
    arguments = [text.replace("DISK", str(DISK)) for text in {arguments!r}]
    arguments = [arguments[0], str(album), *arguments[1:]]
    fill(left=16_000)
    codes = [main(arguments)]
    left = os.listdir(DISK)
    free()
    codes += [main(arguments)]
    whole = listing()
    fill(left=16_000)
    codes += [main([*arguments, "--overwrite"])]
    free()
    codes += [main(arguments)] if "--overwrite" not in arguments else [1]
    print(json.dumps([codes, left, whole == listing() and len(whole) == 1, sorted(os.listdir(DISK)) == sorted(whole)]))
    """
    done = on_small_disk(tmp_path / "disk", code, size="40m")
    codes, left, kept, clean = result_of(done)
    assert codes == [1, 0, 1, 1]
    assert left == ["ballast"]
    assert kept
    assert clean
    lines = [line for line in done.stderr.splitlines() if "Cannot write" in line]
    assert len(lines) == 2
    assert all("No space left on device. Free some space" in line for line in lines)
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def test_render(tmp_path):
    """Thousands of small files: the folder appears when all are there."""
    code = """
    fill(left=50_000)
    codes, lefts = [main(["render", str(DISK / "set"), "--count", "64"])], [os.listdir(DISK)]
    free()
    codes += [main(["render", str(DISK / "set"), "--count", "64"])]
    print(json.dumps([codes, lefts, len(listing())]))
    """
    done = on_small_disk(tmp_path / "disk", code, size="4m")
    assert result_of(done) == [[1, 0], [["ballast"]], 64]
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device. Free some space" in done.stderr


TRAIN = """
    from tests.members import coloured_classes, save_learner
    import hierax.train.checkpoint as checkpoints, tempfile
    away = Path(tempfile.mkdtemp(dir=DISK.parent))
    data, model = coloured_classes(away / "data", per_class=4), save_learner(away / "tiny")
    arguments = ["-q", "finetune", str(data), str(DISK / "run"), "-m", str(model), "--batch-size", "4", "--device", "cpu"]
    arguments += ["--steps", "6", "--set", "workers=0", "checkpoint_every=2", "log_every=1", "validate_every=0"]
"""


@pytest.mark.parametrize("moment", ["recipe", "log", "checkpoint", "result"])
def test_train(tmp_path, moment):
    """The disk fills at any moment of a run: one line, the newest checkpoint unharmed, and it goes on after space is made."""
    code = f"""
    {TRAIN.strip()}
    import hierax.train; runs = sys.modules["hierax.train.run"]
    from hierax.train.report import Report
    moment, armed = {moment!r}, [True]

    def before(owner, name, when=lambda *a: True):
        real = getattr(owner, name)
        def call(*a, **k):
            if armed and when(*a):
                armed.clear()
                fill()
            return real(*a, **k)
        setattr(owner, name, call)

    {{"recipe": lambda: before(runs, "keep_recipe"),
      "log": lambda: before(Report, "step", lambda report, step, *a: step == 3),
      "checkpoint": lambda: before(checkpoints, "commit", lambda folder, found: found.step == 4),
      "result": lambda: before(runs, "write_result")}}[moment]()
    codes = [main(arguments)]
    whole = [path.name for path in sorted((DISK / "run/checkpoints").glob("step*")) if checkpoints.is_valid(path)]
    hidden = [name for name in listing() if "partial" in name]
    model = os.path.lexists(DISK / "run/model")
    free()
    codes += [main([*arguments, "--resume"])]
    codes += [main(["classify", str(data / "class_0"), "-m", str(DISK / "run/model"), "--top-k", "1"])]
    print(json.dumps([codes, whole, hidden, model, [name for name in listing() if "partial" in name]]))
    """
    pytest.importorskip("accelerate")
    done = on_small_disk(tmp_path / "disk", code, size="8m")
    codes, whole, hidden, model, later = result_of(done)
    assert codes == [1, 0, 0], done.stderr
    last = {"recipe": [], "log": ["step-00000002"], "checkpoint": ["step-00000002"]}
    assert whole == last.get(moment, ["step-00000004", "step-00000006"])
    assert not model
    assert hidden == later == []
    lines = [line for line in done.stderr.splitlines() if line.startswith("hierax")]
    assert "No space left on device. Free some space" in lines[0]
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
