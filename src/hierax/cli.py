"""The command line: a table of commands, each a documented function whose signature is its options.

stdout is data, stderr is talk. Exit 0 ok, 1 failure, 2 usage, 3 partial (some files failed), 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from .errors import HieraxError, nearest

# Command -> (function in commands.py, its line in `hierax --help`).
COMMANDS = {
    "list": ("list_", "Show catalogue names with licence and size."),
    "describe": ("describe", "Show everything known about a model or a weights file."),
    "classify": ("classify", "Name what images show."),
    "embed": ("embed", "Write an embedding for each image."),
    "features": ("features", "Write the four stage maps of each image, or draw them."),
    "convert": ("convert", "Rewrite a checkpoint in another format."),
    "download": ("download", "Fetch and verify a published checkpoint."),
    "verify": ("verify", "Check a weights file: complete, finite, the published bytes."),
    "pretrain": ("pretrain", "Train an encoder on images without labels."),
    "finetune": ("finetune", "Train a classifier on labelled images."),
    "eval accuracy": ("eval_accuracy", "Measure top-1 and top-5 accuracy on a labelled folder."),
    "render": ("render", "Write a labelled set of rendered shapes and textures."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] in ("-V", "--version"):
        from . import __version__

        print(f"hierax {__version__}")
        return 0
    name = next((n for n in (" ".join(arguments[:2]), arguments[0]) if n in COMMANDS), None)
    if name is None:
        return _unknown(arguments)
    rest, level = _verbosity(arguments[len(name.split()) :])
    logging.basicConfig(level=level, format="hierax: %(message)s", stream=sys.stderr)
    return _run(name, rest, debug=level <= logging.DEBUG)


def _run(name: str, arguments: list[str], *, debug: bool) -> int:
    import tyro

    commands = importlib.import_module(".commands", __package__)
    try:
        command = getattr(commands, COMMANDS[name][0])
        code = tyro.cli(command, args=arguments, prog=f"hierax {name}", config=(tyro.conf.FlagCreatePairsOff,))
        sys.stdout.flush()
        return int(code or 0)
    except HieraxError as error:
        if debug:
            raise
        print(f"hierax: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hierax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`); what it asked for it got.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2 if stop.code else 0
    except Exception as error:
        if debug:
            raise
        kind = type(error).__name__
        print(
            f"hierax: internal error ({kind}: {error}). Run again with -v and report what it prints.", file=sys.stderr
        )
        return 1


def _verbosity(arguments: list[str]) -> tuple[list[str], int]:
    """Take -q and -v out of the arguments; they mean the same to every command."""
    levels = {"-q": logging.ERROR, "--quiet": logging.ERROR, "-v": logging.DEBUG, "--verbose": logging.DEBUG}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = [a for a in arguments[:end] if a in levels]
    kept = [a for a in arguments[:end] if a not in levels] + arguments[end:]
    os.environ["HIERAX_QUIET"] = "1" if given and levels[given[-1]] == logging.ERROR else ""
    return kept, levels[given[-1]] if given else logging.WARNING


def _unknown(arguments: list[str]) -> int:
    given = arguments[0]
    groups = sorted({n.split()[1] for n in COMMANDS if n.startswith(f"{given} ")})
    if groups:
        print(f"hierax: {given} needs one of: {', '.join(groups)}", file=sys.stderr)
    else:
        print(f"hierax: unknown command {given!r}. {nearest(given, COMMANDS)}See `hierax --help`.", file=sys.stderr)
    return 2


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
        "`hierax COMMAND --help` shows a command's options. Everywhere: -q only errors, -v everything.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
