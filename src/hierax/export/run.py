"""hierax.export: trace, write beside the destination, check, and only then give the file its name."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ExportError, InputError, UnknownNameError, brief, nearest
from ..model.encoder import Encoder
from ..model.engines.quantize import Calibration
from ..model.mae import MaskedAutoencoder
from ..model.programs.encoder import OUTPUTS
from ..predictor import Predictor
from ..provenance import provenance
from ..registry import find_weights, open_program
from ..weights.adapt import adapted
from ..weights.card import Weights
from ..weights.files import staged, write_json
from ..weights.network import to_module
from ..weights.programs import KINDS, ProgramFacts, read_facts
from . import check, int8, onnx, openvino
from . import torch as torch_files
from .program import example_size, trace

DTYPES = ("float32", "float16", "int8")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
DEFAULT_OUTPUTS = ("embedding", "logits")
WRITERS: dict[str, Any] = {"onnx": onnx, "openvino": openvino, "torch": torch_files}
AGAIN = "Nothing was written. Try again with another version of the exporter's packages."
log = logging.getLogger("hierax")


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the network in eager torch.

    Attributes:
        path: The file; a report lies beside it, and of OpenVINO a .bin.
        difference: Largest difference of an output, over that output's largest magnitude where it is above 1.
        cosine: The smallest cosine of an image's output.
        sizes: Input sizes at which they were compared, in batches of 1 and 3.
        speedup: Seconds of eager torch over seconds of the file's runtime, one image of the first size.
        outputs: What it gives.
        dtype: "float32", "float16" (of the weights) or "int8".
        bytes: Of the file, and of what belongs to it.
        agreement: With int8, the share of images with the same best class; None without classes.
    """

    path: Path
    difference: float
    cosine: float
    sizes: tuple[tuple[int, ...], ...]
    speedup: float
    outputs: tuple[str, ...] = ()
    dtype: str = "float32"
    bytes: int = 0
    agreement: float | None = None

    def __str__(self) -> str:
        sizes = ", ".join("x".join(map(str, size)) for size in self.sizes)
        agreement = "" if self.agreement is None else f", top-1 agreement {self.agreement:.1%}"
        return (
            f"{self.dtype}, {self.bytes / 1e6:.1f} MB: {', '.join(self.outputs)}; beside eager torch at {sizes}: "
            f"largest difference {self.difference:.2g}, worst cosine {self.cosine:.6f}{agreement}, "
            f"{self.speedup:.2f}x the speed"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data."""
        return {**dataclasses.asdict(self), "path": self.path.name}


def export(
    source: str | Path | Predictor | None,
    destination: str | Path,
    *,
    to: str,
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
    size: int | tuple[int, int] | None = None,
    dynamic: bool = False,
    dtype: str = "float32",
    calibration: Any = None,
) -> ExportReport:
    """Write a model for another runtime, and compare the file there with the network before it counts.

    Args:
        source: Anything that `load` takes, or a predictor.
        destination: The file: .onnx, .xml (OpenVINO; its weights in a .bin beside it) or .pt2.
        to: "onnx", "openvino" or "torch".
        outputs: What it gives: "embedding", "logits" and "stage1".."stage4". Without classes there are no logits.
        size: Input size, an int or (height, width); None is the model's own. The batch is always open.
        dynamic: Leave height and width open.
        dtype: "float32"; "float16" for weights of half the size, computed in float32; "int8" (onnx, openvino).
        calibration: Images to quantize by, as `Predictor.embed` takes them or a folder; None takes seeded stand-ins.

    Returns:
        What was compared; `load` opens the file.

    Raises:
        UnknownNameError: No such target, output or dtype.
        InputError: A size that the network cannot take, or options that exclude one another.
        ExportError: The file answers otherwise, does not fit, or the place is taken; nothing was written.
        MissingExtraError: A package of the target is not installed.
    """
    place = Path(destination).expanduser()
    _check_options(to, dtype, size=size, dynamic=dynamic, calibration=calibration)
    _check_place(place, to)
    writer = WRITERS[to]
    writer.check_installed(dtype)
    weights = _loaded(source, size)
    module = to_module(weights, dtype=torch.float32).eval().requires_grad_(False)
    encoder: Any = module.encoder if isinstance(module, MaskedAutoencoder) else module
    images = int8.calibration_of(calibration, Predictor(encoder, weights)) if dtype == "int8" else None
    facts = _facts(weights, encoder, _outputs(encoder, outputs), any_size=dynamic, dtype=dtype)
    if to == "onnx":
        onnx.check_bytes(sum(p.numel() for p in encoder.parameters()), dtype)
    traced = example_size(encoder.config) if dynamic else encoder.config.input_size
    log.info("%s: tracing at %s", weights.card.name, "x".join(map(str, traced)))
    program = trace(encoder, facts.outputs, traced, any_size=dynamic)
    with _whole(place) as stage:
        path = stage / place.name
        writer.write(program, path, facts, images)
        report = _checked(path, to, encoder, facts, traced, images)
        report = dataclasses.replace(report, path=place)
        write_json(stage / report_of(place).name, report.to_dict())
    return report


def report_of(path: Path) -> Path:
    """Where the report of a file lies."""
    return path.with_name(f"{path.name}.report.json")


def _check_options(to: str, dtype: str, *, size: Any, dynamic: bool, calibration: Any) -> None:
    if to not in KINDS:
        raise UnknownNameError(f"Targets are {', '.join(KINDS)}; got {brief(to)}. {nearest(str(to), KINDS)}")
    if dtype not in DTYPES:
        raise UnknownNameError(f"dtype is {', '.join(DTYPES)}; got {brief(dtype)}. {nearest(str(dtype), DTYPES)}")
    if dynamic and size is not None:
        raise InputError("A program is of one size (--size) or of every size (--dynamic); got both. Leave one out.")
    if dtype == "int8" and to == "torch":
        raise InputError("dtype='int8' is for the targets onnx and openvino; got to='torch'. Use 'float32' there.")
    if dtype == "int8" and dynamic:
        raise InputError("dtype='int8' is for programs of one size, whose ranges are measured; got dynamic=True.")
    if calibration is not None and dtype != "int8":
        raise InputError(f"Calibration images are for dtype='int8'; got dtype={dtype!r}. Leave them out.")


def _check_place(place: Path, to: str) -> None:
    """Refuse a destination before anything is computed for it.

    Raises:
        ExportError: It ends otherwise than files of that target do, or something is there.
    """
    if place.suffix.lower() != SUFFIXES[to]:
        raise ExportError(f"A file for {to} ends in {SUFFIXES[to]}; got {place}. Name it {place.name}{SUFFIXES[to]}.")
    for each in _names(place):
        if os.path.lexists(each):
            raise ExportError(f"{each} already exists; nothing was overwritten. Name another destination.")


def _names(place: Path) -> list[Path]:
    """Every file that is written."""
    return [place, *([place.with_suffix(".bin")] if place.suffix.lower() == ".xml" else []), report_of(place)]


def _loaded(source: Any, size: Any) -> Weights:
    weights = source.weights() if isinstance(source, Predictor) else find_weights(source)
    return adapted(weights, input_size=size)


def _outputs(encoder: Encoder, outputs: Any) -> tuple[str, ...]:
    """What the program gives, in our order.

    Raises:
        UnknownNameError: No such output.
        InputError: None, or one that this network has not.
    """
    wanted = [outputs] if isinstance(outputs, str) else outputs
    if not isinstance(wanted, Iterable) or not (wanted := list(wanted)):
        raise InputError(f"outputs must name at least one of {', '.join(OUTPUTS)}; got {brief(outputs)}.")
    for name in wanted:
        if name not in OUTPUTS:
            raise UnknownNameError(
                f"Outputs are {', '.join(OUTPUTS)}; got {brief(name)}. {nearest(str(name), OUTPUTS)}"
            )
    known = check.known_outputs(encoder.config)
    if tuple(wanted) == DEFAULT_OUTPUTS and "logits" not in known:
        wanted = ["embedding"]
    for name in wanted:
        if name not in known:
            raise InputError(f"{encoder.config.name!r} gives {', '.join(known)}; got outputs {name!r}. Leave it out.")
    return tuple(name for name in OUTPUTS if name in wanted)


def _facts(weights: Weights, encoder: Encoder, outputs: tuple[str, ...], **how: Any) -> ProgramFacts:
    from .. import __version__

    card = weights.card
    known = provenance(Predictor(encoder, weights))
    return ProgramFacts(
        version=__version__,
        config=dataclasses.replace(encoder.config, decoder=None),
        preprocess=weights.preprocess.with_size(encoder.config.input_size),
        outputs=outputs,
        labels=None if weights.labels is None else tuple(weights.labels),
        name=card.name,
        license=card.license,
        commercial=card.commercial,
        dataset=card.dataset,
        base_model=card.facts.get("base_model"),
        citation=card.citation,
        source_sha256=known["sha256"],
        made_with={"torch": torch.__version__},
        **how,
    )


@contextlib.contextmanager
def _whole(place: Path) -> Iterator[Path]:
    """As `staged`: what is written in the folder appears beside the destination, all of it or nothing.

    Raises:
        ExportError: The place cannot be written, or was taken meanwhile.
    """
    try:
        with staged(place, new=True) as stage:
            yield stage
    except ExportError:
        raise
    except CheckpointError as error:
        raise ExportError(str(error)) from error


def _checked(
    path: Path,
    to: str,
    encoder: Encoder,
    facts: ProgramFacts,
    traced: tuple[int, ...],
    images: Calibration | None,
) -> ExportReport:
    """Open a written file as `load` does, and compare it with its network.

    Raises:
        ExportError: It cannot be opened, says other things than were written, or answers otherwise.
    """
    try:
        predictor = open_program(path, to)
    except CheckpointError as error:
        raise ExportError(f"The file that was written cannot be read back: {error}") from error
    if read_facts(path, to) != facts:
        raise ExportError(f"The metadata of the written file are not those of its network. {AGAIN}")
    sizes = check.sizes_to_check(encoder.config, traced, any_size=facts.any_size)
    program: Any = predictor.model
    if images is None:
        found = check.compare(encoder, program, sizes)
    else:
        found = check.compare_on(encoder, program, images.parts[1].float())
    check.require(found, facts.dtype)
    return ExportReport(
        path=path,
        difference=found.difference,
        cosine=found.cosine,
        sizes=tuple(sizes),
        speedup=check.speedup(encoder, program, sizes[0]),
        outputs=facts.outputs,
        dtype=facts.dtype,
        agreement=found.agreement,
        bytes=sum(each.stat().st_size for each in _names(path) if each.is_file()),
    )
