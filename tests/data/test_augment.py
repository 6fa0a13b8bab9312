"""Augmentation: a function of the key, and of nothing that was done before."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from hierax.data.augment import Augment
from hierax.data.decode import decode_image, decode_shrunk
from hierax.data.erase import erase, rectangle
from hierax.errors import InputError, RecipeError

from ..members import encoded, photograph

SETTINGS = {"rand_augment": (2, 9), "color_jitter": 0.4, "erasing": 0.5}


def frames(count=1):
    return np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_operations_remember_nothing(count):
    """Operations that are used again hold their last draw; a run that resumes has not made that draw."""
    change = Augment(size=(32, 32), **SETTINGS)
    in_order = [change(frames(count), key) for key in range(12)]
    for key in (7, 3, 11, 3):
        assert torch.equal(Augment(size=(32, 32), **SETTINGS)(frames(count), key), in_order[key])
    for key in range(11, -1, -1):
        assert torch.equal(change(frames(count), key), in_order[key])
    assert len({pixels.sum().item() for pixels in in_order}) > 6


@pytest.mark.parametrize(
    "settings",
    [{"rand_augment": (2, 30)}, {"rand_augment": (0, 9)}, {"rand_augment": (15, 9)}, {"rand_augment": (2, 0)},
     {"rand_augment": (2, 9), "rand_augment_std": -0.5}, {"rand_augment_std": 11.0},
     {"rand_augment_probability": 1.1}, {"crop_scale": (0.5, 0.2)},
     {"crop_ratio": (0.0, 1.0)}, {"flip": 1.5}, {"erasing": float("nan")}],
)  # fmt: skip
def test_impossible_settings(settings):
    """What nobody refuses fails in words of another library, in a worker, after the data was opened."""
    with pytest.raises(RecipeError):
        Augment(size=(32, 32), **settings)


@pytest.mark.parametrize("value", [(2, 11), [2, 15], (3, 30)])
def test_magnitudes_of_thirty_are_refused_with_the_remedy(value):
    """A recipe of hierax 0.1 counts to thirty: cut to ten in silence it would train with the strongest changes."""
    with pytest.raises(RecipeError, match=r"at most 10; got .*write a third"):
        Augment(size=(32, 32), rand_augment=value)


def test_the_global_generators_are_left_alone():
    """The network that is trained draws from torch's, and other code from the others."""
    torch.manual_seed(3)
    np.random.seed(3)
    want = torch.rand(2), np.random.rand(2)
    torch.manual_seed(3)
    np.random.seed(3)
    Augment(size=(32, 32), **SETTINGS)(frames(), 5)
    erase(torch.zeros(1, 3, 32, 32), rectangle(4, (32, 32), 1.0)[None])
    assert torch.equal(torch.rand(2), want[0])
    assert (np.random.rand(2) == want[1]).all()


@pytest.mark.parametrize("key", range(6))
def test_frames_of_a_clip_change_alike(key):
    """Each frame with its own colours, crop or noise is a film that nobody has seen."""
    still = np.repeat(frames(), 3, axis=0)
    got = Augment(size=(32, 32), **SETTINGS)(still, key)
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[2])
    clip = torch.zeros(1, 3, 4, 32, 32)
    erase(clip, rectangle(key, (32, 32), 1.0)[None])
    assert clip.any()
    assert torch.equal(clip, clip[:, :, :1].expand_as(clip))


def test_color_jitter_keeps_to_its_strength():
    """A factor drawn from 1 - s upwards only, or one for all three, gives other extremes."""
    grey = np.full((1, 40, 40, 3), 100, np.uint8)
    change = Augment(size=(8, 8), crop_scale=(1.0, 1.0), flip=0.0, color_jitter=0.4)
    values = torch.stack([change(grey, key)[0].float().mean() for key in range(400)])
    assert 60 <= values.min() < 62
    assert 138 < values.max() <= 140


# ---- erasing ---------------------------------------------------------------------------------------------------


def test_erasing_is_normal_noise_on_normalised_pixels():
    """One colour, or noise on bytes, has another mean, spread or range; bytes end at 2.6."""
    pixels = torch.full((400, 3, 64, 64), 7.0)
    places = torch.stack([rectangle(key, (64, 64), 1.0) for key in range(400)])
    erase(pixels, places)
    noise = pixels[pixels != 7.0]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert noise.abs().max() > 3.5
    for image, (top, left, height, width, _) in zip(pixels, places.tolist(), strict=True):
        assert (image[:, top : top + height, left : left + width] != 7.0).all()
        assert (image != 7.0).sum() == 3 * height * width


def test_erasing_is_drawn_as_often_as_asked_and_by_key():
    """A share of 0.25 that is drawn once a batch, or noise that is the same for all, shows."""
    places = torch.stack([rectangle(key, (64, 64), 0.25) for key in range(4000)])
    share = (places[:, 2] > 0).float().mean()
    assert abs(share - 0.25) < 0.02
    assert len(set(places[places[:, 2] > 0][:, 4].tolist())) == (places[:, 2] > 0).sum()
    one, two = (torch.zeros(3, 3, 64, 64) for _ in range(2))
    drawn = places[places[:, 2] > 0][:3]
    erase(one, drawn)
    erase(two[1:2], drawn[1:2])  # alone as in company
    assert torch.equal(one[1], two[1])
    assert not rectangle(9, (64, 64), 0.0).any()


# ---- decoding smaller ------------------------------------------------------------------------------------------


def jpeg(width, height, turned=1):
    exif = Image.Exif()
    exif[0x0112] = turned
    return encoded(photograph(width, height), "JPEG", quality=90, exif=exif.tobytes())


def test_crop_decides_how_small_a_photograph_is_decoded():
    """A crop that would have to be enlarged again loses what the network should see."""
    change = Augment(size=(64, 64), flip=0.0)
    factors = Counter()
    for key in range(300):
        top, left, bottom, right = change._box(np.random.Generator(np.random.PCG64(key)), 600, 800)
        factor = change.shrink((600, 800), key)
        factors[factor] += 1
        assert factor * 64 <= min(bottom - top, right - left)
        assert factor == 8 or min(bottom - top, right - left) < 2 * factor * 64
    assert set(factors) == {2, 4, 8}
    assert change.shrink((100, 100), 3) == 1
    assert Augment(size=(64, 64), crop_scale=(1.0, 1.0)).shrink((512, 511), 0) == 4


@pytest.mark.parametrize("turned", range(1, 9))
def test_smaller_decode_shows_the_same(turned):
    """A box in pixels of the whole image, or of the image before it is turned, cuts another place."""
    data = jpeg(1200, 900, turned)
    whole = decode_image(data)
    change = Augment(size=(64, 64), crop_scale=(0.5, 1.0))
    for key in range(8):
        small, size = decode_shrunk(data, lambda size, key=key: change.shrink(size, key))
        assert size == whole.shape[:2]
        assert small.shape[0] < whole.shape[0] / 4
        got, want = change(small[None], key, size).float(), change(whole[None], key).float()
        assert (got - want).abs().mean() < 5
    other = change(whole[None], 99).float()
    assert (got - other).abs().mean() > 25


def test_smaller_decode_is_that_of_the_whole_within_bounds():
    """What `decode_shrunk` promises, on what compresses badly: edges and grain."""
    data = jpeg(1024, 768)
    whole = Image.fromarray(decode_image(data))
    for factor in (2, 4, 8):
        small, size = decode_shrunk(data, lambda _, factor=factor: factor)
        assert size == (768, 1024)
        assert small.shape == (768 // factor, 1024 // factor, 3)
        want = np.asarray(whole.reduce(factor)).astype(int)
        assert np.abs(small - want).mean() < 2


def test_only_files_of_jpegs_are_decoded_smaller(tmp_path):
    """A PIL image of the caller's that comes back at an eighth of its size is damaged for whoever goes on with it."""
    image = photograph(400, 300)
    for form in ("PNG", "WEBP", "BMP"):
        pixels, size = decode_shrunk(encoded(image, form), lambda _: 8)
        assert pixels.shape[:2] == size == (300, 400)
    lazy = Image.open(io.BytesIO(jpeg(400, 300)))
    pixels, size = decode_shrunk(lazy, lambda _: 8)
    assert pixels.shape[:2] == size == (300, 400)
    assert lazy.size == (400, 300)
    pixels, size = decode_shrunk(np.asarray(image), lambda _: 8)
    assert pixels.shape[:2] == size == (300, 400)
    for mode in ("L", "CMYK"):
        pixels, size = decode_shrunk(encoded(image.convert(mode), "JPEG"), lambda _: 8)
        assert (pixels.shape, size) == ((38, 50, 3), (300, 400))
    both = encoded(image, "MPO", save_all=True, append_images=[image])
    assert decode_shrunk(both, lambda _: 4)[0].shape == (75, 100, 3)


def test_a_damaged_photograph_is_refused_at_any_size(tmp_path, monkeypatch):
    """Whoever asks for an eighth must not be given the grey that a decoder fills up with, or a bomb's pixels."""
    data = jpeg(1600, 1200)
    for kept in (0.3, 0.7, 0.97):
        with pytest.raises(InputError, match="decode"):
            decode_shrunk(data[: int(len(data) * kept)], lambda _: 8)
    monkeypatch.setenv("HIERAX_MAX_PIXELS", str(1600 * 1200 - 1))
    with pytest.raises(InputError, match="declares 1600 x 1200"):
        decode_shrunk(data, lambda _: 8)


@pytest.mark.parametrize(("form", "worth"), [("JPEG", True), ("PNG", False)])
def test_large_photographs_take_the_time_and_memory_of_small_ones(form, worth):
    """A crop that is drawn after decoding costs six times as much; the pixels are counted where they are held."""
    image = photograph(3000, 2000)
    data = encoded(image, form, **({"quality": 85} if worth else {"compress_level": 1}))
    change = Augment(size=(64, 64), crop_scale=(0.5, 1.0))
    pixels, size = decode_shrunk(data, lambda size: change.shrink(size, 3))
    assert size == (2000, 3000)
    assert (pixels.size < 3000 * 2000 * 3 / 60) == worth


def test_crops_have_the_shape_of_the_result():
    """Squares cut out for a strip would be stretched elevenfold, and never be seen so in validation."""
    change = Augment(size=(352, 32), crop_scale=(0.6, 1.0))
    for key in range(50):
        top, left, bottom, right = change._drawn((704, 64), key).box
        assert 0.7 < (bottom - top) / (right - left) / 11 < 1.4
        assert (bottom - top) * (right - left) > 0.55 * 704 * 64


def test_whole_images_keep_their_ends():
    """A crop of the result's shape never sees the ends of a long image; one of the image's own does, either way round."""
    for size in ((200, 16), (16, 200)):
        boxes = [Augment(size=(96, 96), whole=True, crop_scale=(0.6, 1.0))._drawn(size, key).box for key in range(50)]
        areas = [(bottom - top) * (right - left) for top, left, bottom, right in boxes]
        assert min(areas) > 0.55 * 3200
        assert min(box[0] + box[1] for box in boxes) == 0
        assert max(box[2] for box in boxes) == size[0]
        assert max(box[3] for box in boxes) == size[1]
    cropped = Augment(size=(96, 96), crop_scale=(0.6, 1.0))._drawn((200, 16), 0).box
    assert cropped[2] - cropped[0] < 25
