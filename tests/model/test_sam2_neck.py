"""The neck that SAM 2's mask decoder takes its maps from: its own code, our maps."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import hierax
from hierax.cli import main
from hierax.model.necks import Sam2Neck

from ..accelerate.models import hf_sam2_config
from ..members import loud
from ..peer_files import sam2_image_encoder, write_hf_folder, write_sam2_pt
from ..peers import peer

parity = pytest.mark.parity


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """SAM 2's own model and its file, the trunk of the public tiny one."""
    hydra, package = peer("hydra.utils"), peer("sam2")
    conf = peer("omegaconf").OmegaConf
    config = conf.load(f"{package.__path__[0]}/configs/sam2.1/sam2.1_hiera_t.yaml").model
    config = conf.to_container(config) | {"_target_": "sam2.modeling.sam2_base.SAM2Base"}
    config["memory_attention"]["num_layers"] = 1
    model = loud(hydra.instantiate(config, _convert_="all"))
    path = tmp_path_factory.mktemp("sam2") / "sam2.pt"
    torch.save({"model": model.state_dict()}, path)
    return model, path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """transformers' whole model, small, and its folder."""
    transformers = peer("transformers")
    model = loud(transformers.Sam2Model(hf_sam2_config()))
    return model, write_hf_folder(model, tmp_path_factory.mktemp("hf") / "whole")


def answers(path, x, **options):
    neck = hierax.create("sam2_neck", source=path, **options)
    return neck, neck.eval()(hierax.backbone(path).eval()(x))


@parity
@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (96, 160), (64, 32)])
def test_forward_image_of_sam2(size, original):
    """A neck off by a level, or without the decoder's projections, gives masks of nothing."""
    model, path = original
    x = torch.randn(1, 3, *size)
    with torch.inference_mode():
        neck, (features, positions) = answers(path, x)
        wanted = model.forward_image(x)
    assert neck.channels == [32, 64, 256] == [each.shape[1] for each in features]
    assert [x.shape[-1] // each.shape[-1] for each in features] == list(neck.strides)
    for found, expected in [
        *zip(features, wanted["backbone_fpn"], strict=True),
        *zip(positions, wanted["vision_pos_enc"], strict=True),
    ]:
        assert expected.abs().max() > 0.5
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@parity
@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_transformers(size, whole):
    """Its file names the same parts otherwise."""
    model, path = whole
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        _, (features, positions) = answers(path, x)
        given = model.vision_encoder(x)
        fine, middle, coarse = given.fpn_hidden_states
        wanted = [model.mask_decoder.conv_s0(fine), model.mask_decoder.conv_s1(middle), coarse]
    for found, expected in zip([*features, *positions], [*wanted, *given.fpn_position_encoding], strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


@parity
def test_video(tmp_path):
    """transformers' video model keeps the same parts among a memory."""
    transformers = peer("transformers")
    model = loud(transformers.Sam2VideoModel(hf_sam2_config("Sam2VideoConfig")))
    path = write_hf_folder(model, tmp_path / "video")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        _, (features, _) = answers(path, x)
        fine, middle, coarse = model.vision_encoder(x).fpn_hidden_states
        wanted = [model.mask_decoder.conv_s0(fine), model.mask_decoder.conv_s1(middle), coarse]
    assert all(torch.allclose(*pair, rtol=1e-5, atol=1e-5) for pair in zip(features, wanted, strict=True))


@parity
def test_high_res(whole, tmp_path):
    """The maps before the decoder's projections are features too; a file without a decoder has only those."""
    model, path = whole
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        neck, (features, _) = answers(path, x, high_res=False)
        wanted = model.vision_encoder(x).fpn_hidden_states
    assert neck.channels == [256, 256, 256]
    assert all(torch.allclose(*pair, rtol=1e-5, atol=1e-5) for pair in zip(features, wanted, strict=True))
    vision = write_hf_folder(model.vision_encoder, tmp_path / "vision")
    assert hierax.create("sam2_neck", source=vision).channels == [256, 256, 256]
    with pytest.raises(hierax.CheckpointError, match="high_res needs conv_s0 and conv_s1"):
        hierax.create("sam2_neck", source=vision, high_res=True)


@parity
def test_gradients_and_state(whole, tmp_path):
    """A neck that cannot be trained with the trunk, or saved beside it, is no part of a model."""
    _, path = whole
    body, neck = hierax.backbone(path), hierax.create("sam2_neck", source=path)
    features, _ = neck(body(torch.randn(1, 3, 64, 64)))
    sum(each.square().mean() for each in features).backward()
    assert all(p.grad is not None for p in [*neck.parameters(), body.encoder.patch_embed.proj.weight])
    fresh = hierax.create("sam2_neck", source=hierax.load(path))
    torch.save(neck.state_dict(), tmp_path / "neck.pt")
    fresh.load_state_dict(torch.load(tmp_path / "neck.pt", weights_only=True))


@parity
def test_broken_files(whole, tmp_path):
    """Each of these would otherwise be a decoder that sees noise."""
    _, path = whole
    config = (path / "config.json").read_text()
    tensors = load_file(path / "model.safetensors")
    first, fine = "vision_encoder.neck.convs.0.weight", "mask_decoder.conv_s0.bias"
    cases = {
        "missing": ({key: value for key, value in tensors.items() if key != first}, "convs.0.weight"),
        "narrow": ({**tensors, first: tensors[first][:, :-8].contiguous()}, "of shape"),
        "flat": ({**tensors, first: tensors[first].flatten()}, "of shape"),
        "nan": ({**tensors, first: tensors[first] * float("nan")}, "NaN"),
        "half a decoder": ({key: value for key, value in tensors.items() if key != fine}, "conv_s0.bias"),
        "empty": ({**tensors, first: torch.zeros(2**40, 128, 1, 0)}, "of shape"),
    }
    for name, (state, words) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        save_file(state, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(config)
        with pytest.raises(hierax.CheckpointError, match=words):
            hierax.create("sam2_neck", source=folder)


@parity
def test_a_trunk_alone_has_none(tmp_path):
    encoder = sam2_image_encoder()
    path = write_sam2_pt(encoder, tmp_path / "sam2.pt")
    assert hierax.create("sam2_neck", source=path).channels == [256, 256, 256]  # no decoder in that file
    trunk = hierax.convert(path, tmp_path / "trunk", to="hierax")
    with pytest.raises(hierax.CheckpointError, match="whole SAM 2 checkpoint"):
        hierax.create("sam2_neck", source=trunk)


def test_fresh():
    neck = hierax.create("sam2_neck", trunk="sam2_hiera_large")
    assert isinstance(neck, Sam2Neck)
    maps = [torch.randn(1, 144 * 2**stage, 16 >> stage, 16 >> stage) for stage in range(4)]
    features, positions = neck(maps)
    assert [tuple(each.shape[1:]) for each in features] == [(32, 16, 16), (64, 8, 8), (256, 4, 4)]
    assert [each.shape[1] for each in positions] == [256] * 3
    assert hierax.create("sam2_neck", high_res=False).channels == [256] * 3
    with pytest.raises(hierax.InputError, match="144, 288, 576, 1152 wide; got 288, 576"):
        neck(maps[1:3])
    cropped = [maps[0], maps[1][..., :7], *maps[2:]]  # as pad=True of the backbone gives them
    with pytest.raises(hierax.InputError, match="twice the cells .* 16x16, 8x7, 4x4, 2x2"):
        neck(cropped)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_classes": 3}, "got num_classes"),
        ({"embed_dim": 3}, "got embed_dim"),
        ({"source": "x.pt", "trunk": "sam2_hiera_tiny"}, "Leave one of them out"),
        ({"source": "no_such_model"}, "no_such_model"),
        ({"trunk": "resnet"}, "resnet"),
        ({"trunk": "hiera_base_16x224"}, "takes clips"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(hierax.HieraxError, match=words):
        hierax.create("sam2_neck", **options)


def test_its_name_is_no_models(capsys):
    """Somebody who has read of `create("sam2_neck")` tries `load` and `describe`."""
    with pytest.raises(hierax.UnknownNameError, match=r"hierax.create\('sam2_neck', source="):
        hierax.load("sam2_neck")
    assert main(["describe", "sam2_neck"]) == 1
    assert "hierax.create('sam2_neck'" in capsys.readouterr().err
