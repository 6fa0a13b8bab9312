"""What `accelerate` gives back: what runs, what it changed, and the way back."""

from __future__ import annotations

from types import TracebackType

from torch import nn

from . import seam
from .fast import Options
from .report import Report


class Acceleration:
    """A model made faster in place; also a context manager that undoes it at the end.

    Attributes:
        report: How far every output moved and the speed, measured before anything was kept.
        options: What was asked for.
    """

    def __init__(self, modules: dict[str, nn.Module], report: Report, options: Options) -> None:
        self.report, self.options = report, options
        self._modules = modules

    @property
    def kept(self) -> bool:
        """Whether anything is faster now."""
        return any(seam.placed(module) is not None for module in self._modules.values())

    @property
    def choice(self) -> str:
        """What runs, a line for each encoder."""
        lines = []
        for (name, module), part in zip(self._modules.items(), self.report.parts, strict=True):
            fast = seam.placed(module)
            runs = f"the original: {part.reason or 'undone'}" if fast is None else fast.choice(module)
            lines.append(f"{name}: {runs}" if name else runs)
        return "\n".join(lines)

    def serves(self, modules: dict[str, nn.Module], options: Options) -> bool:
        """Whether these very encoders are faster by it, as these options ask; a copy's are not."""
        here = all(getattr(seam.placed(module), "handle", None) is self for module in modules.values())
        return here and self._modules == modules and self.options == options

    def undo(self) -> None:
        """Give every encoder its own methods back."""
        for module in self._modules.values():
            seam.remove(module)

    def refresh(self) -> None:
        """Forget what was made from weights, as is needed after a change that leaves no trace."""
        for module in self._modules.values():
            if (fast := seam.placed(module)) is not None:
                fast.refresh()

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        return str(self.report)
