"""Every branch of the engines that compile and that a processor selects, forced: quick, on one tiny network.

They run in a process of their own: OpenVINO starts threads, and a process that holds them must not fork, as tests of
training do.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hierax.model.encoder import Encoder
from hierax.model.engines import optimize, processor
from hierax.model.engines.base import EMBEDDING

from ...members import det_config, loud, pixels
from ...tolerance import FP32, distance

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("openvino", "nncf"))), reason="the extras openvino and int8 are missing"
    ),
]
Alone = Callable[..., Any]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    """Calls a function of this module in the other process, which keeps what it converts in a folder of its own."""
    with ProcessPoolExecutor(1, get_context("spawn"), begin, (str(tmp_path_factory.mktemp("cache")),)) as pool:
        yield lambda function, *args: pool.submit(function, *args).result(timeout=1800)


def begin(cache: str) -> None:
    """Of the other process."""
    torch.set_num_threads(1)
    os.environ.update(HIERAX_CACHE=cache, HIERAX_CACHE_LIMIT="5GB")


def encoder() -> Encoder:
    """One block a stage, one of them global; windows of the last two stages are cut."""
    return loud(Encoder(det_config(depths=(1, 1, 1, 1), global_blocks=(2,), head="norm_pool", num_classes=4)))


def computes(native: str, dtype: str) -> None:
    """In that precision, whatever the input's type is."""
    os.environ["HIERAX_FORCE_BF16"] = native
    exact = encoder()
    fast = optimize(exact, dtype=dtype, engine="auto" if native == "1" else "openvino")
    assert fast.choice == f"engine openvino, {'bf16' if native == '1' else 'f32'} on cpu"
    x = pixels(3, 3, 64, 64)
    with torch.inference_mode():
        wanted = {"logits": exact(x), **exact.detection_features(x, ["stage2"])}
        for given in (torch.float32, torch.bfloat16):
            said = {"logits": fast(x.to(given)), **fast.detection_features(x.to(given), ["stage2"])}
            assert {str(answer.dtype) for answer in said.values()} == {f"torch.{dtype}"}
            for key, answer in said.items():
                assert F.cosine_similarity(answer.float().flatten(), wanted[key].flatten(), dim=0) > 0.995
                if given == torch.float32 == answer.dtype:
                    assert distance(answer, wanted[key]) <= FP32


@pytest.mark.parametrize(("native", "dtype"), [("0", "float32"), ("0", "bfloat16"), ("1", "bfloat16")])
def test_openvino__computes_in(native: str, dtype: str, alone: Alone) -> None:
    """A head left in float32 could not take the engine's bfloat16; a processor must not decide who meets that."""
    alone(computes, native, dtype)


def quantizes(vnni: str, largest: int) -> None:
    """To weights of at most that size, and to embeddings that point the same way where products are exact; once."""
    import nncf

    os.environ.pop("HIERAX_FORCE_VNNI", None)
    exact_products = vnni == "0" or processor.exact_int8()
    os.environ.update(HIERAX_FORCE_VNNI=vnni, HIERAX_FORCE_BF16="0")
    exact, x = encoder(), pixels(2, 3, 64, 64)
    again = partial(optimize, exact, dtype="int8", calibration=pixels(4, 3, 64, 64), input_size=64)
    fast = again()
    assert fast.choice == "engine openvino, int8 on cpu"
    assert fast.report.int8_share > 0.8
    nodes = fast.current().model((3, 64, 64), EMBEDDING).get_ordered_ops()
    weights = [node.data for node in nodes if node.get_type_name() == "Constant"]
    found = max(np.abs(w.astype(int)).max() for w in weights if w.dtype == np.int8 and w.ndim == 2)
    assert found in (largest - 1, largest)
    with torch.inference_mode():
        ours, theirs = fast.embedding(x), exact.embedding(x)
    assert ours.dtype == torch.float32
    with mock.patch.object(nncf, "quantize", None), torch.inference_mode():
        kept = again()
        assert torch.equal(kept.embedding(x), ours)
        assert torch.equal(copy.deepcopy(kept).embedding(x), ours)
        assert kept.report == fast.report
    assert not exact_products or F.cosine_similarity(ours, theirs).min() >= 0.99


@pytest.mark.parametrize(("vnni", "largest"), [("0", 64), ("1", 128)])
def test_int8__spares_a_bit_without_vnni(vnni: str, largest: int, alone: Alone) -> None:
    """Weights of eight bits overflow where products add pairs in 16 bits; seven elsewhere waste one."""
    alone(quantizes, vnni, largest)
