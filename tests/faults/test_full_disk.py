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
