"""Programs of other runtimes in forked processes: their threads are not there, so nothing may wait for them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

MAKE = {
    "openvino": """
import openvino
from hierax.model.engines.openvino import Program
model = openvino.convert_model(torch.nn.Conv2d(3, 8, 3), example_input=torch.ones(2, 3, 32, 32))
program = Program(lambda size, last: model, "f32", (3, 32, 32), 0, 2)
program(torch.ones(2, 3, 32, 32))
""",
    "onnxruntime": """
import onnx, pathlib
from hierax.model.programs.onnx import INPUT, OnnxProgram
sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 3]) for name in (INPUT, "embedding")]
graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", [INPUT], ["embedding"])], "g", sides[:1], sides[1:])
onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), "p.onnx")
torch.set_num_threads(2)
program = OnnxProgram(pathlib.Path("p.onnx"))
program(torch.ones(2, 3), ["embedding"])
""",
}
FORK = """
circle = [program]
circle.append(circle)
del program, circle
child = os.fork()
if not child:
    signal.alarm(60)
    gc.collect()
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
gc.collect()  # and here it ends
print(code, len(forks._alive))
"""


@pytest.mark.parametrize("runtime", MAKE)
def test_collected__in_a_forked_process(runtime, tmp_path):
    """A decode worker or a DataLoader's, forked after a fast model was let go of, hung for ever in its first collection."""
    if importlib.util.find_spec(runtime) is None or (runtime == "onnxruntime" and not importlib.util.find_spec("onnx")):
        pytest.skip(f"{runtime} is not installed")
    code = f"import gc, os, signal, torch\nfrom hierax.model import forks\ngc.disable()\n{MAKE[runtime]}{FORK}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["0", "0"], done.stderr
