"""torch.export archives in torch, which reads them only after they were looked through.

torch's own reader unpickles, evaluates text as Python and resolves any name: a stranger's file could run anything.
What `export` writes has none of these, and a file that has is refused before torch sees it.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import CheckpointError

_ENTRIES = re.compile(
    r"(data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/sample_inputs/model\.pt|models/model\.json|extra/hierax\.json|archive_(format|version)|byteorder"
    r"|\.data/(version|serialization_id))"
)
# Conditions in Python, code elsewhere, objects of any class: keys whose values must be empty.
_NEVER = (
    "guards_code", "metadata", "as_graph", "as_operator", "as_custom_obj", "custom_obj_values",
    "treespec_namedtuple_fields", "custom_obj",
)  # fmt: skip
_ATEN = """
    _assert_scalar.default _assert_tensor_metadata.default _to_copy.default abs.default add.Tensor add.Scalar
    alias.default arange.default arange.start arange.start_step cat.default clamp.default clone.default
    contiguous.default conv2d.default conv3d.default detach.default div.Tensor div.Scalar dropout.default
    expand.default flatten.using_ints full.default full_like.default gelu.default index_select.default
    layer_norm.default le.Scalar lift_fresh_copy.default linear.default matmul.default maximum.default mean.dim
    movedim.int mul.Tensor mul.Scalar new_full.default new_zeros.default pad.default permute.default repeat.default
    reshape.default rsub.Scalar scaled_dot_product_attention.default select.int slice.Tensor split.Tensor
    squeeze.dim sub.Tensor sub.Scalar sum.dim_IntList sym_size.int to.dtype to.dtype_layout to.device
    transpose.int unflatten.int unsqueeze.default view.default where.self where.ScalarOther zeros_like.default
    tile.default chunk.default slice_scatter.default reciprocal.default mul.int
"""
_OPERATORS = {f"torch.ops.aten.{name}" for name in _ATEN.split()}
_OPERATORS |= {f"_operator.{name}" for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "truediv", "getitem")}
_OPERATORS |= {f"_operator.{name}" for name in ("eq", "ne", "le", "lt", "ge", "gt")} | {"torch.sym_float"}
# What sizes are computed by; sympy evaluates the text.
_WORDS = re.compile(
    r"Symbol|Integer|Rational|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|Max|Min|TruncToInt|ToFloat|FloorToInt|CeilToInt"
    r"|IntTrueDiv|FloatTrueDiv|positive|nonnegative|integer|True|False|s\d+|u\d+|zuf\d+"
)
_TOKENS = re.compile(r"\s+|[-+*/(),=]|\d+|'([A-Za-z]\w*)'|([A-Za-z_]\w*)")
_LONGEST = 20_000


class TorchProgram:
    """A program of torch.export, run by torch itself.

    Args:
        path: The archive.
        outputs: Its outputs, in order.
        torch_version: Of the torch that wrote it.

    Raises:
        CheckpointError: Not as `export` writes them, or of another torch.
    """

    def __init__(self, path: Path, outputs: Sequence[str], torch_version: str) -> None:
        self.outputs = tuple(outputs)
        if torch_version != torch.__version__:
            raise CheckpointError(
                f"A torch.export file is read by the torch that wrote it; {path} is of {torch_version}, and this is "
                f"{torch.__version__}. Export it again here, or install that one."
            )
        archive = io.BytesIO(path.read_bytes())  # what is looked through is what is read
        try:
            found = _suspicion(archive)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path} is damaged ({type(error).__name__}). Copy or export it again.") from error
        if found:
            raise CheckpointError(
                f"A torch.export file may run anything when it is read, so only what hierax itself writes is; {path} "
                f"has {found}. Nothing of it was run. Write it with `hierax export`."
            )
        archive.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._run = torch.export.load(archive).module()
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            raise CheckpointError(f"torch {torch.__version__} cannot run {path}: {reason}. Export it again.") from error

    def __call__(self, x: Float[Tensor, "b 3 *pixels"], names: Sequence[str]) -> dict[str, Tensor]:
        """Those outputs by name."""
        with torch.inference_mode(False), torch.no_grad():
            found = self._run(x.clone() if x.is_inference() else x)
        by_name = dict(zip(self.outputs, found, strict=True))
        return {name: by_name[name].contiguous() for name in names}


def _suspicion(archive: io.BytesIO) -> str | None:
    """What an archive has that `export` never writes; None where it has nothing of the kind."""
    with zipfile.ZipFile(archive) as records:
        names = {entry.filename.partition("/")[2]: entry for entry in records.infolist()}
        folders = {entry.filename.partition("/")[0] for entry in records.infolist()}
        if len(folders) != 1 or len(names) != len(records.infolist()):
            return "records twice"
        for name, entry in names.items():
            if not _ENTRIES.fullmatch(name) or entry.compress_type != zipfile.ZIP_STORED:
                return f"a record {name[:80]!r}"
            if name.endswith("model.pt") and entry.file_size:
                return "pickled sample inputs"
        texts = {name: records.read(entry) for name, entry in names.items() if name.endswith(".json")}
    for kind in ("weights", "constants"):
        for entry in json.loads(texts[f"data/{kind}/model_{kind}_config.json"])["config"].values():
            if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                return "pickled weights"
    return _suspicious_part(json.loads(texts["models/model.json"]))


def _suspicious_part(model: Any) -> str | None:
    """What a program has that no network of ours needs."""
    for key, value in _pairs(model):
        if key == "target" and value not in _OPERATORS:
            return f"an operator {str(value)[:80]!r}"
        if key == "expr_str" and not _is_arithmetic(str(value)):
            return f"an expression {str(value)[:80]!r}"
        if key in _NEVER and value not in (None, [], {}):
            return f"{key} {str(value)[:80]!r}"
    return None


def _pairs(data: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(data, list):
        for value in data:
            yield from _pairs(value)


def _is_arithmetic(text: str) -> bool:
    """Whether a text is sums and quotients of sizes, which sympy may evaluate."""
    at = 0
    while at < len(text) <= _LONGEST:
        found = _TOKENS.match(text, at)
        if found is None or any(word and not _WORDS.fullmatch(word) for word in found.groups()):
            return False
        at = found.end()
    return at == len(text) and "**" not in text
