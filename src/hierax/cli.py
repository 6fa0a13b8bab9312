"""The command line: a table of commands, each a documented function whose signature is its options.

stdout is data, stderr is talk; `commands.Exit` says what exit codes mean.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence

from . import console
from .commands import MEANINGS, Exit
from .errors import HieraxError, nearest

# Command -> (its function in commands/, the line in `hierax --help`, which is the first of its docstring).
COMMANDS = {
    "list": ("models.list_", "Show catalogue names with licence and size."),
    "describe": ("models.describe", "Show everything known about a model or a weights file; downloads no weights."),
    "classify": ("images.classify", "Name what images show."),
    "embed": ("images.embed", "Write an embedding for each image, with the reason for each that could not be read."),
    "features": ("images.features", "Write the stage maps of each image, and draw them as colours beside it."),
    "convert": ("models.convert", "Rewrite a checkpoint in another format; prints the path it wrote."),
    "download": ("models.download", "Fetch a published checkpoint into the cache, verify it, and print where it is."),
    "verify": ("models.verify", "Check a weights file or folder: readable, complete, finite; prints what was found."),
    "pretrain": ("training.pretrain", "Train an encoder on images without labels; prints the folder of the result."),
    "finetune": ("training.finetune", "Train a classifier on labelled images; prints the folder of the result."),
    "eval accuracy": ("evaluation.accuracy", "Measure top-1 and top-5 accuracy on labelled images, with exact counts."),
    "render": ("evaluation.render", "Write a labelled set of rendered shapes and textures, one folder per class."),
}
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
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        console.complain("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`); what it asked for it got.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Exit.USAGE if stop.code else Exit.OK
    except Exception as error:
        if logging.getLogger(__package__).isEnabledFor(logging.DEBUG):
            raise
        text = f"internal error ({type(error).__name__}: {error}). Run again with -v and report what it prints."
        if isinstance(error, (HieraxError, OSError)):
            text = str(error) if isinstance(error, HieraxError) else f"The system refused: {error}."
        console.complain(text)
        return Exit.FAILURE


def command(name: str) -> Callable[..., int | None]:
    """The function of a command; imports its module."""
    module, _, function = COMMANDS[name][0].partition(".")
    return getattr(importlib.import_module(f".commands.{module}", __package__), function)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return Exit.OK
    if arguments[0] in ("-V", "--version"):
        from . import __version__

        print(f"hierax {__version__}")
        return Exit.OK
    name = next((n for n in (" ".join(arguments[:2]), arguments[0]) if n in COMMANDS), None)
    if name is None:
        given, groups = arguments[0], sorted(n.split()[1] for n in COMMANDS if n.startswith(f"{arguments[0]} "))
        unknown = f"unknown command {given!r}. {nearest(given, COMMANDS)}See `hierax --help`."
        console.complain(f"{given} needs one of: {', '.join(groups)}" if groups else unknown)
        return Exit.USAGE
    import tyro

    rest = arguments[len(name.split()) :]
    code = tyro.cli(command(name), args=rest, prog=f"hierax {name}", config=(tyro.conf.FlagCreatePairsOff,))
    return code or Exit.OK


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
