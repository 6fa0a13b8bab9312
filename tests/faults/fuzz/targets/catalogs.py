"""A catalogue of one's own, named by HIERAX_CATALOG."""

from __future__ import annotations

import os
from pathlib import Path

import hierax
from hierax.weights import catalog

from ..mutate import any_bytes, one_of, toml_lines
from ..target import Target

_SEED = """
[preprocess.mine]
resize = "squash"
crop_ratio = 1.0
mean = [0.5, 0.5, 0.5]

[citation]
mine = "Somebody"

[group.mine]
architecture = "hiera_tiny_224"
license = "apache-2.0"
preprocess = "mine"
citation = "mine"
url = "https://example.org/{name}.pth"

[[model]]
name = "my_model"
group = "mine"
aliases = ["mine"]
num_classes = 10
input_size = [224, 224]
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"

[[model]]
name = "my_hub_model"
group = "mine"
repo = "org/repo"
revision = "main"
file = "x.safetensors"
top1 = 80.5
"""


def act(folder: Path, data: bytes) -> None:
    """List and describe everything in it."""
    path = folder / "catalog.toml"
    path.write_bytes(data)
    os.environ["HIERAX_CATALOG"] = str(path)
    catalog._read_catalogs.cache_clear()
    try:
        hierax.list_models(commercial=True)
        for name in hierax.list_models():
            if catalog.resolve(name).catalog == path:
                str(hierax.describe(name))
    finally:
        del os.environ["HIERAX_CATALOG"]


def seeds(folder: Path) -> list[bytes]:
    """A small one, and the beginning of the shipped one."""
    shipped = Path(catalog._SHIPPED).read_text("utf-8")
    models = shipped.split("\n[[model]]")
    return [_SEED.encode(), "\n[[model]]".join(models[:4]).encode(), ("\n[[model]]" + models[-1]).encode()]


TARGET = Target("catalogs", act, seeds, one_of(toml_lines, toml_lines, toml_lines, any_bytes))
