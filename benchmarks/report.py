"""What is made of the times: agreement, ratios, the printed rows and the dated file."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import torch
from torch import Tensor

from . import measure

RESULTS = Path(__file__).parent / "results"


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, on the scale of the reference where that is above 1."""
    return (ours - theirs).abs().max().item() / max(1.0, theirs.abs().max().item())


def agreement(answer: Tensor, expected: Tensor) -> dict[str, float]:
    """Largest difference, and the cosine of the image that is furthest off."""
    if answer.shape != expected.shape:
        return {"max_difference": float("inf"), "cosine": float("nan")}
    cosine = torch.nn.functional.cosine_similarity(answer.double(), expected.double(), dim=-1)
    return {"max_difference": difference(answer, expected), "cosine": cosine.min().item()}


def ceiling(products: dict[str, float], seconds: dict[str, list[float]], work: float) -> float:
    """The highest rate seen, FLOP/s: of the products, or of a runner whose own are faster; int8 is another currency."""
    return max(*products.values(), *(work / min(times) for who, times in seconds.items() if "int8" not in who))


def row(seconds: list[float], batch: int, work: float, ceiling: float | None) -> dict:
    """One runner's numbers; without a ceiling, no share of it."""
    short = measure.summary(seconds)
    rate = work / short["median_s"]
    return {
        **short,
        "images_per_s": batch / short["median_s"],
        "gflops": rate / 1e9,
        "share_of_gemm_ceiling": None if ceiling is None else rate / ceiling,
        "seconds": seconds,
    }


def comparison(seconds: dict[str, list[float]], eager: list[str]) -> dict:
    """Ratios of ours to the best peer as it is, and to the best peer through anything.

    Ours are the runners named "hierax ..."; "hierax int8" computes in another precision, so it is no candidate for
    our best engine and has a ratio of its own, to the best of all others.
    """
    ours = [who for who in seconds if who.startswith("hierax")]
    exact = [who for who in ours if who not in ("hierax readable", "hierax int8")]
    rivals = [who for who in seconds if who not in ours]
    best = {
        "best_eager_peer": fastest(seconds, eager),
        "best_peer": fastest(seconds, rivals),
        "best_engine": fastest(seconds, exact),
    }
    found = {
        **best,
        "ratios_to_best_eager_peer": against(seconds, best["best_eager_peer"], ours),
        "ratios_to_best_peer": against(seconds, best["best_peer"], ours),
    }
    if "hierax int8" in seconds:
        other = fastest(seconds, [who for who in seconds if who != "hierax int8"])
        found["int8"] = {"against": other, "ratios": against(seconds, other, ["hierax int8"])}
    return found


def fastest(seconds: dict[str, list[float]], names: list[str]) -> str | None:
    """The name with the smallest median."""
    return min(names, key=lambda who: measure.summary(seconds[who])["median_s"], default=None)


def against(seconds: dict[str, list[float]], rival: str | None, names: list[str]) -> dict[str, dict[str, float]]:
    """How many times faster than the rival each is; nothing without a rival."""
    return {} if rival is None else {who: measure.ratio(seconds[rival], seconds[who]) for who in names}


def show(result: dict) -> None:
    """One case for people."""
    print(f"\n{result['case']}: {result['model']} {result['input']} {result['dtype']}")
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in result["gemm_gflops"].items())
    print(f"  {result['clock']} clock; GEMM ceiling {result['gemm_ceiling_gflops']:.0f} GFLOP/s (products: {rates})")
    for title, rival, ratios in (
        ("best eager peer", result["best_eager_peer"], result["ratios_to_best_eager_peer"]),
        ("best peer through anything", result["best_peer"], result["ratios_to_best_peer"]),
        ("int8 to the best of all others", *result.get("int8", {"against": None, "ratios": {}}).values()),
    ):
        if rival:
            print(f"  {title}: {rival}")
        for who, value in ratios.items():
            mark = " <- our best engine" if who == result["best_engine"] else ""
            print(
                f"    {who:24s} x{value['median']:.2f} (medians {value['of_medians']:.2f}, "
                f"fastest {value['of_fastest']:.2f}){mark}"
            )
    for who, numbers in result["runners"].items():
        share = numbers["share_of_gemm_ceiling"]
        print(
            f"  {who:24s} {numbers['images_per_s']:6.2f} images/s  {numbers['gflops']:5.0f} GFLOP/s "
            f"({'-' if share is None else f'{share:.0%}'} of GEMM)  spread {numbers['spread']:.0%}  "
            f"differs {numbers['max_difference']:.1e}  cosine {numbers['cosine']:.5f}"
        )
    if result["in_float32_all_the_same"]:
        print(f"  computed in float32 all the same: {', '.join(result['in_float32_all_the_same'])}")
    for who, reason in result["skipped"].items():
        print(f"  without {who}: {reason}")


def write(result: dict, folder: Path = RESULTS) -> Path:
    """A new dated file; none is ever overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d-%H%M%S")
    number = 1
    while True:
        path = folder / (f"{stamp}.json" if number == 1 else f"{stamp}-{number}.json")
        try:
            with path.open("x") as file:
                file.write(json.dumps({"date": stamp, **result}, indent=1) + "\n")
        except FileExistsError:
            number += 1
        else:
            print(f"\nwrote {path.name} in {folder.name}")
            return path
