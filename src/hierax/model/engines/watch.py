"""Whether weights are still those that something was made from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLES = 16  # elements of each parameter that every look compares


class Watch:
    """What parameters were at one moment.

    A change is seen by identity, address and version; and, on the CPU, by 16 elements spread over each, for writes that
    torch does not count (inside `parameter.data`, through NumPy). Elsewhere that look would wait for the device.

    Args:
        parameters: All that matter, in an order that stays; held, so that no later one can stand at their address.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._traces = [_trace(parameter) for parameter in parameters]
        self._held = [tensor for parameter in parameters for tensor in (parameter, parameter.data)]
        self._views = [_sampled(parameter) for parameter in parameters if parameter.device.type == "cpu"]
        self._sample = torch.cat(self._views) if self._views else None

    def fits(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these are the parameters, unchanged."""
        if self._traces != [_trace(parameter) for parameter in parameters]:
            return False
        return self._sample is None or torch.equal(torch.cat(self._views), self._sample)


def _trace(parameter: Tensor) -> tuple[int, int, int | None]:
    # A tensor born in inference mode has no version.
    return id(parameter), parameter.data_ptr(), None if parameter.is_inference() else parameter._version


def _sampled(parameter: Tensor) -> Tensor:
    """Elements spread over a parameter, as a view of their bits: NaN equals itself."""
    extent = 1 + sum((n - 1) * step for n, step in zip(parameter.shape, parameter.stride(), strict=True))
    count = min(SAMPLES, extent)
    view = parameter.detach().as_strided((count,), (max(1, (extent - 1) // max(1, count - 1)),))
    return view.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[parameter.element_size()])
