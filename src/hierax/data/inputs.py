"""Images and clips as a network's input, preprocessed as for inference; labelled samples each exactly once."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..config import ModelConfig, PreprocessSpec
from ..errors import HieraxError, InputError
from .datasets.samples import TrainingData
from .decode import decoded
from .memory import keep_freed
from .preprocess import preprocess, shrinks
from .video import read_prepared

# What systemd and batch schedulers send to every process of a run, and a terminal to the group in front.
_STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_FEW = 500  # images that are read before processes to read them have started


def network_input(source: Any, config: ModelConfig, spec: PreprocessSpec, views: int = 1) -> Tensor:
    """What a network of this config takes for one image or clip: (3, h, w), (3, t, h, w), or (views, 3, t, h, w).

    Raises:
        InputError: The source cannot be read.
    """
    if not config.is_video:
        return image_input(source, spec)[0]
    inputs = read_prepared(source, spec, frames=config.input_size[0], views=views)
    return inputs[0] if views == 1 else inputs


def image_input(
    source: Any, spec: PreprocessSpec, name: str = "", *, draft: bool = False
) -> tuple[Tensor, tuple[int, int]]:
    """A network's input (3, h, w) of one image, and the image's (height, width).

    Args:
        source: As `decode_image` takes it.
        spec: The recipe.
        name: What to call bytes in messages.
        draft: Decode a JPEG that is far larger than the input at a half, a quarter or an eighth of its size.

    Raises:
        InputError: The source cannot be read.
    """
    asked: list[tuple[int, int]] = []

    def shrink(size: tuple[int, int]) -> int:
        asked.append(size)
        return shrinks(size, spec) if draft else 1

    with decoded(source, shrink=shrink, name=name) as pixels:
        size = asked[0] if asked else (pixels.shape[0], pixels.shape[1])
        return preprocess(pixels, spec, size), size


def plain_batches(
    data: TrainingData,
    config: ModelConfig,
    spec: PreprocessSpec,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[list[int], Tensor, list[tuple[str, str]]]]:
    """Positions, inputs and failures, every sample of this process exactly once.

    Every process gets the same number of batches; the last may be empty. Few images are read in this process: workers
    would take longer to start, every time.
    """
    own = list(range(rank, len(data), world))
    rounds = math.ceil(math.ceil(len(data) / world) / batch_size)  # the same on every process
    batches = [own[number * batch_size : (number + 1) * batch_size] for number in range(rounds)]
    few = len(data) <= _FEW and not config.is_video
    for items in loaded(_Plain(data, config, spec), batches, list, workers=0 if few else workers):
        good = [(index, value) for index, value in items if isinstance(value, Tensor)]
        bad = [(data.name(index), value) for index, value in items if isinstance(value, str)]
        inputs = torch.stack([value for _, value in good]) if good else torch.zeros(0, 3, *config.input_size)
        yield [index for index, _ in good], inputs, bad


def loaded(
    dataset: Dataset,
    batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    *,
    workers: int,
    ahead: int = 2,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Batches that processes read, each some ahead; one that dies, as for want of memory, is named as such.

    Raises:
        HieraxError: A worker was killed.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_as_worker,
        prefetch_factor=ahead if workers else None,
        pin_memory=pin_memory,
    )
    try:
        with _starting():
            found = iter(loader)
        yield from found
    except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # The others come of a worker that died while it answered.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in reason and "shared memory" not in str(error):
            raise
        raise HieraxError(
            f"The processes that read must live; one died ({reason}). Memory, or shared memory (/dev/shm), is probably "
            "full: set fewer workers, or workers=0. A run goes on with --resume."
        ) from error


class _Plain(Dataset):
    def __init__(self, data: TrainingData, config: ModelConfig, spec: PreprocessSpec) -> None:
        self.data, self.config, self.spec = data, config, spec

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, network_input(self.data.read(index), self.config, self.spec)
        except (InputError, OSError, MemoryError) as error:
            return index, str(error) or type(error).__name__


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Start processes that get no signal that asks to stop, and whose death is told where their answer is awaited.

    torch tells of it in a signal handler, which raises anywhere in the main thread, inside a checkpoint too.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before, mask = signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _as_worker(_: int) -> None:
    """One thread, for there are many workers; and the run, not its workers, heeds a signal to stop."""
    torch.set_num_threads(1)
    keep_freed()
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_heed_parent, daemon=True).start()


def _heed_parent() -> None:
    """Take the signals that were held back: SIGTERM from the parent, as for a worker that hangs, ends this one."""
    while True:
        found = signal.sigwaitinfo(_STOPS)
        if found.si_signo == signal.SIGTERM and found.si_pid == os.getppid():
            os._exit(0)
