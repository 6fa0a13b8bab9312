"""Packages that a target needs and that are not there: named with their extra before anything is traced or written."""

from __future__ import annotations

import sys

import pytest

import hierax
from hierax.cli import main
from hierax.export import run


@pytest.mark.parametrize(
    ("to", "dtype", "package", "extra"),
    [
        ("onnx", "float32", "onnx", "onnx"),
        ("onnx", "float16", "onnxscript", "onnx"),
        ("onnx", "float32", "onnxruntime", "onnx"),
        ("onnx", "int8", "onnxruntime", "onnx"),
        ("openvino", "float32", "openvino", "openvino"),
        ("openvino", "int8", "nncf", "int8"),
    ],
)
def test_export__package_is_missing(to, dtype, package, extra, tmp_path, monkeypatch, capsys):
    """Found out after the trace, it would cost a minute, and an ImportError would be a traceback."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(run, "trace", lambda *_, **__: pytest.fail("it was traced first"))
    destination = tmp_path / f"m.{'xml' if to == 'openvino' else 'onnx'}"
    with pytest.raises(hierax.MissingExtraError, match=rf"{package}.*hierax\[{extra}\]"):
        hierax.export("hiera_nano_96", destination, to=to, dtype=dtype)
    options = ["--to", to, "--dtype", dtype]
    assert main(["export", "hiera_nano_96", str(destination), *options]) == 1
    assert f"hierax[{extra}]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
