"""The conversions page says what the code does; describe says what a file is; a published folder says whose it is."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import hierax
from hierax.errors import CheckpointError
from hierax.weights.formats import FORMAT_NAMES

from ..members import MEMBERS, tiny_sam2, weights_of, written
from .refused import REFUSED

__all__ = ["tiny_sam2"]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The script that writes the page."""
    spec = importlib.util.spec_from_file_location("make_conversions", DOCS / "make_conversions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page__is_up_to_date(maker: ModuleType) -> None:
    """A change to what a format can express must show in the page: run `python docs/make_conversions.py`."""
    assert (DOCS / "conversions.md").read_text(encoding="utf-8") == maker.page()


def test_page__has_every_cell(maker: ModuleType) -> None:
    """Six rows of six cells, and every refusal with a reason."""
    rows = [line for line in maker.page().splitlines() if line.startswith("| **")]
    assert [row.split("**")[1] for row in rows] == list(FORMAT_NAMES)
    assert all(row.count("|") == 8 for row in rows)
    for target in FORMAT_NAMES:
        assert f"**To {target}**" in maker.page()


def test_page__agrees_with_the_matrix(maker: ModuleType) -> None:
    """The networks that the matrix test refuses are those that the page refuses."""
    for member, kind in {"Hiera video": "Hiera video", "Hiera MAE": "Hiera MAE", "Hiera": "Hiera"}.items():
        for target in FORMAT_NAMES:
            refused = maker.fates("hierax", target)[kind] != {None}
            small_decoder = (member, target) == ("Hiera MAE", "birder")
            assert refused == ((member, target) in REFUSED and not small_decoder)


@pytest.mark.usefixtures("tiny_sam2")
@pytest.mark.parametrize("source", FORMAT_NAMES)
@pytest.mark.parametrize("member", MEMBERS)
def test_describe__local_file(member: str, source: str, tmp_path: Path) -> None:
    """Block table, parameter count and provenance of a file nobody told it anything about."""
    if (member, source) in REFUSED or member == "birder MAE":
        pytest.skip("this format cannot hold this network, or only with a decoder of 25 million parameters")
    path = written(MEMBERS[member], tmp_path / "file", source)
    card = hierax.describe(path)
    text = str(card)
    assert card.format == source
    assert card.family == MEMBERS[member].family
    assert card.parameters == sum(p.numel() for p in hierax.load(path).model.parameters())
    assert f"{card.parameters:,}" in text
    assert str(tmp_path) in text
    assert "block  stage  grid" in text
    assert text.count("\n") > 8
    assert "tensors loaded" in text


def test_describe__no_checkpoint(tmp_path: Path) -> None:
    """Describing a broken file is an error, not an empty card."""
    (tmp_path / "x.pt").write_text("<html>")
    with pytest.raises(CheckpointError):
        hierax.describe(tmp_path / "x.pt")


class Hub:
    """What huggingface_hub was asked to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub

        self.asked: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        hub = self

        class Api:
            def __init__(self, **options: Any) -> None:
                hub.asked["api"] = options

            def create_repo(self, repo_id: str, **options: Any) -> Any:
                hub.asked["repo"] = {"repo_id": repo_id, **options}
                return type("Url", (), {"repo_id": f"me/{repo_id}"})

            def upload_folder(self, *, folder_path: Path, **options: Any) -> Any:
                hub.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
                hub.asked["upload"] = options
                return type("Commit", (), {"commit_url": "https://hub/me/bird/commit/1"})

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)


def test_push_to_hub__folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published is a whole hierax folder with the parent's licence, and loads as what was pushed."""
    hub = Hub(monkeypatch)
    source = written(MEMBERS["Hiera"], tmp_path / "hf", "transformers")
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    predictor = hierax.load(source)
    url = predictor.push_to_hub("bird", private=True, token="secret", revision="main")
    assert url == "https://hub/me/bird/commit/1"
    assert hub.asked["api"]["token"] == "secret"
    assert hub.asked["repo"] == {"repo_id": "bird", "private": True, "exist_ok": True}
    assert hub.asked["upload"]["repo_id"] == "me/bird"
    assert set(hub.files) == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert b"secret" not in b"".join(hub.files.values())
    assert b"license: cc-by-nc-4.0" in hub.files["README.md"]
    again = tmp_path / "again"
    again.mkdir()
    for name, content in hub.files.items():
        (again / name).write_bytes(content)
    assert torch.equal(hierax.load(again).model.norm.weight, predictor.model.norm.weight)


def test_push_to_hub__refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's refusal becomes our error with a remedy."""
    import huggingface_hub

    Hub(monkeypatch)

    def no_network(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", no_network)
    predictor = hierax.load(written(MEMBERS["Hiera"], tmp_path / "x", "hierax"))
    with pytest.raises(CheckpointError, match=r"could not be published.*hf auth login"):
        predictor.push_to_hub("bird")


def test_hierax_folder__contents(tmp_path: Path) -> None:
    """Other tools read these fields; the README's front matter is what the hub reads."""
    folder = written(MEMBERS["Hiera"], tmp_path / "x", "hierax")
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "hierax"
    assert config["num_classes"] == 3
    assert config["id2label"] == {"0": "bird 0", "1": "bird 1", "2": "bird 2"}
    assert config["hierax_version"] == hierax.__version__
    assert {"license", "base_model", "architecture"} <= config.keys()
    recipe = json.loads((folder / "preprocessor_config.json").read_text())
    assert recipe["image_mean"] == [0.1, 0.2, 0.3]
    assert recipe["size"] == {"height": 64, "width": 64}
    from huggingface_hub import ModelCard

    data = ModelCard.load(folder / "README.md").data
    assert data.library_name == "hierax"
    assert data.pipeline_tag == "image-classification"
    assert not any(path.name.startswith(".") for path in folder.iterdir())


def test_hierax_folder__hostile_fields(tmp_path: Path) -> None:
    """A licence or parent name out of somebody's config.json must not become other lines of the card."""
    from hierax.weights.write import write_weights

    weights = weights_of(MEMBERS["Hiera"])
    hostile = weights.with_card(license="mit\ntags: [evil]", base_model="a/b\nmodel: x")
    folder = write_weights(hostile, tmp_path / "x", to="hierax")
    front = (folder / "README.md").read_text().split("---")[1]
    assert "evil" not in front
    assert "model: x" not in front
