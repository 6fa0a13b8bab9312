"""The benchmark runner on a tiny network: whom it refuses, whom it leaves out, what it makes of times, where it writes."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from benchmarks import cases, measure, report, run, table
from benchmarks.cases import Case, Options, WrongAnswerError, run_case
from benchmarks.peers import Peer
from torch import Tensor, nn

import hierax
from hierax.config import block_table
from hierax.model.encoder import Encoder
from hierax.model.engines import native_bfloat16

MODEL, SIZE = "hiera_nano_96", 96


def peer(answer: Callable[[Encoder, Tensor], Tensor]) -> Callable[[Encoder], Peer]:
    """A peer that has our weights and answers so."""
    return lambda encoder: Peer(copy.deepcopy(encoder), answer)


def missing(encoder: Encoder) -> nn.Module:
    """A package that is not installed."""
    raise ImportError("No module named 'elsewhere'")


SAME = peer(lambda m, x: m.embedding(x))
WRONG = peer(lambda m, x: m.embedding(x) * 1.001)
NAN = peer(lambda m, x: m.embedding(x) * float("nan"))
BROKEN = peer(lambda m, x: m.no_such_method(x))


def tiny(**others: Callable[[Encoder], nn.Module]) -> Case:
    """A case of a second or so."""
    return Case(MODEL, SIZE, 2, others)


def test_run_case__times_what_agrees() -> None:
    """A runner left out, a round lost, or a ratio upside down would make the table wrong."""
    result = run_case("tiny", tiny(same=SAME), Options(rounds=3))
    assert set(result["runners"]) == {"hierax readable", "hierax torch", "same"}
    assert result["input"] == [2, 3, SIZE, SIZE]
    assert result["skipped"] == {}
    for row in result["runners"].values():
        assert len(row["seconds"]) == 3
        assert row["images_per_s"] == pytest.approx(2 / statistics.median(row["seconds"]))
        assert row["max_difference"] <= 1e-4
    assert result["best_eager_peer"] == result["best_peer"] == "same"
    assert result["best_engine"] == "hierax torch"
    json.dumps(result)
    report.show(result)


@pytest.mark.parametrize("other", [WRONG, NAN])
def test_run_case__refuses_another_answer(other: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time of something else is no time: nothing may be measured once an answer differs, or is not a number."""
    monkeypatch.setattr(measure, "interleaved", lambda *_: pytest.fail("timed what answers differently"))
    with pytest.raises(WrongAnswerError, match="'other'"):
        run_case("tiny", tiny(same=SAME, other=other), Options(rounds=1))


def test_run_case__leaves_out_what_fails() -> None:
    """One broken package must not take the others' numbers with it, nor vanish without a word."""
    options = Options(rounds=1, engines=("torch", "no_such_engine"), compilers=("no_such_compiler",))
    result = run_case("tiny", tiny(missing=missing, broken=BROKEN, same=SAME), options)
    assert set(result["runners"]) == {"hierax readable", "hierax torch", "same"}
    assert set(result["skipped"]) == {
        "hierax no_such_engine",
        "missing",
        "broken",
        "broken no_such_compiler",
        "same no_such_compiler",
    }
    assert "elsewhere" in result["skipped"]["missing"]
    report.show(result)


def test_run_case__no_share_above_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow BLAS taken for the ceiling made 226 % of it out of a product that was merely better."""
    slow = {"BLAS": (lambda: sum(range(10_000)), 1.0), "packed": (lambda: sum(range(20_000)), 1.0)}
    monkeypatch.setattr(measure, "products", lambda dtype: slow)
    result = run_case("tiny", tiny(same=SAME), Options(rounds=1))
    shares = {who: row["share_of_gemm_ceiling"] for who, row in result["runners"].items()}
    assert max(shares.values()) == 1.0
    assert set(result["gemm_gflops"]) == {"BLAS", "packed"}


def test_ceiling__of_any_engine() -> None:
    """The first, or BLAS alone, would be beaten by the others; int8 operations are cheaper and are no measure."""
    assert report.ceiling({"BLAS": 1.0, "packed": 3.0, "OpenVINO": 2.0}, {"slow": [9.0]}, 9.0) == 3.0
    assert report.ceiling({"BLAS": 1.0}, {"fast": [3.0, 2.0], "hierax int8": [0.1]}, 8.0) == 4.0
    assert report.row([1.0], 1, 1.0, None)["share_of_gemm_ceiling"] is None


@pytest.mark.parametrize("name", ["hiera_nano_96", "sam2_hiera_tiny"])
def test_useful_flops__no_padded_rows(name: str) -> None:
    """Rows that only fill windows up are work that a faster network leaves out, not work that it does faster."""
    encoder = hierax.create(name, input_size=128).eval()
    config, tokens = encoder.config, math.prod(encoder.config.grid((128, 128)))
    patch = math.prod(config.patch_kernel) * config.in_channels
    wanted = tokens * patch * config.embed_dim
    for spec in block_table(config):
        wide = 3 + (spec.dim_in != spec.dim_out)  # q, k, v and the shortcut
        wanted += tokens * wide * spec.dim_in * spec.dim_out
        tokens //= math.prod(spec.q_stride or (1,))
        wanted += tokens * (1 + 2 * config.mlp_ratio) * spec.dim_out**2
    x = torch.zeros(2, 3, 128, 128)
    assert measure.useful_flops(encoder, x)["products"] == 2 * 2 * wanted
    with torch.no_grad():
        padded = measure.flops(lambda: encoder.embedding(x))["products"]
    assert padded == 2 * 2 * wanted if name == "hiera_nano_96" else padded > 2 * 2 * wanted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products__compute_one_thing(dtype: torch.dtype) -> None:
    """A product of another shape, or with its weights transposed, would set the wrong ceiling."""
    for product, count in measure.products(size=16, rows=8, dtype=dtype).values():
        assert count == 2 * 8 * 16 * 64
        out = product()
        assert tuple(out[0].shape if not isinstance(out, Tensor) else out.shape) == (8, 64)


def test_run_case__without_peers() -> None:
    """A machine without any peer still gets our times, without ratios."""
    result = run_case("tiny", tiny(missing=missing), Options(rounds=1))
    assert result["best_peer"] is None
    assert result["ratios_to_best_peer"] == result["ratios_to_best_eager_peer"] == {}
    report.show(result)


def test_run_case__bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody is cast: a runner left in float32 would differ less than bfloat16 can, and be timed unfairly."""
    whole = measure.products  # takes seconds where the processor has no bfloat16
    monkeypatch.setattr(measure, "products", lambda dtype: whole(rows=8, dtype=dtype))
    result = run_case("tiny", tiny(same=SAME), Options(rounds=1, dtype="bfloat16"))
    assert set(result["runners"]) == {"hierax readable", "hierax torch", "same"}
    for row in result["runners"].values():
        assert row["cosine"] >= 0.999
        assert row["max_difference"] > 1e-5
    assert result["in_float32_all_the_same"] == []
    with pytest.raises(WrongAnswerError):
        run_case("tiny", tiny(flipped=peer(lambda m, x: m.embedding(x.flip(-1)))), Options(1, dtype="bfloat16"))


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("how", "package"), [("openvino", "openvino"), ("onnxruntime", "onnxruntime"), ("compile", "torch")]
)
def test_run_case__through_compilers(how: str, package: str) -> None:
    """A peer through a compiler is a rival of its own, checked like the rest; five-axis attention must not stop it."""
    pytest.importorskip(package)
    result = run_case("tiny", tiny(same=SAME), Options(rounds=1, compilers=(how,)))
    assert result["skipped"] == {}
    assert result["runners"][f"same {how}"]["max_difference"] <= 1e-4


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="the extra int8 is not installed")
def test_run_case__int8() -> None:
    """int8 is measured by its cosine, against the best of all others; by equality it would be refused."""
    result = run_case("tiny", tiny(same=SAME), Options(rounds=1, engines=("torch", "int8")))
    assert result["best_engine"] == "hierax torch"
    if "hierax int8" not in result["runners"]:
        assert "cosine" in result["skipped"]["hierax int8"]
    else:
        assert 0.99 <= result["runners"]["hierax int8"]["cosine"] < 1 - 1e-7
        assert result["int8"]["against"] in ("same", "hierax readable", "hierax torch")
        assert result["choice"]["int8"].startswith("int8 against float32")


def test_line_up__int8_below_its_tolerance_is_left_out() -> None:
    """A bad quantization is a result about int8; it must not stop the case, nor be timed."""
    expected = torch.eye(2)
    line = cases.LineUp(expected, "float32")
    line.add("hierax int8", lambda: lambda: expected + 0.3)
    line.add("hierax readable", lambda: lambda: expected)
    line.check()
    assert list(line.runners) == ["hierax readable"]
    assert "0.99" in line.skipped["hierax int8"]


def test_line_up__names_who_stayed_in_float32() -> None:
    """A compiler that ignores the wish for bfloat16 would be taken for a bfloat16 runner."""
    expected = torch.randn(2, 8)
    line = cases.LineUp(expected, "bfloat16")
    line.add("deaf", lambda: lambda: expected + 1e-7)
    line.add("cast", lambda: lambda: expected.bfloat16().float())
    line.check()
    assert line.not_lowered() == ["deaf"]


def test_comparison__arithmetic() -> None:
    """Ratios upside down, our own runner as rival, or the readable encoder or int8 as our best engine: a wrong table."""
    seconds = {
        "hierax readable": [1.0, 1.0, 1.0],
        "hierax torch": [2.0, 2.0, 4.0],
        "hierax openvino": [1.0, 2.0, 3.0],
        "hierax int8": [0.5, 0.5, 0.5],
        "meta": [6.0, 4.0, 8.0],
        "timm": [9.0, 9.0, 9.0],
        "timm openvino": [3.0, 3.0, 3.0],
    }
    found = report.comparison(seconds, eager=["meta", "timm"])
    assert (found["best_eager_peer"], found["best_peer"]) == ("meta", "timm openvino")
    assert found["best_engine"] in ("hierax torch", "hierax openvino")
    torch_engine = found["ratios_to_best_eager_peer"]["hierax torch"]
    assert torch_engine == {"median": 2.0, "of_medians": 3.0, "of_fastest": 2.0}
    assert found["ratios_to_best_peer"]["hierax openvino"] == {"median": 1.5, "of_medians": 1.5, "of_fastest": 3.0}
    assert found["int8"] == {
        "against": "hierax readable",
        "ratios": {"hierax int8": {"median": 2.0, "of_medians": 2.0, "of_fastest": 2.0}},
    }


def test_interleaved__in_turn() -> None:
    """All rounds of one runner before the next's would charge a busy minute to one of them."""
    asked: list[str] = []
    runners = {name: (lambda name=name: asked.append(name)) for name in "abc"}
    seconds = measure.interleaved(runners, rounds=2)
    assert "".join(asked) == "abc" + "bca" + "cab"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2, "c": 2}


def test_write__never_overwrites(tmp_path: Path) -> None:
    """Two runs that end within one second must both be kept."""
    paths = [report.write({"run": i}, tmp_path) for i in range(4)]
    assert len(set(paths)) == 4
    assert [json.loads(path.read_text())["run"] for path in paths] == [0, 1, 2, 3]


def test_main__writes_what_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused row that stopped the run would lose the good ones; one that passed silently would look like success."""
    monkeypatch.setattr(run, "CASES", {"bad": tiny(wrong=WRONG), "good": tiny(same=SAME)})
    with pytest.raises(SystemExit) as stopped:
        run.main(["--quick", "--rounds", "1", "--out", str(tmp_path)])
    assert "bad: refused" in str(stopped.value.code)  # Python prints it and exits with 1
    (path,) = tmp_path.iterdir()
    written = json.loads(path.read_text())
    assert [case["case"] for case in written["cases"]] == ["good"]
    assert list(written["refused"]) == ["bad"]
    assert written["environment"]["native_bfloat16"] == native_bfloat16()
    assert written["command"].startswith("python -m benchmarks --quick --rounds 1")


def test_main__interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the last case of a long run must not throw the others away, nor look like a whole run."""

    def run_or_stop(name: str, case: Case, options: Options) -> dict:
        if name == "second":
            raise KeyboardInterrupt
        return run_case(name, case, options)

    monkeypatch.setattr(run, "run_case", run_or_stop)
    monkeypatch.setattr(run, "CASES", dict.fromkeys(("first", "second", "third"), tiny(same=SAME)))
    with pytest.raises(SystemExit, match="second: interrupted"):
        run.main(["--quick", "--rounds", "1", "--out", str(tmp_path)])
    written = json.loads(next(tmp_path.iterdir()).read_text())
    assert [case["case"] for case in written["cases"]] == ["first"]


def test_main__unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt engine would be skipped after minutes of the others' times."""
    with pytest.raises(SystemExit):
        run.main(["--engines", "torch,openvno"])
    assert "openvno" in capsys.readouterr().err


def test_supervised_and_masked_steps__refuse_another_loss() -> None:
    """Steps of networks that compute different losses say nothing about speed."""
    from benchmarks.mae import Trainee, compare

    def trainee(value: float) -> Trainee:
        module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(module.weight, value)
        return Trainee(module, lambda m: m.weight.sum(), lambda m: m.weight.sum())

    same = compare({"hierax": trainee(1.0), "other": trainee(1.0)}, 2, "cpu")
    assert same["best_peer"] == "other"
    assert len(same["seconds"]["other"]) == 2
    with pytest.raises(WrongAnswerError, match="losses differ"):
        compare({"hierax": trainee(1.0), "other": trainee(1.1)}, 1, "cpu")


def test_table__is_what_the_readme_shows() -> None:
    """A number typed by hand, or left from an older file, would stand in the README as measured."""
    root = Path(__file__).resolve().parents[1]
    _, _, after = (root / "README.md").read_text("utf-8").partition("<!-- speed: ")
    name, _, rest = after.partition(" -->\n")
    shown = rest.partition("\n<!-- end of speed -->")[0]
    assert shown == table.table(json.loads((root / name).read_text("utf-8")))
