"""Clips: which frames of a video the network sees, and how they become its input."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ..config import PreprocessSpec
from ..errors import InputError, MissingExtraError
from ..schema import positive
from .files import open_regular
from .memory import PIXELS
from .preprocess import preprocess

# Playlists are left out on purpose: they would make FFmpeg open other files and addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,gif"
# Whatever a container names, nothing but itself is opened.
_RESTRICTED = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "none"}
MAX_FRAME_PIXELS = 100_000_000
_MAX_FRAMES = 2_000_000  # of a file: 18 hours at 30 a second
_DECODED_PIXELS = 20_000_000_000  # for one file: 600 frames of 8K, ten thousand of 1080p
_CLIP_BYTES = 2 << 30  # of the frames that are returned
_DECODER_BYTES = 35  # a pixel: sixteen reference frames, and the one that is converted and prepared
_COVER = 0x400  # FFmpeg's AV_DISPOSITION_ATTACHED_PIC


def read_clip(
    source: str | os.PathLike[str] | np.ndarray,
    *,
    frames: int = 16,
    stride: int = 4,
    size: int | None = None,
    views: int = 1,
    start: float | None = None,
) -> UInt8[np.ndarray, "views t h w 3"]:
    """Sample clips from a video: by default as Kinetics models are evaluated.

    A clip takes every `stride`-th of `frames * stride` consecutive frames: the central ones for one view,
    spread evenly from first to last for more. A video that is too short repeats its last frame.
    An array of exactly `frames` frames is taken as already sampled.

    Args:
        source: A video file (extra `video`), or RGB bytes (t, height, width, 3).
        frames: Frames a clip.
        stride: Source frames from one to the next.
        size: Scale frames of a file down while decoding, so that the shorter side has this many pixels;
            None keeps them as they are. Saves memory; preprocessing still decides the final size.
        views: Clips a video.
        start: Where one clip starts instead, from 0, the first possible start, to just below 1, the last.

    Returns:
        RGB bytes, upright as the file says.

    Raises:
        InputError: The source cannot be opened or decoded, has no frames, or an option is not positive.
        MissingExtraError: A file was given and PyAV is not installed.

    Source: the clip sampling of SlowFast's Kinetics evaluation.
    """
    if start is not None and (views != 1 or not 0 <= start < 1):
        raise InputError(f"start must be in 0..1, below 1, and of one view; got {start!r} and {views} views.")
    positive(frames=frames, stride=stride, views=views, size=1 if size is None else size)
    if isinstance(source, np.ndarray):
        video = _check_frames(source)
        if len(video) == frames:
            return np.repeat(video[None], views, axis=0)
        return video[np.array(clip_indices(len(video), frames, stride, views, start))]
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"A clip must be a video file or a NumPy array; got {type(source).__name__}.")
    out: list[np.ndarray] = []

    def take(view: int, places: list[int], pixels: np.ndarray) -> None:
        if not out:
            out.append(np.empty((views, frames, *pixels.shape), np.uint8))
        out[0][view, places] = pixels

    _read_file(
        source, size, lambda total: clip_indices(total, frames, stride, views, start), take, keeps=views * frames
    )
    return out[0]


def clip_indices(total: int, frames: int, stride: int, views: int, start: float | None = None) -> list[list[int]]:
    """Which source frames each view takes, ascending; the last is repeated where the video ends early."""
    spare = max(total - frames * stride, 0)
    if start is not None:
        starts = [int(start * (spare + 1))]
    else:
        starts = [spare // 2] if views == 1 else [view * spare // (views - 1) for view in range(views)]
    return [[min(first + stride * i, total - 1) for i in range(frames)] for first in starts]


def preprocess_clip(clip: UInt8[np.ndarray, "t h w 3"], spec: PreprocessSpec) -> Float[Tensor, "3 t h w"]:
    """Preprocess every frame of one view by the image recipe, time after channels.

    Raises:
        InputError: The clip is not RGB bytes (t, height, width, 3).
    """
    return torch.stack([preprocess(frame, spec) for frame in _check_frames(clip)], dim=1)


def _check_frames(video: Any) -> np.ndarray:
    array = np.asarray(video)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3 or array.size == 0:
        raise InputError(
            f"A NumPy clip must be uint8 of shape (frames, height, width, 3); got {array.dtype} {tuple(array.shape)}."
        )
    return array


def read_prepared(source: Any, spec: PreprocessSpec, *, frames: int, views: int) -> Float[Tensor, "views 3 t h w"]:
    """`read_clip` and `preprocess_clip` at once: of frames however large one is held at a time.

    Raises:
        InputError: As `read_clip`.
        MissingExtraError: As `read_clip`.
    """
    if not isinstance(source, (str, os.PathLike)):
        clips = read_clip(source, frames=frames, stride=spec.frame_stride, views=views)
        return torch.stack([preprocess_clip(clip, spec) for clip in clips])
    positive(frames=frames, views=views)
    out = torch.empty(views, 3, frames, *spec.size)

    def take(view: int, places: list[int], pixels: np.ndarray) -> None:
        out[view, :, places] = preprocess(pixels, spec)[:, None]

    _read_file(source, None, lambda total: clip_indices(total, frames, spec.frame_stride, views), take, keeps=1)
    return out


# What is done with a frame: its view, its places in it, and its RGB bytes (h, w, 3), the same in all calls.
_Take: TypeAlias = Callable[[int, list[int], np.ndarray], None]


def _read_file(
    path: Any, size: int | None, wanted: Callable[[int], list[list[int]]], take: _Take, *, keeps: int
) -> None:
    """Hand over the frames that are wanted of as many as the file has; `keeps` are held in memory."""
    with _opened(path) as container:
        stream = _picture_stream(path, container)
        times = _frame_times(container, stream)
        views = wanted(len(times))
        limits = _Limits()
        with PIXELS.hold(_clip_bytes(path, stream, keeps, size)):
            for view, indices in enumerate(views):
                _pick(container, stream, times, indices, size, limits, functools.partial(take, view))


@contextlib.contextmanager
def _opened(path: Any) -> Iterator[Any]:
    """A video file as PyAV has it; whatever it raises while the file is read becomes an InputError."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("video", "av") from error
    try:
        with open_regular(path) as file, av.open(file, options=_RESTRICTED) as container:
            yield container
    except InputError:
        raise
    except Exception as error:  # FFmpeg's errors, and whatever PyAV raises on hostile bytes
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(
            f"A clip must be a video file; {os.fspath(path)!r} is not: {reason.splitlines()[0][:200]}."
        ) from error


def _picture_stream(path: Any, container: Any) -> Any:
    """The first stream of moving pictures; a cover is none where there is another."""
    if not container.streams.video:
        raise InputError(f"A clip must hold a video stream; {os.fspath(path)!r} has none.")
    covers = [int(stream.disposition) & _COVER for stream in container.streams.video]
    stream = container.streams.video[covers.index(0) if 0 in covers else 0]
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise InputError(
            f"A frame may have at most {MAX_FRAME_PIXELS:,} pixels; {os.fspath(path)!r} declares "
            f"{stream.width} x {stream.height}."
        )
    return stream


def _clip_bytes(path: Any, stream: Any, keeps: int, size: int | None) -> int:
    """What the frames that are held take, and the decoder.

    Raises:
        InputError: The frames more than `_CLIP_BYTES`.
    """
    shorter = min(stream.width, stream.height)
    scale = size / shorter if size is not None and size < shorter else 1.0
    needed = int(stream.width * stream.height * scale**2 * 3) * keeps
    if needed > _CLIP_BYTES:
        raise InputError(
            f"The frames of a clip may take at most {_CLIP_BYTES / 2**30:.1f} GiB; {os.fspath(path)!r} needs "
            f"{needed:,} bytes for {keeps} frames of {stream.width} x {stream.height}. Take fewer views."
        )
    return needed + stream.width * stream.height * _DECODER_BYTES


class _Limits:
    """What holds for all frames of a file: one size, and so many pixels to decode.

    A file of kilobytes may hold hours of large frames, and without key frames all before the wanted ones are decoded.
    """

    def __init__(self) -> None:
        self.decoded, self.size = 0, (0, 0)

    def count(self, frame: Any) -> None:
        """A frame that was decoded."""
        if frame.width * frame.height > MAX_FRAME_PIXELS:
            raise InputError(
                f"A frame may have at most {MAX_FRAME_PIXELS:,} pixels; one has {frame.width} x {frame.height}."
            )
        self.decoded += frame.width * frame.height
        if self.decoded > _DECODED_PIXELS:
            raise InputError(
                f"At most {_DECODED_PIXELS:,} pixels may have to be decoded for the frames of a clip; a video of "
                f"{frame.width} x {frame.height} with so few key frames needs more. Encode it anew, smaller."
            )

    def check(self, index: int, frame: Any) -> None:
        """A frame that is taken."""
        self.size = self.size if self.size[0] else (frame.width, frame.height)
        if self.size != (frame.width, frame.height):
            raise InputError(
                f"The frames of a clip must have one size; frame {index} has {frame.width} x {frame.height} pixels, "
                f"those before it {self.size[0]} x {self.size[1]}. Encode the video anew."
            )


def _frame_times(container: Any, stream: Any) -> list[int | None]:
    """Presentation time of every frame, in order, read from the packets without decoding them.

    Containers state a frame count too, but it is often absent and sometimes wrong.
    """
    packets = (packet.pts for packet in container.demux(stream) if packet.size)
    times = list(itertools.islice(packets, _MAX_FRAMES + 1))
    if len(times) > _MAX_FRAMES:
        raise InputError(f"A video may have at most {_MAX_FRAMES:,} frames; this one has more. Cut it.")
    if not times:
        raise InputError("A clip must hold at least one frame; this video has none.")
    if any(time is None for time in times) or len(set(times)) < len(times):
        return [None] * len(times)
    return sorted(times)


def _pick(
    container: Any,
    stream: Any,
    times: list[int | None],
    indices: list[int],
    size: int | None,
    limits: _Limits,
    take: Callable[[list[int], np.ndarray], None],
) -> None:
    """Take the frames at these ascending indices; what the decoder does not deliver repeats the frame before."""
    done, pixels = 0, None
    for index, frame in _frames_from(container, stream, times, indices[0]):
        limits.count(frame)
        if index >= indices[done]:
            limits.check(index, frame)
            places = [place for place in range(done, len(indices)) if indices[place] <= index]
            pixels = _to_rgb(frame, size)
            take(places, pixels)
            done += len(places)
        if done == len(indices):
            return
    if pixels is None:
        raise InputError("A clip must decode; none of this video's frames did.")
    take(list(range(done, len(indices))), pixels)


def _frames_from(container: Any, stream: Any, times: list[int | None], first: int) -> Iterator[tuple[int, Any]]:
    """Decoded frames with their index, starting at the last key frame before `first`."""
    order = {time: index for index, time in enumerate(times) if time is not None}
    container.seek(times[first] or 0, stream=stream, backward=True)
    for count, frame in enumerate(container.decode(stream)):
        yield (order.get(frame.pts, -1) if order else count), frame


def _to_rgb(frame: Any, size: int | None) -> np.ndarray:
    width, height = frame.width, frame.height
    if size is not None and size < min(width, height):
        scale = size / min(width, height)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
    array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
    # FFmpeg states the rotation counter-clockwise, as rot90 turns.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(array, turns))


def each_frame(path: str | os.PathLike[str]) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Every frame of a video file, upright and in order, one at a time.

    Raises:
        InputError: It cannot be decoded, its frames differ in size, or it needs too much.
        MissingExtraError: PyAV is not installed.
    """
    with _opened(path) as container:
        limits = _Limits()
        for index, frame in enumerate(container.decode(_picture_stream(path, container))):
            limits.count(frame)
            limits.check(index, frame)
            yield _to_rgb(frame, None)
