"""The mechanism: what people do with their model afterwards works as before, and undo leaves no trace."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hierax
from hierax.accelerate.peer import tensors_in
from hierax.accelerate.seam import placed

from ..members import loud, pixels
from ..peers import TINY
from .conftest import Pair, apart, image

pytestmark = pytest.mark.parity

EQUAL = 1e-5


def graph(obj: Any) -> list[Any]:
    """Everything that hangs on a network: attributes, hooks, parameters and their identities."""
    found = []
    for name, module in obj.named_modules():
        for key, value in sorted(module.__dict__.items()):
            kept = list(value.items()) if isinstance(value, dict) else value
            shown = [(k, id(v)) for k, v in kept] if isinstance(value, dict) else id(kept)
            found.append((name, id(module), key, shown))
    return found


@pytest.mark.parametrize("name", ["sam2", "transformers", "timm_sam2", "birder_abswin", "meta"])
def test_undo__leaves_no_trace(name: str) -> None:
    """A method, a hook or a buffer left behind is somebody's error in half a year."""
    module = TINY[name]().module
    x = pixels(1, 3, 64, 64)
    with torch.no_grad():
        before, was = dict(tensors_in(module(x))), graph(module)
        handle = hierax.accelerate(module, engine="torch", check=False)
        assert graph(module) != was
        module(x)
        handle.undo()
        assert graph(module) == was
        after = dict(tensors_in(module(x)))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    handle.undo()  # twice is once


def test_context__undoes_at_the_end(pair: Pair) -> None:
    """Also when the block fails."""
    module, twin = pair()
    hierax.restore(twin)

    def block() -> None:
        with hierax.accelerate(twin, engine="torch", check=False) as handle:
            assert hierax.is_accelerated(twin)
            assert handle.kept
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert not hierax.is_accelerated(twin)
    assert apart(module, twin) == 0


def test_again__is_the_same(pair: Pair) -> None:
    """A second call that wrapped the first would leave something after one undo."""
    _, twin = pair()
    first = hierax.accelerate(twin, engine="torch", check=False)
    assert hierax.accelerate(twin, engine="torch", check=False) is first
    other = hierax.accelerate(twin, engine="torch", dtype="bfloat16", check=False)
    assert other is not first
    hierax.restore(twin)
    assert not hierax.is_accelerated(twin)
    assert not other.kept


def test_deepcopy__answers_with_its_own_weights(pair: Pair) -> None:
    """Closures and wrappers of other tools compute a copy's answer with the original's weights."""
    module, twin = pair()
    copied = copy.deepcopy(twin)
    assert hierax.is_accelerated(copied)
    loud(copied, seed=3)
    loud(module, seed=3)
    assert apart(copied, module) <= EQUAL
    assert apart(twin, module) > 100 * EQUAL
    other = hierax.accelerate(copied, engine="torch", check=False)  # a handle of its own
    other.undo()
    assert not hierax.is_accelerated(copied)
    assert hierax.is_accelerated(twin)


def test_pickle__is_a_plain_model(pair: Pair, tmp_path: Path) -> None:
    """A file that needs hierax to be read, or that holds a second set of weights, is not the model's own."""
    module, twin = pair()
    image_of = {name: pickle.dumps(each) for name, each in (("plain", module), ("fast", twin))}
    assert b"hierax" not in image_of["fast"]
    assert len(image_of["fast"]) < len(image_of["plain"]) + 2000
    read = pickle.loads(image_of["fast"])
    assert not hierax.is_accelerated(read)
    assert apart(read, module) == 0
    torch.save(twin, tmp_path / "model.pt")
    code = (
        "import sys, torch; sys.modules['hierax'] = None; torch.set_num_threads(1)\nfrom tests.peers import prepare"
        if False
        else "import sys, torch; sys.modules['hierax'] = None\n"
    ) + (
        f"m = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        "x = torch.zeros(1, 3, 64, 64); print(tuple(m(x).shape))"
    )
    done = subprocess.run([sys.executable, "-c", _SCHEMAS + code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 5)", done.stderr


_SCHEMAS = (
    "import torch\n"
    "for n in ('nms', 'qnms'):\n"
    "    torch.library.define(f'torchvision::{n}', '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
)


def test_state_dict__moves_both_ways(pair: Pair) -> None:
    """Keys, order, buffers and `strict` are the peer's."""
    module, twin = pair()
    assert list(twin.state_dict()) == list(module.state_dict())
    assert [name for name, _ in twin.named_modules()] == [name for name, _ in module.named_modules()]
    stream = io.BytesIO()
    torch.save(loud(module, seed=5).state_dict(), stream)
    stream.seek(0)
    twin.load_state_dict(torch.load(stream, weights_only=True))
    assert apart(twin, module) <= EQUAL


def test_to__moves_and_casts(pair: Pair) -> None:
    """An engine that stayed behind in float32 would answer in the wrong type, or not at all."""
    module, twin = pair("sam2")
    x = image(1, 3, 96, 160)
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float64, 1e-12), (torch.float32, EQUAL)):
        module.to(dtype)
        twin.to(dtype)
        assert next(twin.parameters()).dtype == dtype
        assert apart(twin, module, x.to(dtype)) <= tolerance
        with torch.no_grad():
            assert {grid.dtype for grid in twin(x.to(dtype))} == {dtype}
    twin.to("meta")
    with torch.no_grad():
        assert all(grid.is_meta for grid in twin(x.to("meta")))


def test_hooks__on_the_model_fire(pair: Pair) -> None:
    """`register_forward_hook` on the model is how people collect features and count calls."""
    module, twin = pair()
    seen: list[tuple[torch.Size, ...]] = []
    for each in (module, twin):
        each.register_forward_pre_hook(lambda _, args: seen.append((args[0].shape,)))
        each.register_forward_hook(lambda _, args, output: seen.append((args[0].shape, output.shape)))
        each.register_forward_hook(lambda *_: _[-1] * 2)
    assert apart(twin, module) <= EQUAL
    assert seen[:2] == seen[2:]


def test_hooks__inside_run_the_original(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """A fast path that passes over blocks silences every hook on them."""
    module, twin = pair()
    fired: list[Tensor] = []
    handle = twin.get_submodule("blocks.2").register_forward_hook(lambda *args: fired.append(args[-1]))
    assert apart(twin, module) == 0
    assert len(fired) == 1
    apart(twin, module)
    assert sum("hooks on a layer" in record.message for record in caplog.records) == 1  # said once
    handle.remove()
    assert 0 < apart(twin, module) <= EQUAL


def test_signature__is_the_peers(pair: Pair) -> None:
    """transformers' Trainer drops the columns that `forward` does not name."""
    import inspect

    module, twin = pair("transformers")
    ours, theirs = (inspect.signature(each.get_submodule("hiera").forward) for each in (twin, module))
    assert ours == theirs


def test_replicas__run_their_own(pair: Pair) -> None:
    """torch.nn.DataParallel copies the dictionary: a bound method would answer with the first device's weights."""
    module, twin = pair()
    replica = twin._replicate_for_data_parallel()
    assert placed(replica) is None
    assert "forward_features" not in replica.__dict__
    assert hierax.is_accelerated(twin)
    assert type(replica) is type(module)


def test_threads__share_one_model(pair: Pair) -> None:
    """Two first calls at once would build twice, or see half of an engine."""
    module, twin = pair()
    images = [pixels(1, 3, 64, 64, seed=seed) for seed in range(8)]
    with torch.no_grad():
        expected = [module(x) for x in images]
    start = threading.Barrier(4)

    def work(turn: int) -> list[Tensor]:
        start.wait()
        with torch.no_grad():
            return [twin(images[(turn + i) % 8]) for i in range(8)]

    with ThreadPoolExecutor(4) as pool:
        for turn, answers in enumerate(pool.map(work, range(4))):
            for i, answer in enumerate(answers):
                assert torch.allclose(answer, expected[(turn + i) % 8], atol=EQUAL)


def test_compile_export_trace__see_the_original(pair: Pair) -> None:
    """A compiler that met an engine would break its graph there, or bake old weights in."""
    module, twin = pair()
    x = image()
    with torch.no_grad():
        wanted = module(x)
        compiled = torch.compile(twin, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), wanted)
        exported = torch.export.export(twin, (x,)).module()
        assert torch.allclose(exported(x), wanted, atol=EQUAL)
        traced = torch.jit.trace(twin, x, check_trace=False)
        assert torch.allclose(traced(x), wanted, atol=EQUAL)


def test_subclass_and_class_patches__are_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody puts on the class afterwards is what falls back."""
    _, twin = pair()
    kind = type(twin)
    monkeypatch.setattr(kind, "forward_features", lambda self, x, mask=None: x.new_zeros(1, 4, 128))
    twin.train()
    assert isinstance(twin, nn.Module)
    assert not twin.forward_features(image()).any()
