"""The rows of the table: who runs which network, whether they agree, and how long each takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import hierax
from hierax.model.encoder import Encoder
from hierax.model.engines import FastEncoder
from hierax.model.engines.eager import TorchEngine

from . import measure, peers, report

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How far from the readable encoder in float32 an answer may be; the cosine is the worst image's.
TOLERANCES = {
    "float32": ("max_difference", 1e-4),
    "bfloat16": ("cosine", 0.999),
    "int8": ("cosine", 0.99),
}


class WrongAnswerError(Exception):
    """Somebody in a case does not compute the same function, so no time there means anything."""


@dataclass(frozen=True)
class Case:
    """One row of the table: a network, a batch, and who else can run it."""

    model: str
    size: int
    batch: int
    others: dict[str, Callable[[Encoder], nn.Module]]
    quick: bool = True


@dataclass(frozen=True)
class Options:
    """How every case is run.

    An engine "int8" is `hierax.optimize(..., dtype="int8")`; "plain" and "packed" are the torch engine with these
    products.
    """

    rounds: int = 5
    clock: str = "wall"
    dtype: str = "float32"
    engines: tuple[str, ...] = ("torch",)
    compilers: tuple[str, ...] = ()


HIERADET = {"birder": partial(peers.birder_net, "hieradet_small", size=256)}
HIERA = {"meta": peers.meta_hiera, "timm": peers.timm_hiera, "transformers": peers.transformers_hiera}
TINY = {"timm": partial(peers.timm_hiera, name="hiera_tiny_224"), "transformers": peers.transformers_hiera}
CASES: dict[str, Case] = {
    "hiera_base_b8": Case("hiera_base_224", 224, 8, HIERA),
    "hiera_base_b1": Case("hiera_base_224", 224, 1, HIERA),
    "hiera_tiny_b8": Case("hiera_tiny_224", 224, 8, TINY, quick=False),
    "hieradet_small_b8": Case("hieradet_small", 256, 8, HIERADET),
    "hieradet_small_b1": Case("hieradet_small", 256, 1, HIERADET, quick=False),
    "sam2_small_b1": Case("sam2_hiera_small", 1024, 1, {"sam2": peers.sam2_trunk}, quick=False),
}


class LineUp:
    """Who takes part: each is built and asked once; whoever cannot is listed with the reason and stops nobody."""

    def __init__(self, expected: Tensor, dtype: str) -> None:
        self.expected, self.dtype = expected, dtype
        self.runners: dict[str, peers.Runner] = {}
        self.agreement: dict[str, dict[str, float]] = {}
        self.skipped: dict[str, str] = {}

    def add(self, name: str, build: Callable[[], peers.Runner]) -> None:
        """Build a runner and compare its first answer."""
        try:
            run = build()
            with torch.inference_mode():
                answer = run().float()
        except Exception as error:  # not installed, or broken: the others go on
            self.skip(name, error)
            return
        apart = report.agreement(answer, self.expected)
        if "int8" in name and not agrees(apart, "int8"):  # a loss of quantization, not another function
            self.skipped[name] = f"cosine {apart['cosine']:.4f} is below {TOLERANCES['int8'][1]}"
            return
        self.runners[name], self.agreement[name] = run, apart

    def skip(self, name: str, error: Exception) -> None:
        """Note why somebody is missing: the first cause, which exporters wrap in pages of advice."""
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        self.skipped[name] = f"{type(cause).__name__}: {cause}".replace("\n", " ")[:300]

    def not_lowered(self) -> list[str]:
        """Who is too exact for bfloat16: OpenVINO ignores that wish on a processor without it."""
        if self.dtype == "float32":
            return []
        return [name for name, apart in self.agreement.items() if apart["max_difference"] <= 1e-5]

    def check(self) -> None:
        """Refuse to time anybody where one answers differently."""
        wrong = {
            name: apart
            for name, apart in self.agreement.items()
            if not agrees(apart, "int8" if "int8" in name else self.dtype)
        }
        if wrong:
            raise WrongAnswerError(f"refused to time what answers differently: {wrong}")


def agrees(apart: dict[str, float], dtype: str) -> bool:
    """Whether an answer is within the tolerance of its precision; NaN is not."""
    measured, limit = TOLERANCES[dtype]
    return apart[measured] <= limit if measured == "max_difference" else apart[measured] >= limit


def run_case(name: str, case: Case, options: Options) -> dict:
    """Build, check, time and compare one case.

    Raises:
        WrongAnswerError: One answer is further from the readable encoder's than its precision allows.
    """
    encoder = peers.loud(hierax.create(case.model, input_size=case.size))
    x = torch.randn(case.batch, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        work = sum(measure.useful_flops(encoder, x).values())
        line = LineUp(encoder.embedding(x), options.dtype)
    choices = _add_ours(line, encoder, x, options)
    _add_others(line, case, encoder, x, options)
    line.check()
    products = measure.products(dtype=DTYPES[options.dtype])
    with torch.inference_mode():
        runs = {f"GEMM {name}": run for name, (run, _) in products.items()}
        seconds = measure.interleaved({**runs, **line.runners}, options.rounds, options.clock)
    rates = {name: count / min(seconds.pop(f"GEMM {name}")) for name, (_, count) in products.items()}
    ceiling = report.ceiling(rates, seconds, work)
    return {
        "case": name,
        "model": case.model,
        "input": list(x.shape),
        "dtype": options.dtype,
        "clock": options.clock,
        **report.comparison(seconds, eager=[who for who in case.others if who in seconds]),
        "choice": choices,
        "in_float32_all_the_same": line.not_lowered(),
        "useful_gflop": work / 1e9,
        "gemm_gflops": {name: rate / 1e9 for name, rate in rates.items()},
        "gemm_ceiling_gflops": ceiling / 1e9,
        "runners": {
            who: report.row(seconds[who], case.batch, work, None if "int8" in who else ceiling) | line.agreement[who]
            for who in line.runners
        },
        "skipped": line.skipped,
        "peak_memory_mb": measure.peak_memory_mb(),
    }


def _add_ours(line: LineUp, encoder: Encoder, x: Tensor, options: Options) -> dict[str, str]:
    """The readable encoder and each engine; what the engines say of themselves."""
    dtype = DTYPES[options.dtype]
    line.add("hierax readable", lambda: _embedding(peers.cast(encoder, dtype), x))
    choices: dict[str, str] = {}

    def engine(name: str) -> peers.Runner:
        asked = {"dtype": "int8"} if name == "int8" else {"dtype": dtype, "engine": name}
        if name in ("plain", "packed"):
            fast = FastEncoder(encoder, partial(TorchEngine, products=name)).to(dtype)
        else:
            fast = hierax.optimize(encoder, input_size=tuple(x.shape[2:]), **asked)
        choices[name] = str(fast.report) if name == "int8" else fast.choice
        return _embedding(fast, x)

    for name in options.engines:
        line.add(f"hierax {name}", partial(engine, name))
    return choices


def _embedding(encoder: Encoder, x: Tensor) -> peers.Runner:
    x = x.to(next(encoder.parameters()).dtype)
    return lambda: encoder.embedding(x)


def _add_others(line: LineUp, case: Case, encoder: Encoder, x: Tensor, options: Options) -> None:
    """Each peer as it is, and through each compiler."""
    dtype = DTYPES[options.dtype]
    for name, build in case.others.items():
        try:
            peer = build(encoder)
        except Exception as error:
            line.skip(name, error)
            continue
        line.add(name, partial(peers.eager, peer, x, dtype))
        for how in options.compilers:
            line.add(f"{name} {how}", partial(peers.compiled, peer, x, dtype, how))
