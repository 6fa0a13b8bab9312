"""The rules of the house, checked: floors, laziness, and what must never appear."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hierax"
FLOORS = (
    ("errors", "schema", "config", "atomic", "outputs", "kept", "regular", "arrow", "parquet", "console"),
    ("net", "model"),
    ("weights", "data", "visualize", "store"),
    ("predictor", "registry", "provenance", "backbones", "basis", "view", "dense"),
    ("bulk", "train", "evaluate", "search", "export", "explain", "segment"),
    ("__init__", "__main__", "cli", "commands", "serve", "compat", "accelerate"),
)
SEPARATE = (
    {"net", "model"},
    {"weights", "data", "visualize", "store"},
    {"bulk", "train", "evaluate", "search", "export", "explain", "segment"},
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def floor(room: str) -> int:
    """Floor of a top-level module or package."""
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise AssertionError(f"{room} stands on no floor: add it to FLOORS")


def room_of(path: Path) -> str:
    """Top-level module or package of a file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def told(path: Path) -> list[ast.AST]:
    """The nodes of a file that a rule is about: asserts, imports, and calls of something named `load`."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Assert, ast.Import, ast.ImportFrom))
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load")
    ]


def imported_rooms(path: Path) -> set[str]:
    """Rooms that a file imports from, at module level or inside functions; typing-only imports count too."""
    rooms = set()
    package = ("hierax", *path.relative_to(PACKAGE).parts[:-1])
    for node in told(path):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = list(package[: len(package) - node.level + 1]) + (node.module or "").split(".")
            else:
                base = (node.module or "").split(".")
            base = [part for part in base if part]
            if base[:1] == ["hierax"]:
                rooms |= {base[1]} if len(base) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hierax.")}
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    """An import upward or sideways would tie rooms that must be understood, and replaced, alone."""
    here = room_of(path)
    for room in imported_rooms(path) - {here, "__version__"}:
        if not ((PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()):
            continue
        assert floor(room) <= floor(here), f"{here} imports {room}, which is above it"
        assert not any({here, room} <= rooms for rooms in SEPARATE), f"{here} and {room} must not know each other"


@pytest.mark.parametrize(
    "code",
    [
        "import hierax",
        "from hierax.cli import main; main(['--help'])",
        "import hierax.config, hierax.errors",
    ],
)
def test_light_imports_load_no_torch(code):
    """Loading torch, numpy or the hub client here would make every `--help` wait seconds."""
    heavy = "('torch', 'numpy', 'PIL', 'huggingface_hub', 'tyro', 'safetensors')"
    check = f"import sys; {code}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert out.strip().splitlines()[-1] == "[]"


def test_import_opens_no_socket():
    """Telemetry or an update check on import would connect."""
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('network on import')\n"
        "socket.socket.connect = refuse\n"
        "import hierax\n"
        "for name in hierax.__all__: getattr(hierax, name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_package_works_without_optional_dependencies():
    """An extra imported at module level would break every installation without it."""
    extras = (
        "accelerate kornia webdataset tensorboard onnx onnxruntime onnxscript openvino nncf matplotlib av ray usearch "
        "fastapi uvicorn pyarrow sklearn torchvision timm birder transformers hiera sam2 pandas polars"
    )
    code = (
        "import sys, importlib, pkgutil\n"
        f"for name in {extras.split()!r}: sys.modules[name] = None\n"
        "import hierax\n"
        "for module in pkgutil.walk_packages(hierax.__path__, 'hierax.'):\n"
        "    if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_forbidden_calls(path):
    """Unpickling runs strangers' code; torchvision has no CPU build everywhere; assert vanishes under -O."""
    for node in told(path):
        if isinstance(node, ast.Assert):
            raise AssertionError(f"line {node.lineno}: users must never meet an assert")
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            assert not any(n.split(".")[0] in ("torchvision", "pickle", "dill", "joblib") for n in names)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("torch.load"):
            raise AssertionError(f"line {node.lineno}: torch files are read by weights.torch_files alone")
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("np.load", "numpy.load")):
            assert "allow_pickle" not in {k.arg for k in node.keywords}


def test_sources_are_ascii():
    """A look-alike character in code cannot be seen in review."""
    for path in MODULES:
        assert path.read_bytes().isascii(), path
