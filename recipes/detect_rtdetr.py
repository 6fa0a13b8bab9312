"""RT-DETR v2 of transformers on rendered scenes, from the embedded model's backbone.

    python recipes/detect_rtdetr.py OUT                    # 200 scenes to learn from, 100 others to measure on
    python recipes/detect_rtdetr.py OUT --random-backbone  # the same without pretrained weights, for comparison

Source:   RT-DETR v2 (arXiv:2407.17140), made small.
Needs:    transformers, scipy, faster-coco-eval.
Hardware: two CPU cores, some ten minutes: 625 steps of 8 scenes, 0.6 s of processor time each.
Result:   AP50 of boxes 0.57 (AP 0.33) on 100 held-out scenes, seed 0; 0.14, 0.38, 0.51 and 0.57 after 5, 10, 15 and
          20 epochs. In 50 epochs, of which 20 were run: 0.12, 0.31, 0.49, 0.52, and with a random backbone 0.13 and
          0.23 after 5 and 10. In 15 epochs with seeds 1 and 2: 0.41 and 0.37, with a random backbone 0.19 and 0.22.
"""

from __future__ import annotations

import random

import torch
from rendered import Scenes, main, precision
from torch import Tensor, nn

from hierax.compat.transformers import backbone_config, use_in

WIDTH, QUERIES = 128, 30


def build(names: dict[int, str], pretrained: bool) -> nn.Module:
    """The detector, with the embedded model's weights in its backbone or with random ones."""
    from transformers import RTDetrV2Config, RTDetrV2ForObjectDetection

    config = RTDetrV2Config(
        backbone_config=backbone_config(stages=("stage2", "stage3", "stage4")),
        id2label=names,
        label2id={name: number for number, name in names.items()},
        d_model=WIDTH,
        encoder_hidden_dim=WIDTH,
        encoder_in_channels=[64, 128, 256],
        decoder_in_channels=[WIDTH] * 3,
        encoder_layers=1,
        encoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_layers=3,
        decoder_attention_heads=4,
        decoder_ffn_dim=256,
        num_queries=QUERIES,
        num_denoising=QUERIES,
        hidden_expansion=0.5,
        eval_size=None,
    )
    detector = RTDetrV2ForObjectDetection(config)
    return use_in(detector) if pretrained else detector


def loss_of(detector: nn.Module, scenes: Scenes, places: list[int]) -> Tensor:
    """The detector's own loss; every second image is mirrored."""
    height, width = scenes.pixels.shape[-2:]
    images, labels = [], []
    for place in places:
        classes, boxes, _ = scenes.things(place)
        boxes = torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1) / torch.tensor([width, height] * 2)
        image = scenes.pixels[place]
        if random.random() < 0.5:
            image, boxes = image.flip(-1), torch.cat([1 - boxes[:, :1], boxes[:, 1:]], 1)
        images.append(image)
        labels.append({"class_labels": classes, "boxes": boxes})
    return detector(torch.stack(images), labels=labels).loss


def measure(detector: nn.Module, scenes: Scenes) -> dict[str, float]:
    """AP and AP50 of boxes."""
    height, width = scenes.pixels.shape[-2:]
    found = []
    for start in range(0, len(scenes), 20):
        out = detector(scenes.pixels[start : start + 20])
        scores, flat = out.logits.sigmoid().flatten(1).topk(QUERIES)
        classes, queries = flat % len(scenes.names), flat // len(scenes.names)
        x, y, w, h = (out.pred_boxes[..., axis].gather(1, queries) for axis in range(4))
        boxes = torch.stack([(x - w / 2) * width, (y - h / 2) * height, w * width, h * height], -1)
        for image, *rows in zip(scenes.ids[start : start + 20], scores, classes, boxes, strict=True):
            for score, kind, box in zip(*(row.tolist() for row in rows), strict=True):
                found.append({"image_id": image, "category_id": kind + 1, "bbox": box, "score": score})
    return precision(scenes, found, "bbox")


if __name__ == "__main__":
    main("RT-DETR v2 on rendered scenes.", 25, build, loss_of, measure)
