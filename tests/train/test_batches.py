"""The order of samples: exactly once an epoch, whatever the number of processes, parts and workers."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from hierax.config import architecture
from hierax.data import inputs, memory
from hierax.data.datasets.open import open_data
from hierax.data.datasets.samples import FileData
from hierax.data.inputs import plain_batches
from hierax.errors import HieraxError
from hierax.train import batches
from hierax.train.batches import Part, Stream, Views, random_clip, steps_of_parts
from hierax.train.methods.mae import MaskedPretraining
from hierax.train.reading import recipe_of
from hierax.train.recipe import Recipe

from ..members import LEARNER, coloured_classes, learner
from . import runs


@pytest.mark.parametrize(("n", "batch", "world", "parts"), [(37, 8, 2, 2), (5, 8, 4, 1), (64, 16, 1, 4), (33, 4, 2, 1)])
def test_every_sample_once_an_epoch(n, batch, world, parts):
    """Padding, dropping or overlapping between processes changes a count."""
    recipe = Recipe(batch_size=batch, accumulate=parts, epochs=3)
    stream = Stream(n, recipe)
    seen = Counter()
    for step in range(stream.total):
        for rank in range(world):
            for share in stream.shares(step, rank=rank, world=world, parts=parts):
                seen.update(share)
    assert seen == Counter((sample, epoch) for sample in range(n) for epoch in range(3))


def test_repeats_are_effective_epochs():
    """Counting data passes instead of views would make a run four times as long."""
    stream = Stream(100, Recipe(batch_size=40, repeats=4, epochs=8))
    assert stream.step_size == 10
    assert stream.total == 20


def test_order_depends_on_seed_and_epoch_only():
    """An order that follows the step it was first asked at would differ after resuming."""
    recipe = Recipe(batch_size=4, epochs=4)
    forward = Stream(11, recipe)
    whole = [forward.draws(step) for step in range(forward.total)]
    for step in (7, 3, 9):
        assert Stream(11, recipe).draws(step) == whole[step]
    assert Stream(11, Recipe(batch_size=4, epochs=4, seed=1)).draws(0) != whole[0]


def views_of(folder, **settings):
    recipe = recipe_of({"batch_size": 4, "epochs": 2, "workers": 0, **settings})
    return Views(open_data(folder), recipe.settings.views(learner()), LEARNER, recipe), recipe


def test_views_are_the_same_in_any_worker_and_place(tmp_path):
    """An augmentation that draws from a worker's own generator gives other pixels with other workers."""
    folder = coloured_classes(tmp_path, per_class=4)

    def all_views(workers, world):
        views, recipe = views_of(folder, workers=workers, color_jitter=0.3, erasing=0.5, rand_augment=[1, 9], epochs=1)
        stream = Stream(len(views.data), recipe)
        found = {}
        for rank in range(world):
            for parts in steps_of_parts(views, stream, recipe, start=0, rank=rank, world=world):
                for part in parts:
                    found |= {
                        s: (p, k)
                        for s, p, k in zip(part.samples, part.views["pixels"], part.keys.tolist(), strict=True)
                    }
        return found

    one, two = all_views(0, 1), all_views(2, 2)
    assert one.keys() == two.keys() == set(range(12))
    assert all(torch.equal(one[s][0], two[s][0]) and one[s][1] == two[s][1] for s in one)
    assert len({one[s][0].float().mean().item() for s in one}) == 12


@pytest.mark.parametrize(("world", "workers"), [(2, 2), (3, 2)])
def test_once_an_epoch_over_processes_and_workers(tmp_path, world, workers):
    """Real loaders with real workers on a count that nothing divides: one sample twice or never shows.

    Frameworks that pad a sampler to equal shares repeat samples, and those that drop lose them.
    """
    folder = coloured_classes(tmp_path, per_class=4, classes=2)
    coloured_classes(tmp_path / "class_1", per_class=3, classes=1, seed=1)  # eleven in all
    (folder / "class_0" / "002.png").write_bytes(b"broken")
    views, recipe = views_of(folder, workers=workers, batch_size=2 * world, accumulate=2, epochs=2)
    stream = Stream(len(views.data), recipe)
    seen, lengths = Counter(), set()
    for rank in range(world):
        steps = list(steps_of_parts(views, stream, recipe, start=0, rank=rank, world=world))
        lengths.add((len(steps), *{len(parts) for parts in steps}))
        for part in (part for parts in steps for part in parts):
            seen.update(views.data.name(sample) for sample in part.samples)
            seen.update(name for name, _ in part.failures)
    assert len(views.data) == 11
    assert seen == dict.fromkeys((views.data.name(index) for index in range(11)), 2)
    assert lengths == {(stream.total, 2)}  # no process takes another number of steps, which would hang the others


def test_starting_later_gives_the_same_steps(tmp_path):
    """A loader that must replay, or skips one step too many, differs."""
    views, recipe = views_of(coloured_classes(tmp_path, per_class=3))
    stream = Stream(len(views.data), recipe)
    every = list(steps_of_parts(views, stream, recipe, start=0, rank=0, world=1))
    late = list(steps_of_parts(views, stream, recipe, start=3, rank=0, world=1))
    assert [part[0].samples for part in late] == [part[0].samples for part in every[3:]]
    assert all(torch.equal(a[0].views["pixels"], b[0].views["pixels"]) for a, b in zip(late, every[3:], strict=True))


class Pinned(torch.Tensor):
    """A tensor that says whether it was pinned, which needs a GPU otherwise."""

    def pin_memory(self):
        return "pinned"


def test_parts_are_pinned():
    """The data loader pins what it knows, and hands anything else on as it is unless it can pin itself."""
    pixels, labels = torch.zeros(2, 3, 8, 8).as_subclass(Pinned), torch.zeros(2).as_subclass(Pinned)
    part = Part({"pixels": pixels}, labels, torch.tensor([3, 4]), [0, 1], [("a", "b")])
    got = pin_memory(part)
    assert (got.views, got.labels) == ({"pixels": "pinned"}, "pinned")
    assert (got.keys.tolist(), got.samples, got.failures) == ([3, 4], [0, 1], [("a", "b")])


@pytest.mark.parametrize(
    ("device", "gpu", "want"),
    [("cuda:1", True, True), ("auto", True, True), ("cpu", True, False), ("cuda", False, False)],
)
def test_when_parts_are_pinned(tmp_path, monkeypatch, device, gpu, want):
    """A device with an index is a GPU too; without one, pinning fails."""
    views, recipe = views_of(coloured_classes(tmp_path, per_class=2), device=device)
    asked = []

    def loader(*given, pin_memory, **options):
        asked.append(pin_memory)
        return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(inputs, "DataLoader", loader)
    assert list(steps_of_parts(views, Stream(6, recipe), recipe, start=0, rank=0, world=1)) == []
    assert asked == [want]


def test_random_clips_start_anywhere():
    """Five starts, or a start that follows from the order of draws, is not the sampling that the recipes mean."""
    film = np.broadcast_to(np.arange(80, dtype=np.uint8)[:, None, None, None], (80, 4, 4, 3))
    starts = [int(random_clip(film, 4, 4, key)[0, 0, 0, 0]) for key in range(1500)]
    assert set(starts) == set(range(65))
    assert max(Counter(starts).values()) < 60  # 23 each
    assert starts[700:720] == [int(random_clip(film, 4, 4, key)[0, 0, 0, 0]) for key in range(700, 720)]
    assert random_clip(film, 4, 4, 2**63 - 1).shape == (4, 4, 4, 3)


def test_repeats_are_different_views_of_one_read(tmp_path):
    """Copies instead of new draws would be repeated sampling in name only."""
    views, recipe = views_of(coloured_classes(tmp_path, per_class=3), repeats=2)
    parts = next(iter(steps_of_parts(views, Stream(9, recipe), recipe, start=0, rank=0, world=1)))
    samples = parts[0].samples
    assert samples[0] == samples[1] != samples[2]
    assert not torch.equal(*parts[0].views["pixels"][:2])


def test_unreadable_samples_are_named(tmp_path):
    """A loader that raises loses the run, one that substitutes hides the fault."""
    folder = coloured_classes(tmp_path, per_class=3)
    (folder / "class_1" / "001.png").write_bytes(b"<html>")
    views, recipe = views_of(folder, epochs=1)
    parts = [p for step in steps_of_parts(views, Stream(9, recipe), recipe, start=0, rank=0, world=1) for p in step]
    assert sum(len(part.views["pixels"]) for part in parts) == 8
    failures = [name for part in parts for name, _ in part.failures]
    assert failures == ["class_1/001.png"]


@pytest.mark.parametrize(("world", "workers"), [(4, 0), (2, 2), (20, 0)])
def test_validation_is_exact_over_processes(tmp_path, world, workers):
    """Padding the last batch to equal sizes counts samples twice; unequal numbers of batches hang a sharded model."""
    folder = coloured_classes(tmp_path, per_class=5)
    (folder / "class_1" / "003.png").write_bytes(b"")
    data = open_data(folder)
    given = (data, LEARNER, learner().preprocess)
    ranks = [
        list(plain_batches(*given, batch_size=2, workers=workers, rank=rank, world=world)) for rank in range(world)
    ]
    batches = [batch for rank in ranks for batch in rank]
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(indices) == len(inputs) for indices, inputs, _ in batches)
    assert sorted(i for indices, _, _ in batches for i in indices) == [i for i in range(15) if i != 8]
    assert [name for *_, bad in batches for name, _ in bad] == ["class_1/003.png"]


def test_tall_and_tiny_images_can_be_cropped(tmp_path):
    """A crop that never fits must fall back, not loop or fail."""
    from PIL import Image

    for name, size in {"a": (1, 1), "b": (3, 900), "c": (900, 2)}.items():
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / f"{name}.png")
    recipe, data = recipe_of({}), FileData(tmp_path, ["a.png", "b.png", "c.png"], [0, 0, 0], ["x"], [])
    views = Views(data, recipe.settings.views(learner()), LEARNER, recipe)
    for index in range(3):
        _, found = views[(index, 0)]
        pixels = found[0][0]["pixels"]
        assert pixels.shape == (3, 64, 64)
        assert pixels.dtype == torch.uint8


def test_a_worker_that_is_killed(tmp_path, monkeypatch):
    """The kernel kills readers when memory runs out: a hang, or torch's own traceback, tells nobody what to do."""
    views, recipe = views_of(coloured_classes(tmp_path, per_class=3), workers=1)
    monkeypatch.setattr(Views, "__getitem__", lambda self, draw: runs.die())
    with pytest.raises(HieraxError, match=r"workers=0.*--resume"):
        next(steps_of_parts(views, Stream(9, recipe), recipe, start=0, rank=0, world=1))


def test_mask_units_come_with_the_views(tmp_path):
    """Drawn in the step, one generator a sample, they hold the device up; drawn by a worker's own, a run cannot resume."""
    folder = coloured_classes(tmp_path, per_class=4)
    recipe = recipe_of({"method": "mae", "batch_size": 4, "epochs": 1, "mask_ratio": 0.5, "workers": 0})
    method = MaskedPretraining(learner(decoder=True), recipe, [])
    views = Views(open_data(folder), method.views(), method.weights.config, recipe)
    found = {}
    for workers in (0, 2):
        settings = dataclasses.replace(recipe, workers=workers)
        steps = steps_of_parts(views, Stream(12, settings), settings, start=0, rank=0, world=1)
        parts = [part for step in steps for part in step]
        found[workers] = torch.cat([part.views["visible"] for part in parts])
        assert torch.cat([part.keys for part in parts]).unique().numel() == 12
        for part in parts:
            for key, row in zip(part.keys.tolist(), part.views["visible"], strict=True):
                generator = torch.Generator().manual_seed(key)
                want = method.module.random_visible(torch.zeros(1, 1, 64, 64), 0.5, generator)[0]
                assert torch.equal(row, want)
    assert torch.equal(found[0], found[2])


def test_a_still_image_for_a_network_of_clips_is_decoded_once(tmp_path, monkeypatch):
    """A copy for each of sixteen frames, or a decode for each view, is sixteen times the memory and four times the time."""
    count = []
    real = batches.decode_shrunk
    monkeypatch.setattr(batches, "decode_shrunk", lambda *given: count.append(1) or real(*given))
    folder = coloured_classes(tmp_path, per_class=2)
    config = architecture("hiera_base_16x224")
    recipe = recipe_of({"batch_size": 4, "repeats": 2, "epochs": 1, "workers": 0})
    made = []

    class Make:
        def __call__(self, frames, key, size=None):
            made.append(frames)
            return {"pixels": torch.zeros(3)}

        def shrink(self, size, key):
            return 1

    views = Views(open_data(folder), Make(), config, recipe)
    assert len(views[0, 0][1]) == 2
    assert len(count) == 1
    assert all(frames.shape[0] == 16 and frames.strides[0] == 0 for frames in made)


def test_workers_keep_what_they_free():
    """A worker that gives every image's memory back to the system spends a tenth of its time on page faults."""
    memory.keep_freed()  # any number of times, and on systems that have no such setting
    memory.keep_freed()
