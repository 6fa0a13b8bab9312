"""Files as the reference packages themselves write them, and real-size tiny networks to put into them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hierax.config import ARCHITECTURES, ModelConfig

from .members import det_config, loud, plain_config
from .peers import (
    SAM2_RENAME,
    Reference,
    ask_birder,
    ask_hf_sam2,
    ask_meta,
    ask_timm,
    birder_rename,
    hf_config,
    named_stages,
    peer,
)

RGB = {"mean": (0.51, 0.53, 0.49), "std": (0.23, 0.24, 0.26)}

# --- real networks, smallest public member of each format -----------------------------------------------------------


def real_meta(name: str = "hiera_tiny_224", **options: Any) -> nn.Module:
    """One of Meta's named networks, loud."""
    return loud(getattr(peer("hiera"), name)(**options))


def real_timm(name: str, **options: Any) -> nn.Module:
    """One of timm's named networks, loud."""
    peer("timm")
    return loud(importlib.import_module("timm").create_model(name, **options))


def real_birder(name: str, classes: int = 0, size: tuple[int, int] = (224, 224), **config: Any) -> nn.Module:
    """One of birder's registered networks, loud."""
    peer("birder.net.hiera"), peer("birder.net.hieradet")
    registry = peer("birder.model_registry").registry
    return loud(registry.net_factory(name, classes, config=config or None, size=size))


def sam2_image_encoder(name: str = "sam2_hiera_tiny") -> nn.Module:
    """SAM 2's image encoder: one of our named trunks, and its neck."""
    config = ARCHITECTURES[name]
    hieradet = peer("sam2.modeling.backbones.hieradet")
    encoder = peer("sam2.modeling.backbones.image_encoder")
    position = peer("sam2.modeling.position_encoding")
    trunk = hieradet.Hiera(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        stages=config.depths,
        global_att_blocks=config.global_blocks,
        window_spec=tuple(w[0] for w in config.windows if isinstance(w, tuple)),
        window_pos_embed_bkg_spatial_size=config.position_size,
    )
    neck = encoder.FpnNeck(
        position_encoding=position.PositionEmbeddingSine(num_pos_feats=256, normalize=True, temperature=10000),
        d_model=256,
        backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return loud(encoder.ImageEncoder(trunk=trunk, neck=neck, scalp=1))


# --- writers ------------------------------------------------------------------------------------------------------


def write_meta_pth(module: nn.Module, path: Path) -> Path:
    """A `.pth` of Meta's own training code: the state under `model_state`, beside bookkeeping."""
    torch.save({"model_state": module.state_dict(), "epoch": 300}, path)
    return path


def write_meta_folder(module: Any, folder: Path) -> Path:
    """Meta's hub folder, written by its mixin."""
    module.save_pretrained(folder)
    return folder


def write_sam2_pt(encoder: nn.Module, path: Path) -> Path:
    """A SAM 2 `.pt`: the image encoder among parts that are no encoder."""
    state = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    state |= {
        "maskmem_tpos_enc": torch.randn(7, 1, 1, 64),
        "no_mem_embed": torch.randn(1, 1, 256),
        "no_obj_ptr": torch.randn(1, 256),
        "sam_mask_decoder.iou_token.weight": torch.randn(1, 256),
        "sam_prompt_encoder.not_a_point_embed.weight": torch.randn(1, 256),
        "memory_attention.norm.weight": torch.randn(256),
        "memory_encoder.out_proj.weight": torch.randn(64, 256, 1, 1),
        "mask_downsample.weight": torch.randn(1, 1, 4, 4),
        "obj_ptr_proj.layers.0.weight": torch.randn(256, 256),
        "obj_ptr_tpos_proj.weight": torch.randn(64, 256),
        "no_obj_embed_spatial": torch.randn(1, 64),
    }
    torch.save({"model": state}, path)
    return path


def write_hf_folder(module: Any, folder: Path, processor: bool = True) -> Path:
    """A transformers folder, with the preprocessor file that the hub's have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.save_pretrained(folder)
    if processor:
        sam2 = module.config.model_type.startswith("sam2")
        text = HF_SAM2_PROCESSOR if sam2 else HF_HIERA_PROCESSOR
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return folder


HF_HIERA_PROCESSOR = """{"image_processor_type": "BitImageProcessor", "do_resize": true, "size": {"shortest_edge": 256},
 "resample": 3, "do_center_crop": true, "crop_size": {"height": 224, "width": 224}, "do_rescale": true,
 "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.485, 0.456, 0.406],
 "image_std": [0.229, 0.224, 0.225], "do_convert_rgb": true}"""
HF_SAM2_PROCESSOR = """{"image_processor_type": "Sam2ImageProcessorFast", "do_resize": true, "resample": 2,
 "size": {"height": 1024, "width": 1024}, "do_rescale": true, "rescale_factor": 0.00392156862745098,
 "do_normalize": true, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}"""


def write_timm_folder(module: nn.Module, folder: Path) -> Path:
    """A timm hub folder, written by timm."""
    peer("timm")
    importlib.import_module("timm.models").save_for_hf(module, str(folder), safe_serialization=True)
    return folder


def write_timm_safetensors(module: nn.Module, path: Path) -> Path:
    """timm's bare weights."""
    importlib.import_module("safetensors.torch").save_file(module.state_dict(), path)
    return path


def birder_items(module: Any, size: tuple[int, int], classes: int) -> dict[str, Any]:
    """What birder stores around the weights."""
    signature = peer("birder.net.base").get_signature((1, 3, *size), classes)
    return {
        "signature": signature,
        "class_to_idx": {f"bird {i}": i for i in range(classes)},
        "rgb_stats": RGB,
    }


def write_birder_pt(
    module: Any, folder: Path, *, size: tuple[int, int] = (224, 224), classes: int = 0, config: Any = None
) -> Path:
    """A birder `.pt`, written by birder's own checkpoint function."""
    fs_ops, settings = peer("birder.common.fs_ops"), peer("birder.conf").settings
    items = birder_items(module, size, classes)
    before = settings.MODELS_DIR
    settings.MODELS_DIR = folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        fs_ops.checkpoint_model(
            "net",
            1,
            module,
            optimizer=None,
            scheduler=None,
            scaler=None,
            model_base=None,
            external_config=config,
            **items,
        )
        return fs_ops.model_path("net", epoch=1)
    finally:
        settings.MODELS_DIR = before


def write_birder_safetensors(
    module: Any, path: Path, *, size: tuple[int, int] = (224, 224), classes: int = 0, config: Any = None
) -> Path:
    """A birder `.safetensors`, written by birder."""
    items = birder_items(module, size, classes)
    peer("birder.common.fs_ops").save_st(module, str(path), "image_classification", external_config=config, **items)
    return path


def write_birder_mae(module: Any, path: Path, size: tuple[int, int] = (224, 224)) -> Path:
    """A birder masked-autoencoder `.pt`."""
    signature = peer("birder.net.mim.base").get_mim_signature((1, 3, *size))
    torch.save(
        {
            "state": module.state_dict(),
            "birder_version": "0.8.4",
            "task": "masked_image_modeling",
            "signature": signature,
            "class_to_idx": {},
            "rgb_stats": RGB,
        },
        path,
    )
    return path


# --- a file of each kind ------------------------------------------------------------------------------------------


@dataclass
class FileCase:
    """A written file, what it takes to load it, and the network that it came from."""

    path: Path
    reference: Reference
    options: dict[str, Any]


def _tiny(depths: tuple[int, ...] = (1, 2, 7, 2), **options: Any) -> ModelConfig:
    return ModelConfig(depths=depths, **options)


def meta_pth(folder: Path) -> FileCase:
    """hiera_tiny_224 with 7 classes; the file says nothing about itself."""
    module = real_meta(num_classes=7)
    return FileCase(
        write_meta_pth(module, folder / "x.pth"), Reference(module, _tiny(num_classes=7), ask_meta, str), {}
    )


def meta_folder(folder: Path) -> FileCase:
    """A small Meta network at 96x64, known by its config.json."""
    from .peers import meta

    reference = meta((96, 64))
    return FileCase(write_meta_folder(reference.module, folder / "hub"), reference, {})


def meta_video_folder(folder: Path) -> FileCase:
    """A small Meta video network, known by its config.json."""
    from .peers import meta

    reference = meta((4, 64, 64))
    return FileCase(write_meta_folder(reference.module, folder / "hub"), reference, {})


def sam2_pt(folder: Path) -> FileCase:
    """SAM 2 tiny, whole file."""
    encoder: Any = sam2_image_encoder()
    config = ARCHITECTURES["sam2_hiera_tiny"]
    reference = Reference(encoder.trunk, config, lambda m, x: named_stages(m(x)), SAM2_RENAME)
    return FileCase(write_sam2_pt(encoder, folder / "anything.bin"), reference, {})


def hf_classification(folder: Path) -> FileCase:
    """A small transformers classifier."""
    from .peers import hf

    reference = hf()
    return FileCase(write_hf_folder(reference.module, folder / "hf"), reference, {})


def hf_real(folder: Path) -> FileCase:
    """transformers' classifier at the size of the public tiny, named classes included."""
    from .peers import ask_hf, hf_rules, renamer

    names = {0: "tench", 1: "goldfish"}
    config = hf_config((224, 224), (1, 2, 7, 2), 96, id2label=names, label2id={v: k for k, v in names.items()})
    module = loud(peer("transformers").HieraForImageClassification(config))
    reference = Reference(module, _tiny(num_classes=2), ask_hf, renamer(*hf_rules((1, 2, 7, 2))))
    return FileCase(write_hf_folder(module, folder / "hf"), reference, {})


def hf_model(folder: Path) -> FileCase:
    """A small transformers HieraModel, not square: no prefix, no head."""
    from .peers import hf_rules, renamer

    module = loud(peer("transformers").HieraModel(hf_config((96, 64), (1, 2, 3, 1), 16)))

    def ask(m: nn.Module, x: Tensor) -> dict[str, Tensor]:
        out = m(x, output_hidden_states=True)
        maps = named_stages([h.permute(0, 3, 1, 2) for h in out.reshaped_hidden_states[1:]])
        return {**maps, "embedding": out.pooler_output}

    config = plain_config((96, 64), (1, 2, 3, 1), 16, num_classes=0)
    reference = Reference(module, config, ask, renamer(*hf_rules((1, 2, 3, 1))))
    return FileCase(write_hf_folder(module, folder / "hf"), reference, {})


def hf_sam2_trunk(folder: Path) -> FileCase:
    """transformers' bare SAM 2 trunk."""
    from .peers import hf_sam2

    reference = hf_sam2()
    return FileCase(write_hf_folder(reference.module, folder / "hf"), reference, {})


def hf_sam2_vision(folder: Path) -> FileCase:
    """transformers' SAM 2 vision model: trunk and neck."""
    from .peers import HF_SAM2_RENAME, hf_sam2

    transformers = peer("transformers")
    trunk: Any = hf_sam2((8, 4, 16, 8)).module
    config = transformers.Sam2VisionConfig(backbone_config=trunk.config, backbone_channel_list=[128, 64, 32, 16])
    module = loud(transformers.Sam2VisionModel(config), seed=1)
    reference = Reference(module.backbone, det_config((8, 4, 16, 8)), ask_hf_sam2, HF_SAM2_RENAME)
    return FileCase(write_hf_folder(module, folder / "hf"), reference, {})


def hf_sam2_whole(folder: Path) -> FileCase:
    """transformers' whole SAM 2: the trunk three levels down."""
    from .peers import HF_SAM2_RENAME, hf_sam2

    transformers = peer("transformers")
    trunk: Any = hf_sam2().module
    vision = transformers.Sam2VisionConfig(backbone_config=trunk.config, backbone_channel_list=[128, 64, 32, 16])
    module = loud(transformers.Sam2Model(transformers.Sam2Config(vision_config=vision)), seed=2)
    reference = Reference(module.vision_encoder.backbone, det_config(), ask_hf_sam2, HF_SAM2_RENAME)
    return FileCase(write_hf_folder(module, folder / "hf"), reference, {})


def timm_folder(name: str, **options: Any) -> Callable[[Path], FileCase]:
    """A timm hub folder of one of its named networks."""

    def write(folder: Path) -> FileCase:
        from .peers import TIMM_RENAME

        module = real_timm(name, **options)
        reference = Reference(module, _tiny(), ask_timm, TIMM_RENAME)
        return FileCase(write_timm_folder(module, folder / "timm"), reference, {})

    return write


def timm_bare(folder: Path) -> FileCase:
    """timm's hiera_tiny_224 as bare safetensors."""
    from .peers import TIMM_RENAME

    module = real_timm("hiera_tiny_224", num_classes=3)
    path = write_timm_safetensors(module, folder / "weights.safetensors")
    return FileCase(path, Reference(module, _tiny(), ask_timm, TIMM_RENAME), {})


def birder_file(
    name: str, suffix: str = "pt", classes: int = 0, size: tuple[int, int] = (224, 224), **config: Any
) -> Callable[[Path], FileCase]:
    """A birder file of a registered network; the caller has to name it, for the file does not."""

    def write(folder: Path) -> FileCase:
        module = real_birder(name, classes, size, **config)
        ours = ARCHITECTURES[name]
        norm = "0" if ours.family == "hieradet" else "1"
        reference = Reference(module, ours, ask_birder, birder_rename(ours.depths, norm))
        options = {"size": size, "classes": classes, "config": config or None}
        if suffix == "pt":
            path = write_birder_pt(module, folder / "models", **options)
        else:
            path = write_birder_safetensors(module, folder / "net.safetensors", **options)
        return FileCase(path, reference, {"name": name})

    return write


# One public member of each format at its real size; elsewhere 32 channels, which the file's own config must tell.
FILES: dict[str, Callable[[Path], FileCase]] = {
    "meta_pth": meta_pth,
    "meta_folder": meta_folder,
    "meta_video_folder": meta_video_folder,
    "sam2_pt": sam2_pt,
    "transformers_classification": hf_classification,
    "transformers_real": hf_real,
    "transformers_model": hf_model,
    "transformers_sam2_trunk": hf_sam2_trunk,
    "transformers_sam2_vision": hf_sam2_vision,
    "transformers_sam2_whole": hf_sam2_whole,
    "timm_safetensors": timm_bare,
    "timm_plain_folder": timm_folder("hiera_tiny_224", num_classes=4, embed_dim=32),
    "timm_small_abswin_folder": timm_folder("hiera_small_abswin_256", num_classes=4, embed_dim=32),
    "timm_base_abswin_folder": timm_folder("hiera_base_abswin_256", num_classes=4, embed_dim=32, stages=(1, 2, 3, 1)),
    "timm_hieradet_folder": timm_folder("hieradet_small", num_classes=4, embed_dim=32),
    "timm_sam2_folder": timm_folder("sam2_hiera_tiny"),
    "birder_plain_pt": birder_file("hiera_tiny", classes=6, embed_dim=32),
    "birder_abswin_pt": birder_file("hiera_abswin_tiny", classes=6),
    "birder_abswin_safetensors": birder_file(
        "hiera_abswin_tiny", "safetensors", classes=6, size=(256, 192), embed_dim=32
    ),
    "birder_hieradet_pt": birder_file("hieradet_tiny", classes=6, size=(256, 256)),
    "birder_hieradet_d_safetensors": birder_file(
        "hieradet_d_tiny", "safetensors", classes=6, size=(256, 256), embed_dim=32
    ),
    "birder_large_windows_pt": birder_file("hieradet_tiny", size=(256, 256), window_spec=[8, 4, 16, 8], embed_dim=32),
    "birder_ap_pt": birder_file("hiera_abswin_base_plus_ap", classes=3, depths=[1, 2, 3, 1], embed_dim=32, num_heads=2),
}
