"""Whole models, predictors and pipelines: every public method that reaches the encoder, beside what it said before."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hierax
from hierax.accelerate.peer import tensors_in
from hierax.accelerate.report import distances
from hierax.accelerate.seam import placed

from ..members import loud, picture, pixels
from ..peers import birder_det, hf_mae, peer
from .models import SIDE, hf_classifier, hf_sam2_config, sam2_frames, sam2_model, sam2_predictor

pytestmark = pytest.mark.parity

EQUAL = 1e-5
PHOTOGRAPH = np.array(picture((96, 80), seed=2))
POINTS = {"point_coords": np.array([[40, 30], [60, 50]]), "point_labels": np.array([1, 0])}
Ask = Callable[[Any], Any]


def said_alike(obj: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch, tolerance: float = EQUAL) -> None:
    """Ask the model as it came and faster, where no block of the original may run, then as it came once more."""
    theirs = list(_arrays(ask(obj)))
    handle = hierax.accelerate(obj, engine="torch", check=False)
    assert hierax.is_accelerated(obj)
    with monkeypatch.context() as patch:
        for module in handle._modules.values():
            assert placed(module) is not None
            blocks = [m for m in module.modules() if type(m).__name__.endswith(("Block", "HieraLayer"))]
            for kind in {type(m) for m in blocks}:
                patch.setattr(kind, "forward", _unreachable(set(map(id, blocks)), kind.forward))
        ours = list(_arrays(ask(obj)))
    handle.undo()
    assert not hierax.is_accelerated(obj)
    assert len(theirs) == len(ours) > 0
    for (name, a), (other, b) in zip(ours, theirs, strict=True):
        assert name == other
        apart = distances([a], [b])
        assert max(apart.values()) <= tolerance, (name, apart)
    again = list(_arrays(ask(obj)))
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(again, theirs, strict=True))


def _arrays(value: Any) -> Any:
    """All tensors and arrays of an answer."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, (list, tuple)):
        for index, each in enumerate(value):
            yield from ((f"{index}{name}", t) for name, t in _arrays(each))
    elif hasattr(value, "items") and not isinstance(value, Tensor):
        for key, each in value.items():
            yield from ((f"{key}{name}", t) for name, t in _arrays(each))
    elif isinstance(value, Tensor):
        yield "", value.double().clone()
    elif isinstance(value, float):
        yield "", torch.tensor([value])


def _unreachable(blocks: set[int], own: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the encoder's blocks; other parts, such as a decoder, may be of their class."""

    def method(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        assert id(self) not in blocks, "a block of the original ran"
        return own(self, *args, **kwargs)

    return method


# --- sam2 -------------------------------------------------------------------------------------------------------------


def test_image_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One image, and masks from points."""

    def ask(predictor: Any) -> Any:
        predictor.set_image(PHOTOGRAPH)
        features = list(tensors_in(predictor._features))
        return [tensor for _, tensor in features], predictor.predict(**POINTS, return_logits=True)

    said_alike(sam2_predictor(), ask, monkeypatch)


def test_image_predictor__batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several images of different sizes are encoded at once."""

    def ask(predictor: Any) -> Any:
        predictor.set_image_batch([PHOTOGRAPH, PHOTOGRAPH[:50, ::-1].copy()])
        points, labels = [POINTS["point_coords"]] * 2, [POINTS["point_labels"]] * 2
        return predictor.predict_batch(points, labels, return_logits=True)

    said_alike(sam2_predictor(), ask, monkeypatch)


def test_mask_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM2AutomaticMaskGenerator holds a predictor that holds the model; it asks for the image and for four crops."""
    module = peer("sam2.automatic_mask_generator")
    monkeypatch.setattr(module, "batched_nms", greedy_nms)  # torchvision's needs its compiled half
    every = {"pred_iou_thresh": -1e9, "stability_score_thresh": -1.0, "box_nms_thresh": 1.0, "crop_nms_thresh": 1.0}
    generator = module.SAM2AutomaticMaskGenerator(sam2_model(), points_per_side=2, crop_n_layers=1, **every)
    generator.predictor._bb_feat_sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]

    def ask(generator: Any) -> Any:
        found = generator.generate(PHOTOGRAPH)
        assert len(found) > 3
        return [{name: torch.as_tensor(np.asarray(value)).float() for name, value in each.items()} for each in found]

    said_alike(generator, ask, monkeypatch)


def greedy_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """The boxes to keep, best first: each one drops those of its group that cover it too much."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept, left = [], scores.argsort(descending=True, stable=True)
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        corners = torch.max(boxes[best, :2], boxes[left, :2]), torch.min(boxes[best, 2:], boxes[left, 2:])
        both = (corners[1] - corners[0]).clamp(min=0).prod(1)
        left = left[(both <= iou_threshold * (areas[best] + areas[left] - both)) | (groups[left] != groups[best])]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.long)


def test_base__forward_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists that come out are written to by their callers: they must be new every time."""

    def ask(model: Any) -> Any:
        with torch.no_grad():
            return [model.forward_image(pixels(1, 3, SIDE, SIDE)) for _ in range(2)]

    said_alike(sam2_model(), ask, monkeypatch)


@pytest.mark.slow
def test_video_predictor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Five frames, one click: masks follow through the memory.

    The package keeps memories in bfloat16, which its own layers take under autocast alone; kept in float32 here, a
    difference cannot hide in their rounding.
    """
    model = sam2_model("sam2.sam2_video_predictor.SAM2VideoPredictor")
    module = peer("sam2.sam2_video_predictor")
    proxy = types.SimpleNamespace(**{**vars(torch), "bfloat16": torch.float32})
    monkeypatch.setattr(module, "torch", proxy)
    folder = str(sam2_frames(tmp_path / "frames"))

    def ask(model: Any) -> Any:
        state = model.init_state(folder, offload_video_to_cpu=True, offload_state_to_cpu=True)
        first = model.add_new_points_or_box(state, 0, 1, points=[[25.0, 35.0]], labels=[1])[2]
        masks = [logits for _, _, logits in model.propagate_in_video(state)]
        assert len(masks) == 5
        return first, masks

    said_alike(model, ask, monkeypatch)


@pytest.mark.slow
def test_video_predictor__autocast(tmp_path: Path) -> None:
    """Under the autocast that SAM 2 is run with, masks stay as near to each other as bfloat16 rounds."""
    model = sam2_model("sam2.sam2_video_predictor.SAM2VideoPredictor")
    folder = str(sam2_frames(tmp_path / "frames"))

    def ask() -> list[Tensor]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            state = model.init_state(folder, offload_video_to_cpu=True, offload_state_to_cpu=True)
            model.add_new_points_or_box(state, 0, 1, points=[[25.0, 35.0]], labels=[1])
            return [logits.float() for _, _, logits in model.propagate_in_video(state)]

    theirs = ask()
    hierax.accelerate(model, engine="torch", check=False)
    for ours, wanted in zip(ask(), theirs, strict=True):
        assert ours.dtype == wanted.dtype
        agree = ((ours > 0) == (wanted > 0)).double().mean()
        assert agree > 0.97


# --- transformers ------------------------------------------------------------------------------------------------------


def _hf(name: str, config: str) -> Any:
    return loud(getattr(peer("transformers"), name)(hf_sam2_config(config)))


def test_vision_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of the neck, by attribute and as a tuple."""

    def ask(model: Any) -> Any:
        x = pixels(2, 3, SIDE, SIDE)
        with torch.no_grad():
            return model(x), model(x, return_dict=False), model(x[:, :, :96, :64])

    said_alike(_hf("Sam2VisionModel", "Sam2VisionConfig"), ask, monkeypatch)


def test_sam2_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features, embeddings and masks."""

    def ask(model: Any) -> Any:
        x = pixels(1, 3, SIDE, SIDE)
        with torch.no_grad():
            masks = model(x, input_points=torch.tensor([[[[40.0, 30.0]]]]), input_labels=torch.tensor([[[1]]]))
            return masks, model.get_image_features(x), model.get_image_embeddings(x)

    said_alike(_hf("Sam2Model", "Sam2Config"), ask, monkeypatch)


@pytest.mark.slow
def test_sam2_video_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five frames, one click."""
    module = peer("transformers.models.sam2_video.modeling_sam2_video")
    frames = [pixels(3, SIDE, SIDE, seed=7) + 0.1 * pixels(3, SIDE, SIDE, seed=i) for i in range(5)]

    def ask(model: Any) -> Any:
        session = module.Sam2VideoInferenceSession(
            video=torch.stack(frames), video_height=SIDE, video_width=SIDE, dtype=torch.float32
        )
        session.obj_id_to_idx(1)
        point = {
            "point_coords": torch.tensor([[[[40.0, 30.0]]]]),
            "point_labels": torch.tensor([[[1]]], dtype=torch.int32),
        }
        session.add_point_inputs(0, 0, point)
        session.obj_with_new_inputs = [1]
        with torch.no_grad():
            first = model(inference_session=session, frame_idx=0).pred_masks
            return first, [out.pred_masks for out in model.propagate_in_video_iterator(session)]

    said_alike(_hf("Sam2VideoModel", "Sam2VideoConfig"), ask, monkeypatch)


def test_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline is one line of most tutorials."""
    transformers = peer("transformers")
    processor = transformers.BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    pipe = transformers.pipeline("image-classification", model=hf_classifier(), image_processor=processor, device="cpu")

    def ask(pipe: Any) -> Any:
        said = pipe([picture((96, 80), seed=s) for s in range(3)], batch_size=2, top_k=5)
        return [[each["score"] for each in sorted(one, key=lambda e: e["label"])] for one in said]

    said_alike(pipe, ask, monkeypatch)


def test_classifier__labels_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss beside the logits, tuples, another size."""

    def ask(model: Any) -> Any:
        x = pixels(2, 3, 64, 64)
        with torch.no_grad():
            whole = model(x, labels=torch.tensor([1, 2])), model(x, return_dict=False)
            return *whole, model(pixels(1, 3, 96, 128), interpolate_pos_encoding=True)

    said_alike(hf_classifier(), ask, monkeypatch)


def test_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass of the autoencoder's encoder is masked; the masks are its own random numbers."""

    def ask(model: Any) -> Any:
        x = pixels(2, 3, 64, 64)
        torch.manual_seed(3)
        with torch.no_grad():
            return model(x), model(x, noise=pixels(2, 4), output_hidden_states=True), model.hiera(x)

    said_alike(hf_mae().module, ask, monkeypatch)


# --- what holds one ----------------------------------------------------------------------------------------------------


def test_anybodys_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of one's own around a backbone."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = birder_det().module

        def forward(self, x: Tensor) -> list[Tensor]:
            return [grid * 2 for grid in self.backbone.detection_features(x).values()]

    def ask(model: Any) -> Any:
        with torch.no_grad():
            return model(pixels(1, 3, 96, 160))

    said_alike(Detector().eval(), ask, monkeypatch)
