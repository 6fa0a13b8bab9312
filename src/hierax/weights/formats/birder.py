"""birder `.pt` and `.safetensors` files: Hiera, abswin, HieraDet and its masked autoencoder."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ...config import ARCHITECTURES, DecoderConfig, ModelConfig, PreprocessSpec, Side, Stages, square_windows
from ...errors import CheckpointError, InputError, brief
from ...schema import Between, Natural, conform, parse_json, pick
from ..files import RawCheckpoint, write_safetensors, write_torch
from ..geometry import Geometry, adapt, choose, extra_parts, first, irregular, public_name, said_as, unusual
from ..rename import Dialect, to_theirs
from .base import Format, ordered_labels, stated

if TYPE_CHECKING:
    from torch import Tensor

    from ..card import Weights

_BLOCKS: dict[str, Any] = {"block": "body.stage{stage}.{j}.", "parts": (("mlp.fc1.", "mlp.0."), ("mlp.fc2.", "mlp.3."))}
_POOL = (
    ("attention_pool.mlp.fc1.", "features.0.mlp.0."),
    ("attention_pool.mlp.fc2.", "features.0.mlp.3."),
    ("attention_pool.", "features.0."),
)
_NETWORK = {"depths": "depths", "embed_dim": "embed_dim", "num_heads": "num_heads", "drop_path_rate": "drop_path"}
_OUTER = (("patch_embed.", "stem."), ("pos_embed_window", "pos_embed_win"), ("head.projection.", "classifier."))
# Quirk(birder): the final norm is features.0 in HieraDet, features.1 in Hiera, and was features.0 there before 0.3.3.
HIERA = Dialect(**_BLOCKS, outer=(*_OUTER, *_POOL, ("norm.", "features.1.")))
DET = Dialect(**_BLOCKS, outer=(*_OUTER, ("norm.", "features.0.")))
NAMES = tuple(
    name
    for name in ARCHITECTURES
    if name.startswith(("hieradet_", "hiera_abswin_", "mae_hiera_hiera_"))
    or (name.startswith("hiera_") and not name[-1].isdigit())
)
# What birder's default colour statistics have been since 2025-07; files carry their own.
RGB = {"mean": (0.5191, 0.5306, 0.4877), "std": (0.2316, 0.2304, 0.2588)}


@dataclass(frozen=True, kw_only=True)
class _Options:
    """Keys of birder's `config` that say something of ours in other terms."""

    window_spec: Stages[Annotated[int, Between(least=-4096, most=64)]] | None = None
    global_pos_size: tuple[Side, Side] | None = None
    abs_win_pos_embed: bool | None = None
    attn_pool_head: bool = False
    attn_pool_num_heads: Side | None = None


@dataclass(frozen=True, kw_only=True)
class _Statistics:
    mean: tuple[float, float, float] = RGB["mean"]
    std: tuple[float, float, float] = RGB["std"]


@dataclass(frozen=True, kw_only=True)
class _Classes:
    class_to_idx: dict[str, Natural] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Shape:
    data_shape: tuple[int, Side, Side, Side]

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True, kw_only=True)
class _Signature:
    inputs: tuple[_Shape, ...] = ()


class Birder(Format):
    """Weights with a signature, colour statistics and class names around them."""

    name = "birder"
    suffixes = (".pt", ".safetensors")
    may_be_fresh = ("norm.",)  # of trunks that came from SAM 2

    def matches(self, raw: RawCheckpoint) -> bool:
        """Birder calls the patch embedding a stem and nests blocks in a body."""
        return any(key.removeprefix("encoder.").startswith("body.stage1.0.norm1.") for key in raw.tensors)

    def dialect(self, raw: RawCheckpoint) -> tuple[str, Dialect]:
        """`encoder.` in front inside a masked autoencoder; the norm's place tells old files from new."""
        prefix = "encoder." if any(key.startswith("encoder.body.") for key in raw.tensors) else ""
        return prefix, HIERA if f"{prefix}features.1.weight" in raw.tensors else DET

    def before(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig) -> ModelConfig:
        """An abswin Hiera may be asked for as the HieraDet of its size."""
        if named.family != "hieradet" or "features.1.weight" not in raw.tensors:
            return super().before(raw, geometry, named)
        name = named.name.replace("hieradet_d_", "hiera_abswin_").replace("hieradet_", "hiera_abswin_")
        return dataclasses.replace(
            named,
            family="hiera_abswin",
            name=name,
            windows=((8, 8), (4, 4), None, None),
            global_blocks=(),
            head="pool_norm",
            position_antialias=True,
        )

    def config(self, raw: RawCheckpoint, geometry: Geometry, named: ModelConfig | None) -> ModelConfig:
        """The name in a JSON sidecar or the caller's; files themselves do not say which network they hold."""
        size = _signature_size(raw)
        masked = geometry.decoder_pools >= 0
        found = item(raw, "encoder_config") if masked else item(raw, "config") or raw.config.get("model_config")
        overrides = table(found or {}, "config")
        if named is None:
            # The network's registered name in a JSON sidecar, as our architectures spell it.
            said = ("encoder_registered_name", "encoder") if masked else ("registered_name", "name")
            stored = ("mae_hiera_" if masked else "") + str(raw.config.get(said[0]) or raw.config.get(said[1]) or "")
            if stored in ARCHITECTURES:
                named = ARCHITECTURES[stored]
            elif {"depths", "embed_dim"} <= overrides.keys():
                named = ModelConfig(name="custom", num_classes=0)
            else:
                # Every birder autoencoder is registered with three pools; how many a file has is read off it below.
                pools = 3 if masked else -1
                registered = dataclasses.replace(geometry, decoder_pools=pools)
                named = choose(registered, _candidates(raw, geometry, size), str(raw.path))
        config = overridden(named, overrides)
        config = _masked(config, geometry) if masked else config
        if geometry.position == "window" and config.family != "hieradet":
            size = size or tuple(16 * side for side in geometry.table)
        return adapt(config, geometry, size)

    def preprocess(self, raw: RawCheckpoint, config: ModelConfig) -> PreprocessSpec:
        """Squash to the signature's size, bicubic, the file's own colour statistics."""
        stats = pick(_Statistics, item(raw, "rgb_stats") or {}, where="rgb_stats")
        return PreprocessSpec(
            size=(config.input_size[-2], config.input_size[-1]),
            resize="squash",
            crop_ratio=1.0,
            mean=stats.mean,
            std=stats.std,
        )

    def labels(self, raw: RawCheckpoint, num_classes: int) -> list[str] | None:
        """`class_to_idx`, by index."""
        classes = pick(_Classes, {"class_to_idx": item(raw, "class_to_idx")}, where="The file").class_to_idx
        return ordered_labels({str(index): name for name, index in classes.items()}, num_classes)

    def obstacle(self, config: ModelConfig, tensors: Mapping[str, Tensor]) -> str | None:
        """No video, no timm extras, and each family's own order of pooling and norm."""
        det, decoder, eps = config.family == "hieradet", config.decoder, config.norm_eps
        fixed = ("mlp_ratio", "patch_kernel", "patch_stride", "patch_padding", "q_stride", "mask_unit")
        common = first(
            (config.is_video, "birder has no video Hiera"),
            (extra_parts(config), "birder's blocks have neither layer scale nor the max-and-mean shortcut"),
            (eps != 1e-6, f"birder's norms use epsilon 1e-6 since 0.3.3; this network's use {eps}"),
        )
        if wrong := common or unusual(config, *fixed) or (None if det else irregular(config)):
            return wrong
        if decoder is not None:
            other = (decoder.dim, decoder.depth, decoder.num_heads) != (512, 8, 16)
            return first(
                (other, "birder's decoder has 8 blocks of width 512 with 16 heads"),
                (not decoder.normalize_target, "birder always predicts normalised pixels"),
            )
        head, size, table = config.head, config.input_size, config.table_size
        pools_first, other_head = det and head == "pool_norm", not det and head not in ("pool_norm", "attention")
        other_table = config.family == "hiera_abswin" and table != config.birder_table
        return first(
            (pools_first, "birder's HieraDet norms tokens before pooling them; this network pools first"),
            (other_head, f"birder's Hiera pools, then norms; this network's head is {head!r}"),
            (other_table, f"birder's background table is input size // 16; this one's is {table} at {size}"),
        )

    def write(self, weights: Weights, destination: Path) -> Path:
        """A `.pt` (or `.safetensors` if so named) that birder loads."""
        import torch

        config, spec = weights.config, weights.preprocess
        det, width = config.family == "hieradet", config.embedding_size
        # Quirk(birder): its networks always have a final norm; inside the autoencoder nothing uses it.
        norm = {"norm.weight": torch.ones(width), "norm.bias": torch.full((width,), 0.0 if det else 0.02)}
        outer = ("mask_token", "decoder", "encoder_norm", "multi_scale")
        state = {}
        for key, tensor in {**norm, **weights.tensors}.items():
            prefix = "encoder." if config.decoder is not None and not key.startswith(outer) else ""
            theirs = prefix + (DET if det else HIERA).spell(key, config.depths)
            state[theirs] = to_theirs(key, tensor, config).contiguous()
        items: dict[str, Any] = {
            "birder_version": "0.8.4",
            "task": "masked_image_modeling" if config.decoder else "image_classification",
            "signature": signature(config),
            "class_to_idx": class_indices(weights.labels or []),
            "rgb_stats": {"mean": tuple(spec.mean), "std": tuple(spec.std)},
            "hierax": weights.card.facts,
        }
        known = ARCHITECTURES.get(config.name)
        if known is None or config.name not in NAMES or _network(known) != _network(config):
            # Inside an autoencoder, birder's own loader is told the encoder by its caller; ours reads it here.
            items["encoder_config" if config.decoder else "config"] = _network(config)
        path = destination if destination.suffix in self.suffixes else destination / f"{config.name}.pt"
        if path.suffix == ".safetensors":
            metadata = {k: v if isinstance(v, str) else json.dumps(v) for k, v in items.items()}
            return write_safetensors(path, state, metadata)
        return write_torch(path, {"state": state, **items})


def signature(config: ModelConfig) -> dict[str, Any]:
    """Shapes of inputs and outputs as birder stores them, 0 for the batch axis."""
    shape = [0, config.in_channels, *config.input_size[-2:]]
    outputs = shape if config.decoder else [0, config.num_classes]
    return {"inputs": [{"data_shape": shape}], "outputs": [{"data_shape": outputs}]}


def class_indices(labels: list[str]) -> dict[str, int]:
    """Index of each class by name, as birder stores them; a name that two classes share gets the index behind it."""
    shared = {name for name, count in Counter(labels).items() if count > 1}
    return {f"{name} [{index}]" if name in shared else name: index for index, name in enumerate(labels)}


def item(raw: RawCheckpoint, key: str) -> Any:
    """An entry of the `.pt`, of the safetensors metadata (JSON), or of the sidecar."""
    if key in raw.container:
        return raw.container[key]
    if key in raw.metadata:
        return parse_json(raw.metadata[key], where=f"{key!r} in the metadata must be JSON", error=CheckpointError)
    return raw.config.get(key)


def table(value: Any, key: str) -> Mapping[str, Any]:
    """An entry that must be a table.

    Raises:
        InputError: It is none.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{key!r} must be a table of keys and values; got {brief(value)}.")
    return value


def _signature_size(raw: RawCheckpoint) -> tuple[int, ...] | None:
    inputs = pick(_Signature, item(raw, "signature") or {}, where="signature").inputs
    return inputs[0].data_shape[-2:] if inputs else None


def _candidates(raw: RawCheckpoint, geometry: Geometry, size: tuple[int, ...] | None) -> list[str]:
    """Networks whose stored table has this size: abswin's grows with the input, HieraDet's does not."""
    new_layout = any(key.endswith("features.1.weight") for key in raw.tensors)
    names = []
    for name in NAMES:
        config = ARCHITECTURES[name]
        if config.family == "hieradet":
            possible = config.position_size == geometry.table and not new_layout
        else:
            grown = dataclasses.replace(config, input_size=size or config.input_size).birder_table
            possible = config.position != "window" or size is None or geometry.table == grown
        if possible:
            names.append(name)
    return names


def overridden(config: ModelConfig, overrides: Mapping[str, Any]) -> ModelConfig:
    """Birder's own config keys on top of a network."""
    plain = {"q_pool": "q_pool", "global_att_blocks": "global_blocks", **_NETWORK}
    changes = stated(overrides, {ours: theirs for theirs, ours in plain.items()})
    said = pick(_Options, overrides, where="config")
    if (spec := said.window_spec) is not None:
        changes |= {"windows": square_windows(spec), "mask_unit": (spec[0], spec[0]), "family": "hieradet"}
        changes |= {"head": "norm_pool", "position": "window", "position_antialias": False}
    if (table_size := said.global_pos_size) is not None:
        changes["position_size"] = table_size
    if (windowed := said.abs_win_pos_embed) is not None:
        changes |= {"position": "window" if windowed else "grid", "position_antialias": True}
        changes["family"] = "hiera_abswin" if windowed else "hiera"
    if said.attn_pool_head:
        changes["head"] = "attention"
    if said.attn_pool_num_heads:
        changes["attention_pool_heads"] = said.attn_pool_num_heads
    changed = dataclasses.replace(config, **changes)
    return dataclasses.replace(changed, name=public_name(changed)) if overrides else changed


def _masked(config: ModelConfig, geometry: Geometry) -> ModelConfig:
    """The autoencoder around an encoder.

    Quirk(birder): the autoencoder's file does not say how often its encoder pools; its fusion layers do. Its encoder
    keeps a final norm that nothing uses.
    """
    head = "pool_norm" if geometry.has_norm else "pool"
    decoder = config.decoder or DecoderConfig()
    changed = dataclasses.replace(config, q_pool=geometry.decoder_pools, decoder=decoder, head=head)
    return dataclasses.replace(changed, name=public_name(changed))


def _network(config: ModelConfig) -> dict[str, Any]:
    """The config dictionary that birder's constructors read."""
    data = said_as(config, _NETWORK)
    if config.family == "hieradet":
        spec = [0 if w is None else w if isinstance(w, int) else w[0] for w in config.windows]
        det = said_as(config, {"global_pos_size": "table_size", "global_att_blocks": "global_blocks"})
        return {**data, **det, "window_spec": spec}
    data["abs_win_pos_embed"] = config.position == "window"
    if config.q_pool != 3:
        data["q_pool"] = config.q_pool
    if config.head == "attention":
        data |= {"attn_pool_head": True, "attn_pool_num_heads": config.attention_pool_heads}
    return data
