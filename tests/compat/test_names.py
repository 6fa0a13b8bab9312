"""Names of the other packages that a stand-in lacks: the error says what there is and why this is not."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from hierax.errors import HieraxError

from ..peers import peer

STAND_INS = ["hierax.compat.transformers", "hierax.compat.birder", "hierax.compat.birder.inference.classification"]
REASONS = [
    ("hierax.compat.transformers", "pipeline", "hierax.load"),
    ("hierax.compat.transformers", "AutoModelForImageClasification", "'AutoModelForImageClassification'"),
    ("hierax.compat.transformers", "AutoFeatureExtractor", "AutoImageProcessor"),
    ("hierax.compat.transformers", "Sam2Model", "Sam2VisionModel"),
    ("hierax.compat.transformers", "Trainer", "hierax.finetune"),
    ("hierax.compat.transformers", "ViTModel", "another architecture"),
    ("hierax.compat.transformers", "AutoTokenizer", "reads text"),
    ("hierax.compat.birder", "load_pretrained_modell", "'load_pretrained_model'"),
    ("hierax.compat.birder", "detection_transform", "detectors stay with birder"),
    ("hierax.compat.birder", "model_registry", "list_pretrained_models"),
    ("hierax.compat.birder.inference.classification", "infer_imag", "'infer_image'"),
]


@pytest.mark.parametrize(("module", "name", "said"), REASONS)
def test_attribute(module: str, name: str, said: str) -> None:
    """A bare AttributeError sends a person to the source to find out what there is."""
    found = importlib.import_module(module)
    assert not hasattr(found, name)
    assert getattr(found, name, None) is None
    with pytest.raises(AttributeError, match=name) as raised:
        getattr(found, name)
    assert isinstance(raised.value, HieraxError)
    assert said in str(raised.value)
    assert found.__all__[0] in str(raised.value)


@pytest.mark.parametrize(("module", "name", "said"), REASONS)
def test_import(module: str, name: str, said: str) -> None:
    """`from x import y` swallows an AttributeError and says only that it cannot."""
    with pytest.raises(ImportError) as raised:
        exec(f"from {module} import {name}")
    assert isinstance(raised.value, HieraxError)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import hierax.compat.transformers.models.hiera", "imported from hierax.compat.transformers itself"),
        ("from hierax.compat.transformers.models.sam2.modeling_sam2 import Sam2VisionModel", "Sam2VisionModel"),
        ("from hierax.compat.birder.model_registry import registry", "list_pretrained_models"),
        ("import hierax.compat.birder.tools", "birder"),
        ("import hierax.compat.open_clip", "hierax.load"),
        ("from hierax.compat import keras", "birder, detectron2, smp, timm, torchvision, transformers"),
    ],
)
def test_submodule(line: str, said: str) -> None:
    """A submodule of the other package is a missing name too."""
    with pytest.raises(ImportError) as raised:
        exec(line)
    assert isinstance(raised.value, HieraxError)
    assert said in str(raised.value)


@pytest.mark.parametrize("module", STAND_INS)
def test_tools_see_a_module(module: str) -> None:
    """A `__getattr__` that answers for dunder names breaks `inspect`, `copy` and the like; a finder, `pkgutil`."""
    found = importlib.import_module(module)
    assert getattr(found, "__wrapped__", None) is None
    assert set(found.__all__) <= set(dir(found))
    assert importlib.util.find_spec("hierax.no_such_room") is None
    for each in pkgutil.walk_packages(found.__path__, f"{module}."):
        importlib.import_module(each.name)


@pytest.mark.parity
@pytest.mark.parametrize(("name", "module"), [("transformers", "transformers"), ("birder", "birder")])
def test_every_public_name_of_theirs(name: str, module: str) -> None:
    """Each name is there or says why not: none ends as something else."""
    mine = importlib.import_module(f"hierax.compat.{name}")
    missing = [each for each in dir(peer(module)) if not each.startswith("_") and not hasattr(mine, each)]
    assert missing
    for public in missing[:1000]:
        with pytest.raises(AttributeError) as raised:
            getattr(mine, public)
        assert isinstance(raised.value, HieraxError), public
        assert len(str(raised.value)) < 1500
