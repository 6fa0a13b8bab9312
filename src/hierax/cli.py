"""The command line: a table of commands, each a documented function whose signature is its options.

stdout is data, stderr is talk; `commands.Exit` says what exit codes mean.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import logging
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from . import console
from .commands import MEANINGS, Exit
from .errors import HieraxError, InputError, cannot_write, nearest

# Command -> (its function in commands/, the line in `hierax --help`, which is the first of its docstring).
COMMANDS = {
    "list": ("models.list_", "Show catalogue names with licence and size."),
    "describe": ("models.describe", "Show everything known about a model or a weights file; downloads no weights."),
    "classify": ("images.classify", "Name what images show."),
    "embed": ("images.embed", "Write an embedding for each image, with the reason for each that could not be read."),
    "search": ("search.search", "Find the images of a store that are most similar to others."),
    "duplicates": (
        "search.duplicates",
        "Find images of a store that are almost the same, in groups, the largest file first; deletes nothing.",
    ),
    "cluster": ("search.cluster", "Split the images of a store into groups that look alike."),
    "index": (
        "search.index",
        "Keep a store fresh: embed new and changed files of a folder, and let those that were deleted leave.",
    ),
    "store merge": ("stores.merge", "Join stores of embeddings, such as those of the shares of one source, into one."),
    "features": ("images.features", "Write the stage maps of each image, and draw them as colours beside it."),
    "explain": ("explaining.explain", "Show which parts of images an answer comes from, as a picture."),
    "view": (
        "viewing.view",
        "Write a page that shows images and their stage maps; point at a cell to compare it with all others.",
    ),
    "convert": (
        "models.convert",
        "Rewrite a checkpoint in another format; prints the path it wrote, and the lines that load it.",
    ),
    "export": (
        "export.export",
        "Write a model for another runtime, compare it there with the network, and print the path.",
    ),
    "download": ("models.download", "Fetch a published checkpoint into the cache, verify it, and print where it is."),
    "verify": ("models.verify", "Check a weights file or folder: readable, complete, finite; prints what was found."),
    "prepare": (
        "cache.prepare",
        "Convert a model for a fast engine now and keep the program, so that no later process waits for that.",
    ),
    "cache list": ("cache.list_", "Show the programs that are kept on disk, the one used last first."),
    "cache clear": (
        "cache.clear",
        "Remove all programs that are kept on disk; what a process is using stays in its hands.",
    ),
    "pretrain": ("training.pretrain", "Train an encoder on images without labels; prints the folder of the result."),
    "finetune": ("training.finetune", "Train a classifier on labelled images; prints the folder of the result."),
    "eval accuracy": ("evaluation.accuracy", "Measure top-1 and top-5 accuracy on labelled images, with exact counts."),
    "eval knn": (
        "evaluation.knn",
        "Measure features by nearest neighbours: each image is named by the images most similar to it, by cosine.",
    ),
    "eval linear": (
        "evaluation.linear",
        'Measure features by a linear probe (extra "eval"): logistic regression on what the frozen network gives.',
    ),
    "eval retrieval": (
        "evaluation.retrieval",
        "Measure features by retrieval: how far up the images of its class come when all are ranked by an image.",
    ),
    "eval explanations": (
        "explaining.explanations",
        "Measure which explanations to trust: insertion and deletion areas, and pointing at objects that are known.",
    ),
    "eval seams": (
        "explaining.seams",
        "Measure how much the borders of attention windows show in the maps of a model, stage by stage.",
    ),
    "segment train": (
        "segment.train",
        "Make a segmentation head from scribbles on a few images; says how right it is on images left out.",
    ),
    "segment predict": (
        "segment.predict",
        "Write a mask for each image: palette PNGs in the colours and numbers of the labels, and their classes.csv.",
    ),
    "segment propagate": (
        "segment.propagate",
        "Carry the mask of the first frame through a clip: cells take the labels of those that they are most like.",
    ),
    "eval segmentation": (
        "dense.segmentation",
        'Measure maps by a linear probe of pixels (extra "eval"): mean intersection over union on images left apart.',
    ),
    "eval propagation": (
        "dense.propagation",
        "Measure maps by labels that follow them through clips: J and F of DAVIS 2017.",
    ),
    "render": (
        "evaluation.render",
        "Write a labelled set of rendered shapes and textures: one folder per class, or scenes with boxes and masks.",
    ),
    "serve": ("serve.serve", "Answer requests over HTTP: classes, embeddings, feature maps, search."),
    "completion": (
        "completion.completion",
        "Print the script by which a shell completes commands, options, choices and names of models.",
    ),
}
_NARROWEST = 40  # columns of help
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_VERBOSITY: dict[str, console.Verbosity] = dict.fromkeys(("-q", "--quiet"), "quiet")
_VERBOSITY |= dict.fromkeys(("-v", "--verbose"), "verbose")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Whatever goes wrong is a line on stderr; with -v, where it came from."""
    _open_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    levels: list[console.Verbosity] = ["normal", *(_VERBOSITY[a] for a in arguments[:end] if a in _VERBOSITY)]
    arguments = [a for a in arguments[:end] if a not in _VERBOSITY] + arguments[end:]
    console.set_up(levels[-1])
    with _stopped_in_order():
        try:
            code, refusal = _answer(arguments), _refuses(sys.stdout)
        except console.Unheard as gone:
            _refuses(sys.stdout)
            code, refusal = Exit.OK, gone.__cause__
        # A reader that went away (`| head`) got what it asked for.
        if isinstance(refusal, OSError) and not isinstance(refusal, BrokenPipeError):
            console.complain(cannot_write("the standard output", refusal))
            code = code or Exit.FAILURE
        _refuses(sys.stderr)
        return code


def _answer(arguments: list[str]) -> int:
    """The exit code of a command, whatever becomes of it."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        console.complain("interrupted")
        return Exit.INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Exit.USAGE if stop.code else Exit.OK
    except console.Unheard:
        raise
    except Exception as error:
        if logging.getLogger(__package__).isEnabledFor(logging.DEBUG):
            sys.excepthook = console.trace
            raise
        text = f"internal error ({type(error).__name__}: {error}). Run again with -v and report what it prints."
        if isinstance(error, (HieraxError, OSError)):
            text = str(error) if isinstance(error, HieraxError) else f"The system refused: {error}."
        console.complain(text)
        return Exit.FAILURE


def _refuses(stream: TextIO) -> OSError | None:
    """Why a stream takes no more, if so; then it leads nowhere, so that the interpreter's end is quiet."""
    try:
        stream.flush()
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):  # the latter: no stream of the system
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        return error if isinstance(error, OSError) else None
    return None


@contextlib.contextmanager
def _stopped_in_order() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end a command in order; a second one at once, and the next run cleans up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Each that nobody else takes: a shell ignores Ctrl-C for what it runs in the background, nohup SIGHUP.
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        usual[signal.SIGHUP] = signal.SIG_DFL
    numbers, owner = [number for number, handler in usual.items() if signal.getsignal(number) is handler], os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a worker
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if stopped:
            os._exit(Exit.INTERRUPTED)
        stopped.append(number)
        raise KeyboardInterrupt

    stopped: list[int] = []
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        if not stopped:
            for number, handler in before.items():
                signal.signal(number, handler)


def command(name: str) -> Callable[..., int | None]:
    """The function of a command; imports its module."""
    module, _, function = COMMANDS[name][0].partition(".")
    return getattr(importlib.import_module(f".commands.{module}", __package__), function)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        console.emit(help_text())
        return Exit.OK
    if arguments[0] in ("-V", "--version"):
        from . import __version__

        console.emit(f"hierax {__version__}")
        return Exit.OK
    name = next((n for n in (" ".join(arguments[:2]), arguments[0]) if n in COMMANDS), None)
    if name is None:
        given, groups = arguments[0], sorted(n.split()[1] for n in COMMANDS if n.startswith(f"{arguments[0]} "))
        unknown = f"unknown command {given!r}. {nearest(given, COMMANDS)}See `hierax --help`."
        console.complain(f"{given} needs one of: {', '.join(groups)}" if groups else unknown)
        return Exit.USAGE
    try:
        os.getcwd()
    except OSError as error:  # numeric libraries end the process where there is none
        raise InputError("The folder to work in must exist; it was removed. Change to another: cd DIR.") from error
    import tyro

    tyro._experimental_options["ansi_codes"] = not os.environ.get("NO_COLOR")
    rest = arguments[len(name.split()) :]
    parsed = _call_of(command(name))
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _readable_width():
            call = tyro.cli(parsed, args=rest, prog=f"hierax {name}", config=(tyro.conf.FlagCreatePairsOff,))
    except SystemExit:
        console.write(_COLOUR.sub("", said.getvalue()))
        raise
    except OSError as error:  # help is printed by tyro
        raise console.Unheard from error
    return call() or Exit.OK


@contextlib.contextmanager
def _readable_width() -> Iterator[None]:
    """At least 40 columns for help: tyro never ends its lines in fewer than 4.

    A terminal that states no width has 0 in Python 3.10, and 80 since.
    """
    columns, known = shutil.get_terminal_size().columns, os.environ.get("COLUMNS")
    if columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST if columns > 0 else 80)
    try:
        yield
    finally:
        if columns < _NARROWEST:
            os.environ.pop("COLUMNS")
            if known is not None:
                os.environ["COLUMNS"] = known


def _call_of(function: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
    """A function of the same signature and help that does nothing yet but give the call."""
    from .commands.signature import named_in_help

    def parsed(*given: Any, **options: Any) -> Callable[[], int | None]:
        return functools.partial(function, *given, **options)

    hints, known = named_in_help(function), inspect.signature(function).parameters.values()
    parsed.__doc__, parsed.__annotations__ = function.__doc__, hints
    vars(parsed)["__signature__"] = inspect.Signature([each.replace(annotation=hints[each.name]) for each in known])
    return parsed


def _open_streams() -> None:
    """Streams that were closed lead nowhere; what the terminal's encoding lacks is escaped and stops nobody."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  it stays open as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def help_text() -> str:
    """`hierax --help`."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: hierax COMMAND [OPTIONS]",
        "",
        "The Hiera family of vision encoders: classes, embeddings and feature maps of images.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()),
        "",
        "`hierax COMMAND --help` shows a command's options. Everywhere: -q only errors and results, -v everything.",
        "",
        "exit codes:",
        *(f"  {code:<{width}}  {meaning}" for code, meaning in MEANINGS.items()),
    ]
    return "\n".join(lines)
