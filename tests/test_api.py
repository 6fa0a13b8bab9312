"""The public surface, frozen: names, signatures, command-line options. A change here is a promise changed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import hierax
from hierax.cli import COMMANDS, command

GOLDEN = Path(__file__).parent / "golden" / "api.txt"
METHODS = {
    "Encoder": ("forward", "forward_features", "embedding", "classify", "detection_features", "stages"),
    "MaskedAutoencoder": ("forward",),
    "Predictor": ("classify", "embed", "embed_files", "features", "save"),
}


def surface() -> str:
    """One line for each public name, method and command."""
    lines = []
    for name in sorted(hierax.__all__):
        value = getattr(hierax, name)
        if name == "__version__" or (inspect.isclass(value) and issubclass(value, BaseException)):
            lines.append(name)
            continue
        lines.append(f"{name}{_signature(value)}")
        for method in METHODS.get(name, ()):
            lines.append(f"  {name}.{method}{_signature(getattr(value, method))}")
    for name in COMMANDS:
        lines.append(f"hierax {name}: {' '.join(inspect.signature(command(name)).parameters)}")
    return "\n".join(lines) + "\n"


def _signature(value) -> str:
    text = str(inspect.signature(value))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def test_public_surface():
    """A renamed parameter breaks other people's code without any test of ours noticing, but for this one.

    After a deliberate change: `python -m tests.test_api` rewrites the golden file; say so in the changelog.
    """
    assert surface() == GOLDEN.read_text()


def test_errors_are_one_family():
    """`except HieraxError` must catch everything a user can cause."""
    for name in (
        "UnknownNameError",
        "CheckpointError",
        "InputError",
        "RecipeError",
        "IntegrityError",
        "MissingExtraError",
    ):
        assert issubclass(getattr(hierax, name), hierax.HieraxError)
    assert str(hierax.UnknownNameError("plain")) == "plain"
    assert 'pip install "hierax[serve]"' in str(hierax.MissingExtraError("serve", "fastapi"))


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(surface())
