"""Clips: which frames, upright, and as the image recipe prepares them."""

from __future__ import annotations

import builtins
import contextlib
import weakref

import numpy as np
import pytest
import torch

from hierax.config import PreprocessSpec
from hierax.data import video
from hierax.data.preprocess import preprocess
from hierax.data.video import clip_indices, preprocess_clip, read_clip
from hierax.errors import InputError, MissingExtraError

from ..members import write_clip


def numbered(count) -> np.ndarray:
    """Frames of 32 x 48 whose six black and white bars spell their number; compression cannot blur that."""
    bits = np.arange(count)[:, None] >> np.arange(6) & 1  # (count, 6)
    bars = np.repeat(bits * 255, 8, axis=1).astype(np.uint8)  # (count, 48)
    return np.broadcast_to(bars[:, None, :, None], (count, 32, 48, 3))


def numbers(clip) -> np.ndarray:
    """The numbers that (..., 32, 48, 3) frames spell."""
    bars = clip.astype(float).reshape(*clip.shape[:-3], 32, 6, 8, 3).mean(axis=(-4, -2, -1))
    return ((bars > 128) << np.arange(6)).sum(-1)


@pytest.mark.parametrize(
    ("total", "views", "want"),
    [
        (100, 1, [[42, 46, 50, 54]]),
        (16, 1, [[0, 4, 8, 12]]),
        (6, 1, [[0, 4, 5, 5]]),
        (1, 2, [[0, 0, 0, 0], [0, 0, 0, 0]]),
        (100, 3, [[0, 4, 8, 12], [42, 46, 50, 54], [84, 88, 92, 96]]),
    ],
)
def test_clip_indices(total, views, want):
    """A clip from the start instead of the centre, or running past the end."""
    assert clip_indices(total, 4, 4, views) == want


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
@pytest.mark.parametrize(("frames", "stride", "views"), [(4, 4, 1), (4, 4, 3), (16, 4, 1), (3, 1, 2)])
def test_file__right_frames(tmp_path, codec, frames, stride, views):
    """Seeking that lands on a key frame, or B-frames in decoding order, gives other frames."""
    path = write_clip(tmp_path / "clip.mp4", numbered(60), codec)
    got = read_clip(path, frames=frames, stride=stride, views=views)
    assert got.shape == (views, frames, 32, 48, 3)
    assert numbers(got).tolist() == clip_indices(60, frames, stride, views)


def test_file__size_scales_the_shorter_side(tmp_path):
    """`size` bounds memory; it must keep the aspect ratio and never enlarge."""
    path = write_clip(tmp_path / "clip.mp4", numbered(8))
    assert read_clip(path, frames=2, stride=1, size=16).shape == (1, 2, 16, 24, 3)
    assert read_clip(path, frames=2, stride=1, size=100).shape == (1, 2, 32, 48, 3)


def test_file__other_container(tmp_path):
    """AVI packets carry no presentation times of B-frames."""
    path = write_clip(tmp_path / "clip.avi", numbered(40))
    got = read_clip(path, frames=4, stride=4)
    assert numbers(got).tolist() == clip_indices(40, 4, 4, 1)


def test_file__cut_short(tmp_path):
    """A cut file either decodes in part or is refused; FFmpeg's own errors stay inside."""
    path = write_clip(tmp_path / "clip.avi", numbered(60))
    data = path.read_bytes()
    cut = tmp_path / "cut.avi"
    for percent in (0, 1, 10, 50):
        cut.write_bytes(data[: len(data) * percent // 100])
        with contextlib.suppress(InputError):
            assert read_clip(cut, frames=4).shape == (1, 4, 32, 48, 3)
    cut.write_bytes(data[: len(data) * 9 // 10])
    assert read_clip(cut, frames=4).shape == (1, 4, 32, 48, 3)


@pytest.mark.parametrize(
    "data",
    [b"<html>", bytes(5000), b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile 'a.mp4'\n"],
)
def test_file__no_video(tmp_path, data):
    """A playlist that calls itself a video must not make FFmpeg open what it names."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    pytest.importorskip("av")
    with pytest.raises(InputError, match=r"clip\.mp4"):
        read_clip(path)


def test_array__sampling():
    """Already sampled clips must not be sampled again; longer ones must."""
    video = numbered(16)
    np.testing.assert_array_equal(read_clip(video)[0], video)
    assert read_clip(video, views=2).shape == (2, 16, 32, 48, 3)
    longer = numbered(100)
    np.testing.assert_array_equal(read_clip(longer)[0], longer[18 : 18 + 64 : 4])
    shorter = numbered(10)
    np.testing.assert_array_equal(read_clip(shorter)[0], shorter[[0, 4, 8, *[9] * 13]])


@pytest.mark.parametrize(
    "source",
    [np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8), 3, "no.mp4"],
)
def test_refused(source):
    """What is no clip."""
    with pytest.raises(InputError):
        read_clip(source)


@pytest.mark.parametrize("options", [{"frames": 0}, {"stride": 0}, {"views": -1}, {"size": 0}, {"frames": 2.5}])
def test_options_refused(options):
    """Empty clips would fail much later."""
    with pytest.raises(InputError):
        read_clip(numbered(20), **options)


def test_missing_extra(monkeypatch, tmp_path):
    """Without PyAV the error must name the extra."""
    real = builtins.__import__

    def without_av(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(MissingExtraError, match=r"hierax\[video\]"):
        read_clip(tmp_path / "x.mp4")


@pytest.mark.parametrize(
    ("total", "start", "want"),
    [(100, 0.0, 0), (100, 0.999, 84), (100, 0.5, 42), (16, 0.999, 0), (17, 0.5, 1), (3, 0.7, 0)],
)
def test_start(total, start, want):
    """A start that never reaches the last place, or goes beyond it, leaves frames out or repeats the last."""
    assert clip_indices(total, 4, 4, 1, start)[0][0] == want
    if total < 64:
        assert numbers(read_clip(numbered(total), frames=4, stride=4, start=start))[0, 0] == want


@pytest.mark.parametrize("options", [{"start": 1.0}, {"start": -0.1}, {"start": 0.5, "views": 2}])
def test_start_refused(options):
    """A clip beyond the end, or a start that several views ignore."""
    with pytest.raises(InputError, match="start"):
        read_clip(numbered(20), frames=2, **options)


def test_one_clip_decodes_no_other(tmp_path, monkeypatch):
    """Decoding five views to keep one takes five times as long; so does decoding from the first frame on."""
    path = write_clip(tmp_path / "clip.mp4", numbered(60), gop=6)
    real, decoded, shown = video._frames_from, [], []
    monkeypatch.setattr(video, "_frames_from", lambda *given: (decoded.append(1) or each for each in real(*given)))
    to_rgb = video._to_rgb
    monkeypatch.setattr(video, "_to_rgb", lambda *given: shown.append(1) or to_rgb(*given))
    got = read_clip(path, frames=4, stride=2, start=0.8)
    assert numbers(got).tolist() == [[42, 44, 46, 48]]
    assert len(shown) == 4
    assert 7 <= len(decoded) <= 7 + 6  # seven from first to last, and at most one group from its key frame


def test_preprocess_clip():
    """Time after channels, every frame by the image recipe."""
    spec = PreprocessSpec(size=(32, 32), mean=(0.45,) * 3, std=(0.225,) * 3)
    video = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), dtype=np.uint8)
    got = preprocess_clip(video, spec)
    assert got.shape == (3, 5, 32, 32)
    assert torch.equal(got[:, 3], preprocess(video[3], spec))
    with pytest.raises(InputError):
        preprocess_clip(video[0], spec)


def test_size_changes_midway(tmp_path):
    """Frames of two sizes do not stack: NumPy's own error would end the run of a thousand clips."""
    parts = []
    for width in (64, 96):
        frames = np.full((20, 48, width, 3), 90, np.uint8)
        parts.append(write_clip(tmp_path / f"{width}.mpg", frames, "mpeg1video").read_bytes())
    path = tmp_path / "both.mpg"
    path.write_bytes(b"".join(parts))
    for options in ({"stride": 2}, {"stride": 2, "views": 3}, {"stride": 1, "views": 2}):
        with pytest.raises(InputError, match=r"size|shape"):
            read_clip(path, frames=16, **options)


def test_frames_beyond_memory(tmp_path, monkeypatch):
    """Sixteen frames of 100 megapixels in five views are 24 GB."""
    path = write_clip(tmp_path / "clip.mp4", numbered(20))
    monkeypatch.setattr(video, "_CLIP_BYTES", 4 * 32 * 48 * 3)
    assert read_clip(path, frames=4).shape == (1, 4, 32, 48, 3)
    with pytest.raises(InputError, match="fewer views"):
        read_clip(path, frames=4, views=2)
    assert read_clip(path, frames=4, views=2, size=16).shape == (2, 4, 16, 24, 3)


def test_nothing_else_is_opened(tmp_path, monkeypatch):
    """A list that names another video, with the name of a video itself: FFmpeg plays the other file."""
    write_clip(tmp_path / "other.mp4", numbered(20))
    path = tmp_path / "clip.mp4"
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"clip\.mp4"):
        read_clip("clip.mp4", frames=2)
    formats = f"{video._CONTAINERS},concat"
    monkeypatch.setattr(video, "_RESTRICTED", {**video._RESTRICTED, "format_whitelist": formats})
    with pytest.raises(InputError, match=r"clip\.mp4"):  # the second bar holds alone
        read_clip("clip.mp4", frames=2)
    import av

    with open("clip.mp4", "rb") as file, av.open(file) as container:  # what the bars are for
        assert next(container.decode(video=0)).width == 48


def test_prepared_as_read(tmp_path):
    """What is prepared frame by frame is what whole clips give, for several views and a video that is too short."""
    spec = PreprocessSpec(size=(24, 24), frame_stride=2)
    for count in (40, 5):
        path = write_clip(tmp_path / f"{count}.mp4", numbered(count))
        clips = read_clip(path, frames=4, stride=2, views=3)
        want = torch.stack([preprocess_clip(clip, spec) for clip in clips])
        assert torch.equal(video.read_prepared(path, spec, frames=4, views=3), want)
        assert torch.equal(video.read_prepared(clips[0], spec, frames=4, views=1), want[:1])


def test_one_frame_at_a_time(tmp_path, monkeypatch):
    """Sixteen frames of 8K that are held until they are prepared take 1.6 GB, and their copies as much again."""
    path = write_clip(tmp_path / "clip.mp4", numbered(64))
    spec, held = PreprocessSpec(size=(24, 24)), []
    real = video._to_rgb
    monkeypatch.setattr(video, "_to_rgb", lambda *given: held.append(weakref.ref(got := real(*given))) or got)
    monkeypatch.setattr(
        video, "preprocess", lambda *given: preprocess(*given) * (sum(each() is not None for each in held) <= 2)
    )
    got = video.read_prepared(path, spec, frames=16, views=1)
    assert len(held) == 16
    assert all(got[0, :, place].any() for place in range(16))


def test_no_key_frames(tmp_path, monkeypatch):
    """Kilobytes hold hours of large frames, which are all decoded on the way to the middle."""
    monkeypatch.setattr(video, "_DECODED_PIXELS", 40 * 32 * 48)
    still = np.full((200, 32, 48, 3), 90, np.uint8)
    assert read_clip(write_clip(tmp_path / "key.mp4", still, gop=10), frames=4, stride=2).shape[1] == 4
    with pytest.raises(InputError, match="key frames"):
        read_clip(write_clip(tmp_path / "no.mp4", still, gop=600), frames=4, stride=2)


def test_millions_of_frames(tmp_path, monkeypatch):
    """A table of frames takes a hundred bytes of memory a byte of file."""
    monkeypatch.setattr(video, "_MAX_FRAMES", 20)
    assert read_clip(write_clip(tmp_path / "20.mp4", numbered(20)), frames=4).shape[1] == 4
    with pytest.raises(InputError, match="at most 20 frames"):
        read_clip(write_clip(tmp_path / "21.mp4", numbered(21)), frames=4)


def test_no_pictures(tmp_path):
    """A container of sound has a stream, but none of pictures."""
    av = pytest.importorskip("av")
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.rate = 8000
        frame.planes[0].update(bytes(4096))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="video stream"):
        read_clip(path)
