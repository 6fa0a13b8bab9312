"""The catalogue: complete, consistent with the architectures, and safe to extend from outside."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hierax.config import ARCHITECTURES
from hierax.errors import HieraxError, UnknownNameError
from hierax.weights import catalog, labels
from hierax.weights.catalog import entries, list_models, resolve

SIZES = ("tiny", "small", "base", "base_plus", "large", "huge")


@pytest.fixture
def private(tmp_path, monkeypatch):
    def write(text):
        path = tmp_path / "mirror.toml"
        path.write_text(text)
        monkeypatch.setenv("HIERAX_CATALOG", str(path))
        return path

    return write


def test_entries__counts_by_format():
    """A group lost in an edit would take a whole origin with it."""
    published = [e for e in entries().values() if e.pretrained]
    count = {form: sum(e.format == form for e in published) for form in catalog.FORMATS}
    assert count == {"hierax": 1, "meta": 20, "sam2": 8, "transformers": 18 + 8, "timm": 12 + 4 + 8, "birder": 9}


@pytest.mark.parametrize("entry", entries().values(), ids=lambda e: e.name)
def test_entries__agree_with_their_architecture(entry):
    """A classifier listed as an encoder, or a clip model with an image size, loads into the wrong network."""
    config = entry.config
    assert len(entry.input_size) == len(config.input_size)
    assert entry.preprocess.size == entry.input_size[-2:]
    assert all(side % 32 == 0 for side in entry.input_size[-2:])
    assert (entry.task == "mae") == (config.decoder is not None)
    if entry.labels:
        assert len(labels.class_names(entry.labels)) == entry.num_classes
    if entry.pretrained:
        assert entry.license in ("apache-2.0", "cc-by-nc-4.0")
        assert entry.commercial == (entry.license == "apache-2.0")
        assert bool(entry.url) + bool(entry.repo) + bool(entry.path) == 1
        assert entry.num_classes is not None or entry.format == "hierax"
        assert (entry.num_classes or 0) == 0 or entry.task == "classification"
    assert "{" not in (entry.source or "") + entry.mirror + "".join(entry.aliases)


def test_entries__every_architecture_has_a_name():
    """`hierax.create` takes these names; a user must be able to find them."""
    for name in ARCHITECTURES:
        assert resolve(name).architecture == name


@pytest.mark.parametrize(
    ("name", "target", "architecture", "source"),
    [
        (
            "hiera_base_224",
            "hiera_base_224",
            "hiera_base_224",
            "https://dl.fbaipublicfiles.com/hiera/hiera_base_224.pth",
        ),
        (
            "facebook/hiera_base_224.mae_in1k_ft_in1k",
            "hiera_base_224",
            "hiera_base_224",
            "facebook/hiera_base_224.mae_in1k_ft_in1k",
        ),
        (
            "facebook/hiera_huge_16x224.mae_k400",
            "mae_hiera_huge_16x224",
            "mae_hiera_huge_16x224",
            "facebook/hiera_huge_16x224.mae_k400",
        ),
        (
            "facebook/hiera-base-plus-224-mae-hf",
            "facebook/hiera-base-plus-224-mae-hf",
            "mae_hiera_base_plus_224",
            "facebook/hiera-base-plus-224-mae-hf",
        ),
        (
            "hiera_small_abswin_256",
            "timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k",
            "hiera_small_abswin_256",
            "timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k",
        ),
        (
            "facebook/sam2.1-hiera-base-plus",
            "sam2.1_hiera_base_plus",
            "sam2_hiera_base_plus",
            "facebook/sam2.1-hiera-base-plus/sam2.1_hiera_base_plus.pt",
        ),
        (
            "sam2_hiera_small",
            "sam2_hiera_small",
            "sam2_hiera_small",
            "facebook/sam2-hiera-small/sam2_hiera_small.pt",
        ),
        (
            "hieradet_small_dino-v2-inat21-256px",
            "hieradet_d_small_dino-v2-inat21-256px",
            "hieradet_d_small",
            "birder-project/hieradet_d_small_dino-v2-inat21/hieradet_d_small_dino-v2-inat21-256px.pt",
        ),
        ("timm/hieradet_small", "timm_hieradet_small", "timm_hieradet_small", None),
        (
            "https://dl.fbaipublicfiles.com/segment_anything_2/072824/sam2_hiera_large.pt",
            "sam2_hiera_large",
            "sam2_hiera_large",
            "https://dl.fbaipublicfiles.com/segment_anything_2/072824/sam2_hiera_large.pt",
        ),
    ],
)
def test_resolve__names_aliases_and_mirrors(name, target, architecture, source):
    """A hub id means that repository, an architecture its default weights, an old name its new file."""
    entry = resolve(name)
    assert (entry.name, entry.architecture, entry.source) == (target, architecture, source)


def test_resolve__card_names_of_birder():
    """The name on the card has global attention in stages 3 and 4; (14, 7) windows move embeddings by 0.2."""
    entry = resolve("hieradet_small_dino-v2-imagenet12k")
    assert entry.config.windows == ((8, 8), (4, 4), None, None)
    assert (entry.input_size, entry.num_classes, entry.labels) == ((256, 256), 11821, "imagenet12k")
    trunk = resolve("hieradet_small_sam2_1")
    assert trunk.config.windows == ((8, 8), (4, 4), (14, 14), (7, 7))
    assert trunk.superseded == ("79b6ffdfd4ea9f3b1489ce5a229fe9756b215fc3b52640d01d64136560c1d341",)


def test_resolve__revision_pins_and_drops_the_hash():
    """Another commit has other bytes; the catalogue's hash would refuse them."""
    entry = resolve("birder-project/hieradet_small_sam2_1@abc")
    assert (entry.revision, entry.sha256, entry.superseded) == ("abc", None, ())
    with pytest.raises(UnknownNameError, match="revision"):
        resolve("hiera_tiny_224@abc")


@pytest.mark.parametrize("name", ["hiera_tny_224", "Hiera_tiny_224"])
def test_resolve__unknown_name_suggests(name):
    """A bare KeyError leaves the user guessing; so does ignoring case for one name and not for others."""
    with pytest.raises(UnknownNameError, match=r"'hiera_tiny_224'.*hierax list"):
        resolve(name)


def test_list_names__filters():
    """A licence filter that lets one non-commercial file through is worse than none."""
    assert list_models("hiera_*_224", pretrained=True) == [f"hiera_{size}_224" for size in SIZES]
    assert all("hiera_tiny_224" not in name for name in list_models(commercial=True))
    nc = set(list_models(commercial=False))
    assert len(nc) == 20 + 18 + 12
    assert nc.isdisjoint(list_models(commercial=True))
    assert "hieradet_d_small" in list_models(pretrained=False)
    assert "sam2_hiera_small" not in list_models(pretrained=False)
    assert list_models("nothing*") == []
    assert len(list_models()) == len(set(list_models())) == len(entries())


def test_citation__every_entry_can_be_cited():
    """A citation key without a text would be found by the first user who needs it."""
    for entry in entries().values():
        assert entry.citation.count("@") >= (entry.format != "hierax")
    assert 'R{\\"a}dle' in resolve("sam2_hiera_tiny").citation
    assert "2304.07193" in resolve("hieradet_d_small_dino-v2").citation


def test_preprocess__recipes_of_the_origins():
    """The four origins resize and crop differently; one pixel moves logits by more than any other error."""
    timm = resolve("timm/hiera_small_abswin_256.sbb2_e200_in12k_ft_in1k").preprocess
    assert (timm.crop_ratio, timm.resize, timm.size) == (0.95, "shortest", (256, 256))
    assert resolve("facebook/hiera-tiny-224-in1k-hf").preprocess.crop_rounding == "floor"
    sam2 = resolve("sam2.1_hiera_tiny").preprocess
    assert (sam2.resize, sam2.interpolation, sam2.engine) == ("squash", "bilinear", "float")
    assert resolve("hieradet_d_small_dino-v2").preprocess.mean == (0.5191, 0.5306, 0.4877)
    assert resolve("hiera_base_16x224").preprocess.std == (0.225,) * 3


PRIVATE = """
[preprocess.ours]
resize = "squash"
crop_ratio = 1.0

[citation]
ours = "@misc{ours}"

[[model]]
group = "meta_image"
name = "hiera_tiny_224"
url = "https://mirror.example/{name}.pth"
sha256 = "%s"

[[model]]
name = "birds"
aliases = ["our-birds"]
architecture = "hiera_tiny_224"
format = "hierax"
path = "models/birds"
license = "apache-2.0"
input_size = [256, 256]
num_classes = 7
task = "classification"
preprocess = "ours"
citation = ["ours", "hiera"]
"""


def test_private__adds_and_overrides(private):
    """A company's mirror must win over the public address, and groups must work outside."""
    path = private(PRIVATE % ("a" * 64))
    tiny, birds = resolve("hiera_tiny_224"), resolve("our-birds")
    assert tiny.url == "https://mirror.example/hiera_tiny_224.pth"
    assert (tiny.sha256, tiny.num_classes, tiny.commercial) == ("a" * 64, 1000, False)
    assert birds.path == path.parent / "models" / "birds"
    assert (birds.catalog, birds.preprocess.resize) == (path, "squash")
    assert birds.citation.startswith("@misc{ours}\n\n@")
    assert len(list_models("hiera_tiny_224")) == 1
    assert resolve("hiera_small_224").url.startswith("https://dl.fbai")


MODEL = '[[model]]\nname = "x"\narchitecture = "hiera_tiny_224"\nformat = "meta"\nurl = "https://h/x.pth"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[model]\n", "TOML"),
        ("[modell]\n", "'model'"),
        ("model = 3\n", r"\[\[model\]\]"),
        ("model = [3]\n", "name"),
        ('[[model]]\narchitecture = "hiera_tiny_224"\n', "name"),
        (MODEL.replace("tiny", "tny"), "'hiera_tiny_224'"),
        (MODEL.replace('"meta"', '"mta"'), "'meta'"),
        (MODEL + 'licence = "mit"\n', "'license'"),
        (MODEL + 'num_classes = "ten"\n', "num_classes"),
        (MODEL + "num_classes = true\n", "num_classes"),
        (MODEL + "num_classes = -1\n", "num_classes"),
        (MODEL + "license = 3\n", "license"),
        (MODEL + 'aliases = "y"\n', "aliases"),
        (MODEL + "input_size = [224]\n", "input_size"),
        (MODEL + 'input_size = ["a", "b"]\n', "input_size"),
        (MODEL + 'sha256 = "abc"\n', "sha256"),
        (MODEL + 'repo = "org/x"\n', "path, url and repo"),
        (MODEL + 'preprocess = "mta"\n', "'meta'"),
        (MODEL + "preprocess = {crop = 1}\n", "preprocess"),
        (MODEL + 'citation = ["heira"]\n', "'hiera'"),
        (MODEL + 'group = "metaimage"\n', "'meta_image'"),
        (MODEL + MODEL, "already"),
    ],
)
def test_private__broken_file_names_file_and_key(private, text, words):
    """A traceback from inside the reader would not tell an administrator what to correct."""
    path = private(text)
    with pytest.raises(HieraxError, match=words) as caught:
        list_models()
    assert str(path) in str(caught.value)


def test_private__missing_file(monkeypatch, tmp_path):
    """Silently going on without it would download from the public address."""
    monkeypatch.setenv("HIERAX_CATALOG", str(tmp_path / "none.toml"))
    with pytest.raises(HieraxError, match="HIERAX_CATALOG"):
        resolve("hiera_tiny_224")


def test_catalog__needs_no_torch():
    """`hierax list` must answer at once."""
    code = "import sys; from hierax.weights.catalog import list_models; list_models(); print('torch' in sys.modules)"
    source = str(Path(catalog.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parity
def test_birder_entries__equal_its_registry():
    """Sizes and hashes against what the installed birder registers, read from its source."""
    spec = importlib.util.find_spec("birder")
    if spec is None or spec.origin is None:
        pytest.skip("birder is not installed")
    root = Path(spec.origin).parent / "net"
    text = "".join((root / f).read_text() for f in ("hiera.py", "hieradet.py", "mim/mae_hiera.py"))
    blocks = re.findall(r'register_weights\([^"]*"([^"]+)",(.*?)\n\)', text, re.S)
    assert len(blocks) >= 8
    for name, block in blocks:
        entry = resolve(name)
        size = re.search(r'"resolution": \((\d+), (\d+)\)', block)
        assert size is not None
        assert entry.input_size == (int(size[1]), int(size[2]))
        assert entry.sha256 == re.findall(r'"pt": \{.*?"sha256": "(\w+)"', block, re.S)[0]
        assert f"/{entry.repo}/resolve" in block
        network = re.findall(r'"network": "(\w+)"', block)[-1]
        assert entry.architecture.endswith(network)


@pytest.mark.parity
def test_timm_entries__equal_its_registry():
    """Every pretrained tag of timm's two files has an entry, and no entry is made up."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        pytest.skip("timm is not installed")
    root = Path(spec.origin).parent / "models"
    text = "".join((root / f).read_text() for f in ("hiera.py", "hieradet_sam2.py"))
    tags = {tag for tag in re.findall(r'^    "([\w.]+)": _cfg\(', text, re.M) if not tag.endswith(".untrained")}
    assert tags == {name.removeprefix("timm/") for name in list_models("timm/*", pretrained=True)}
