"""Detectors and segmenters of transformers on our encoder: their own code, our weights, proven."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hierax
import hierax.backbones
from hierax.compat.transformers import backbone_config, register, use_in
from hierax.registry import find_weights
from hierax.weights.write import write_weights

from ..members import FAMILIES, SMALL, weights_of
from ..peers import peer

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.parity, pytest.mark.slow]
THREE, FOUR = ("stage2", "stage3", "stage4"), ("stage1", "stage2", "stage3", "stage4")
NARROW = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "decoder_attention_heads": 2, "num_queries": 5}
RT = {
    "encoder_hidden_dim": 32, "encoder_attention_heads": 2, "decoder_n_points": 2, "num_feature_levels": 3,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_denoising": 0, "encoder_in_channels": [16, 32, 64],
    "decoder_in_channels": [32, 32, 32], **NARROW,
}  # fmt: skip
MASKS = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "encoder_layers": 1,
    "decoder_layers": 2, "num_attention_heads": 2, "dim_feedforward": 32, "num_queries": 5,
}  # fmt: skip
# Each by its public classes: name of config and model, maps it takes, settings that make it small.
DETECTORS = {
    "rt-detr": ("RTDetr", "ForObjectDetection", THREE, {"eval_size": None, **RT}),
    "rt-detr-v2": ("RTDetrV2", "ForObjectDetection", THREE, {"eval_size": None, **RT}),
    "d-fine": ("DFine", "ForObjectDetection", THREE, {"eval_size": None, **RT, "decoder_n_points": [2, 2, 2]}),
    "detr": ("Detr", "ForObjectDetection", ("stage4",), {**NARROW, "encoder_attention_heads": 2}),
    "deformable-detr": ("DeformableDetr", "ForObjectDetection", THREE, {**NARROW, "encoder_attention_heads": 2, "num_feature_levels": 3}),
    "mask2former": ("Mask2Former", "ForUniversalSegmentation", FOUR, MASKS),
    "maskformer": ("MaskFormer", "ForInstanceSegmentation", FOUR, {"fpn_feature_size": 32, "mask_feature_size": 32}),
    "upernet": ("UperNet", "ForSemanticSegmentation", FOUR, {"hidden_size": 32, "pool_scales": [1, 2], "auxiliary_channels": 16}),
}  # fmt: skip


@pytest.fixture(params=["hieradet"], scope="module")
def checkpoint(request, tmp_path_factory):
    """A loud checkpoint as a file; HieraDet is what transformers has no backbone of."""
    config = hierax.ModelConfig(**{**SMALL, **FAMILIES[request.param]})
    return write_weights(weights_of(config), tmp_path_factory.mktemp("body") / "model", to="hierax")


def built(kind: str, checkpoint):
    """A detector with random weights on the architecture of the checkpoint."""
    transformers = peer("transformers")
    name, task, stages, settings = DETECTORS[kind]
    if kind == "maskformer":
        settings = {**settings, "decoder_config": transformers.DetrConfig(**NARROW, encoder_attention_heads=2)}
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone_config(checkpoint, stages=stages), **settings
    )
    torch.manual_seed(0)
    return getattr(transformers, name + task)(config).eval()


def inside(detector):
    """Its backbone, and a list that holds what it gave in the last forward pass."""
    body = next(m for m in detector.modules() if type(m).__name__ == "HieraxBackbone")
    seen: list = []
    body.register_forward_hook(lambda _, __, output: seen.append(output.feature_maps))
    return body, seen


@pytest.mark.parametrize(
    ("kind", "checkpoint"), [*((kind, "hieradet") for kind in DETECTORS), ("upernet", "hiera")], indirect=["checkpoint"]
)
def test_every_detector(kind, checkpoint):
    """Random weights where pretrained ones were believed to be are the commonest silent fault."""
    detector = built(kind, checkpoint)
    assert use_in(detector, checkpoint) is detector
    body, seen = inside(detector)
    encoder = hierax.load(checkpoint).encoder
    stages = DETECTORS[kind][2]
    assert body.channels == [encoder.return_channels[int(name[-1]) - 1] for name in stages]
    for size in [(64, 64), (96, 128), (160, 64)]:
        x = torch.randn(2, 3, *size)
        with torch.inference_mode():
            detector(x)
            wanted = encoder.detection_features(x, stages)
        for found, (name, expected) in zip(seen.pop(), wanted.items(), strict=True):
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5), (size, name)
            assert found.is_contiguous()
            assert found.shape[1] == body.out_feature_channels[name]
    detector.train()
    output = detector(torch.randn(2, 3, 64, 64))
    first = next(value for value in output.to_tuple() if torch.is_tensor(value) and value.requires_grad)
    first.float().square().sum().backward()
    assert body.body.encoder.patch_embed.proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["rt-detr-v2", "mask2former"])
def test_saved_and_loaded(kind, checkpoint, tmp_path):
    """from_pretrained builds on the meta device: what is computed in a constructor is lost there."""
    detector = use_in(built(kind, checkpoint), checkpoint)
    detector.save_pretrained(tmp_path)
    again = type(detector).from_pretrained(tmp_path).eval()
    (_, before), (body, after) = inside(detector), inside(again)
    x = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        detector(x)
        again(x)
    assert all(torch.equal(*pair) for pair in zip(before[0], after[0], strict=True))
    assert body.config.license == hierax.load(checkpoint).card.license
    assert body.config.image_mean == [0.1, 0.2, 0.3]


def test_loaded_in_another_process(tmp_path):
    """A model_type that only the saving process knew makes the file useless."""
    checkpoint = hierax.save(hierax.create("hiera_nano_96"), tmp_path / "body")
    use_in(built("upernet", checkpoint), checkpoint).save_pretrained(tmp_path / "net")
    code = (
        "from tests.peers import prepare; prepare()\n"
        "from hierax.compat.transformers import register; register()\n"
        "from transformers import AutoModelForSemanticSegmentation as Auto\n"
        f"print(type(Auto.from_pretrained({str(tmp_path / 'net')!r}).backbone).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "HieraxBackbone", done.stderr


def test_auto_backbone(checkpoint):
    """What `AutoBackbone` cannot build is no backbone to transformers."""
    transformers = peer("transformers")
    config = backbone_config(checkpoint, stages=("stage1", "stage3"))
    model = transformers.AutoBackbone.from_config(config)
    assert model.channels == [8, 32]
    assert model.out_indices == [1, 3]
    config.out_features = ["stage4"]
    assert transformers.AutoBackbone.from_config(config).channels == [64]
    again = transformers.AutoConfig.for_model(**config.to_dict())
    assert again.network == config.network
    assert type(pickle.loads(pickle.dumps(config))) is type(config)
    register()  # a second time


def test_replaces_a_backbone_of_the_same_widths(tmp_path, monkeypatch):
    """transformers' own HieraBackbone scrambles its maps, and its weights stay random; gigabytes are read once."""
    transformers = peer("transformers")
    config = hierax.ModelConfig(**{**SMALL, **FAMILIES["hiera"], "num_classes": 0})
    path = write_weights(weights_of(config), tmp_path / "model", to="hierax")
    theirs = transformers.HieraConfig(image_size=[64, 64], embed_dim=8, depths=[1, 2, 3, 1], out_features=list(THREE))
    detector = transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config(backbone_config=theirs, **RT))
    read: list = []
    monkeypatch.setattr(hierax.backbones, "find_weights", lambda source: read.append(source) or find_weights(source))
    use_in(detector.eval(), path)
    assert read == [path]
    body, seen = inside(detector)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        detector(x)
        wanted = hierax.load(path).encoder.detection_features(x, THREE)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(seen[0], wanted.values(), strict=True))
    assert detector.config.backbone_config.model_type == "hierax"
    detector.save_pretrained(tmp_path / "detector")
    again = transformers.RTDetrV2ForObjectDetection.from_pretrained(tmp_path / "detector")
    assert torch.equal(inside(again)[0].body.encoder.pos_embed, body.body.encoder.pos_embed)


def test_gradient_checkpointing(checkpoint):
    detector = use_in(built("upernet", checkpoint), checkpoint).train()
    detector.backbone.gradient_checkpointing_enable()
    assert detector.backbone.body.encoder.checkpoint_blocks
    detector.backbone.gradient_checkpointing_disable()
    assert not detector.backbone.body.encoder.checkpoint_blocks


def test_refusals(checkpoint, tmp_path):
    """Each of these would otherwise end as a detector on random weights."""
    transformers = peer("transformers")
    resnet = transformers.RTDetrV2ForObjectDetection(
        transformers.RTDetrV2Config(**RT | {"encoder_in_channels": [512, 1024, 2048]})
    )
    with pytest.raises(hierax.InputError, match="512, 1024, 2048 wide; those of the source are 8, 16, 32, 64"):
        use_in(resnet, checkpoint)
    with pytest.raises(hierax.InputError, match="one backbone; Linear has 0"):
        use_in(torch.nn.Linear(1, 1), checkpoint)
    with pytest.raises(hierax.InputError, match="that is built; got None"):
        use_in(None, checkpoint)
    with torch.device("meta"):
        empty = built("upernet", checkpoint)
    with pytest.raises(hierax.InputError, match="meta device"):
        use_in(empty, checkpoint)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4}
    body = backbone_config(checkpoint)
    depth = transformers.DPTForDepthEstimation(
        transformers.DPTConfig(backbone_config=body, neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, **sizes)
    )
    with pytest.raises(hierax.InputError, match="tokens of a plain ViT"):
        use_in(depth, checkpoint)
    other = hierax.ModelConfig(**{**SMALL, **FAMILIES["hieradet"], "depths": (1, 2, 4, 1)})
    path = write_weights(weights_of(other), tmp_path / "other", to="hierax")
    with pytest.raises(hierax.InputError, match="the source is a"):
        use_in(built("upernet", checkpoint), path)
    config = backbone_config(checkpoint)
    config.out_features = ["stem"]
    with pytest.raises(hierax.UnknownNameError, match="out_features"):
        transformers.AutoBackbone.from_config(config)


def test_shared_or_computed_parameters_are_noticed(checkpoint):
    """A parametrised weight is computed from others: copying into it changes nothing."""
    detector = built("upernet", checkpoint)
    torch.nn.utils.parametrizations.weight_norm(detector.backbone.body.encoder.patch_embed.proj)
    with pytest.raises((hierax.CheckpointError, hierax.InputError)):
        use_in(detector, checkpoint)


def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.backbone_utils", None)
    with pytest.raises(hierax.MissingExtraError, match="transformers"):
        importlib.import_module("hierax.compat.transformers").register()
