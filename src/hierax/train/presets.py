"""Recipes by name: the paper's, birder's, and defaults for data sets of a few hundred to a few thousand images.

Plain keys, as a TOML file has them; `train.reading` makes recipes of them.

Source: arXiv:2306.00989 tables 11, 12 and 14; birder docs/training_ssl.md.
"""

from __future__ import annotations

from typing import Any

Keys = dict[str, Any]  # of a recipe, as in a TOML file

# Fine-tuning on ImageNet-1K after 1600 epochs of MAE: lr at batch 1024, epochs, drop path of fine-tuning and of MAE,
# layer decay.
_IMAGENET = {
    "tiny": (2e-3, 300, 0.1, 0.0, 0.65),
    "small": (2e-3, 200, 0.1, 0.0, 0.65),
    "base": (2e-3, 100, 0.1, 0.2, 0.7),
    "base_plus": (1e-3, 100, 0.1, 0.2, 0.7),
    "large": (1e-3, 50, 0.1, 0.2, 0.85),
    "huge": (1e-3, 50, 0.3, 0.3, 0.85),
}
# Kinetics after 3200 effective epochs of MAE: pretraining lr and drop path; fine-tuning lr, epochs, drop path,
# head dropout, layer decay.
_KINETICS = {
    "base": (8e-4, 0.1, 8e-4, 150, 0.2, 0.3, 0.8),
    "base_plus": (8e-4, 0.2, 8e-4, 150, 0.2, 0.3, 0.8),
    "large": (8e-4, 0.2, 8e-4, 100, 0.2, 0.5, 0.875),
    "huge": (3.2e-4, 0.4, 4e-4, 100, 0.3, 0.5, 0.875),
}

_MAE: Keys = {"task": "pretrain", "method": "mae", "betas": (0.9, 0.95), "pretrained": False}
_DINOV2: Keys = {"task": "pretrain", "method": "dinov2", "pretrained": False}
_MIX: Keys = {"mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1}
_LONG: Keys = {"log_every": 20, "checkpoint_every": 1000, "workers": 8}
_VIDEO: Keys = {**_MIX, **_LONG, "batch_size": 256, "lr_batch": 256, "rand_augment": (2, 7)}
_VIDEO_MAE: Keys = {**_MAE, **_LONG, "crop_scale": (0.5, 1.0), "mask_ratio": 0.9, "decoder_heads": 8}
# Near its own policy at level 8: two to four operations that always act, such as rotations of up to 18 degrees.
_BIRDER: Keys = {
    **_LONG, "groups": "birder", "mixup": 0.8, "mix_choice": "uniform", "label_smoothing": 0.1,
    "crop_scale": (0.1, 1.0), "rand_augment": (3, 3), "rand_augment_probability": 1.0, "input_size": 256,
    "min_lr": 5e-7,
}  # fmt: skip
_SMALL: Keys = {
    "epochs": 30, "warmup_epochs": 2, "batch_size": 32, "lr": 5e-4, "layer_decay": 0.75, "label_smoothing": 0.1,
    "drop_path": 0.1, "crop_scale": (0.35, 1.0), "ema_decay": 0.99, "clip_norm": 1.0,
}  # fmt: skip

PRESETS: dict[str, Keys] = {
    "small_finetune": _SMALL,
    "linear_probe": {
        **_SMALL, "linear_probe": True, "layer_decay": 1.0, "lr": 1e-3, "weight_decay": 1e-4, "drop_path": 0.0,
        "warmup_epochs": 0.0,
    },
    "small_pretrain": dict(
        # A rate of its own, quoted at its own batch: the paper's 8e-4 is for a batch of 4096, and linear from there.
        **_MAE, epochs=200, warmup_epochs=10, batch_size=64, lr=2e-4, lr_batch=64, crop_scale=(0.2, 1.0),
        clip_norm=1.0,
    ),
    # The rate is DINOv2's, 4e-3 at 1024, by the square root that it goes with. The teacher stays at the temperature
    # that DINO recommends to begin with: in a short run it never spreads its scores enough for a higher one.
    "small_dinov2": dict(
        **_DINOV2, epochs=100, warmup_epochs=10, batch_size=32, lr=1e-3, lr_batch=64, lr_scaling="sqrt", clip_norm=3.0,
        prototypes=1024, weight_decay=0.04, weight_decay_end=0.2, koleo_gathered=True, teacher_temperature=0.04,
    ),
    # DINOv2's shorter run, of a ViT-L on ImageNet-1K. What it calls an epoch is 1250 steps, two passes over that data.
    "dinov2": dict(
        **_DINOV2, **_LONG, epochs=200, warmup_epochs=20, batch_size=2048, lr=4e-3, lr_batch=1024,
        lr_scaling="sqrt", min_lr=1e-6, weight_decay=0.04, weight_decay_end=0.4, layer_decay=0.9, patch_embed_lr=0.2,
        clip_norm=3.0, drop_path=0.3, drop_path_uniform=True, separate_heads=False, centring="centre",
        teacher_temperature_epochs=60, freeze_epochs=2, freeze="lr", schedules="dinov2",
    ),
    # birder's run of hieradet_d_small on two GPUs: 64 a GPU, of which eight make a step.
    "birder_dinov2": dict(
        **_DINOV2, **_LONG, model="hieradet_d_small", epochs=100, warmup_epochs=10, batch_size=1024, accumulate=8,
        lr=2e-4, min_lr=1e-6, weight_decay=0.04, weight_decay_end=0.2, undecayed="none", clip_norm=3.0,
        clip_scope="all", drop_path=0.1, global_scale=(0.35, 1.0), local_scale=(0.1, 0.35), augmentation="birder",
        mask_blocks="birder", schedules="birder",
    ),
    # birder rescales its decays, 0.9999 and 0.9998, by the run's length: 1 - (1 - d) * batch * every / epochs.
    "imagenet12k": dict(
        **_BIRDER, model="hieradet_d_small_dino-v2", batch_size=512, lr=5e-4, epochs=100, warmup_epochs=5,
        layer_decay=0.65, cutmix=1.0, erasing=0.25, ema_decay=0.9836, ema_every=32,
    ),
    "imagenet12k_to_imagenet": dict(
        **_BIRDER, model="hieradet_d_small_dino-v2-imagenet12k", batch_size=2048, accumulate=4, lr=7.5e-5, epochs=50,
        warmup_epochs=10, layer_decay=0.6, ema_decay=0.9918,
    ),
}  # fmt: skip
for size, (lr, epochs, drop_path, mae_drop_path, layer_decay) in _IMAGENET.items():
    PRESETS[f"imagenet_pretrain_{size}"] = dict(
        **_MAE, **_LONG, model=f"mae_hiera_{size}_224", lr=8e-4, lr_batch=4096, batch_size=4096, warmup_epochs=40,
        epochs=1600, crop_scale=(0.2, 1.0), mask_ratio=0.6, drop_path=mae_drop_path,
    )  # fmt: skip
    PRESETS[f"imagenet_finetune_{size}"] = dict(
        **_MIX, **_LONG, model=f"mae_hiera_{size}_224", lr=lr, lr_batch=1024, batch_size=1024, warmup_epochs=5,
        epochs=epochs, drop_path=drop_path, layer_decay=layer_decay, rand_augment=(2, 9), erasing=0.25,
    )  # fmt: skip
for size, (mae_lr, mae_drop_path, lr, epochs, drop_path, dropout, layer_decay) in _KINETICS.items():
    PRESETS[f"kinetics_pretrain_{size}"] = dict(
        **_VIDEO_MAE, model=f"mae_hiera_{size}_16x224", lr=mae_lr, lr_batch=512, batch_size=512, warmup_epochs=120,
        epochs=3200, repeats=4, drop_path=mae_drop_path,
    )  # fmt: skip
    PRESETS[f"kinetics_finetune_{size}"] = dict(
        **_VIDEO, model=f"mae_hiera_{size}_16x224", lr=lr, warmup_epochs=10, epochs=epochs, repeats=2,
        drop_path=drop_path, head_dropout=dropout, layer_decay=layer_decay, clip_norm=5.0,
    )  # fmt: skip
PRESETS["ssv2_pretrain_large"] = dict(
    **_VIDEO_MAE, model="mae_hiera_large_16x224", lr=8e-4, lr_batch=1024, batch_size=1024, warmup_epochs=30,
    epochs=1600, flip=0.0, clip_norm=0.02, drop_path=0.2,
)  # fmt: skip
PRESETS["ssv2_finetune_large"] = dict(
    **_VIDEO, model="mae_hiera_large_16x224", optimizer="sgd", lr=0.16, weight_decay=1e-4, epochs=40,
    layer_decay=0.875, flip=0.0, drop_path=0.2,
)  # fmt: skip
