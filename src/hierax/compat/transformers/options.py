"""The keyword arguments of `from_pretrained` that say how to load, not what.

Each is honoured, refused, or without effect here whatever its value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, InputError, UnknownNameError, brief, nearest
from ...model.precision import as_dtype
from ...net.options import HubOptions, hub_options
from ...registry import find_weights, is_local, usable_device
from ...weights import catalog
from ...weights.card import Weights
from ...weights.files import read_json
from ...weights.hub import fetch_sidecar

_HONOURED = (
    "cache_dir", "local_files_only", "force_download", "token", "use_auth_token", "revision", "device_map", "dtype",
    "torch_dtype", "ignore_mismatched_sizes", "output_loading_info", "use_safetensors",
)  # fmt: skip
# How memory is filled, who runs a repository's code (nobody), whether a pickle may be (never): the model is the same.
_WITHOUT_EFFECT = (
    "low_cpu_mem_usage",
    "resume_download",
    "trust_remote_code",
    "weights_only",
    "code_revision",
    "user_agent",
)
_ONE_DEVICE = "A model lives on one device: device_map='cuda' or 'cpu'"
_INT8 = "hierax.optimize(model, dtype='int8') quantises"
# Values that change nothing; None never does. Then what to do instead.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "proxies": ((), "Set the environment variable HTTPS_PROXY"),
    "mirror": ((), "Set the environment variable HF_ENDPOINT"),
    "subfolder": (("",), "Name the folder or file itself"),
    "variant": ((), "Name the weights file itself"),
    "attn_implementation": (("eager", "sdpa"), "'eager' and 'sdpa' give the same numbers, and hierax.optimize speed"),
    "from_tf": ((False,), "Save the model with torch first"),
    "from_flax": ((False,), "Save the model with torch first"),
    "gguf_file": ((), "Name a safetensors or torch file"),
    "state_dict": ((), "Build the model with the class and its config, then call load_state_dict"),
    "quantization_config": ((), _INT8),
    "load_in_8bit": ((False,), _INT8),
    "load_in_4bit": ((False,), _INT8),
    "max_memory": ((), _ONE_DEVICE),
    "offload_folder": ((), _ONE_DEVICE),
    "offload_state_dict": ((False,), _ONE_DEVICE),
    "offload_buffers": ((False,), _ONE_DEVICE),
    "tp_plan": ((), _ONE_DEVICE),
    "tp_size": ((), _ONE_DEVICE),
    "device_mesh": ((), _ONE_DEVICE),
    "key_mapping": ((), "hierax tells the names of every known package apart by itself"),
    "adapter_kwargs": ((), "Merge the adapter into the weights first"),
    "generation_config": ((), "A vision encoder generates nothing"),
}  # fmt: skip
_WHEREVER = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Request:
    """How to load.

    Attributes:
        hub: Where hub files lie, whether to ask for them, and with which token.
        revision: Branch, tag or commit.
        device: Where the model goes; None leaves it on the CPU.
        dtype: Type of the parameters; None is what the config says.
        lenient: Make parameters of another shape fresh instead of refusing.
        safetensors: True takes nothing else, False nothing of the kind.
        info: Also return what became of the parameters.
    """

    hub: HubOptions
    revision: str | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    lenient: bool = False
    safetensors: bool | None = None
    info: bool = False

    def weights(self, source: str | Path) -> Weights:
        """The weights of a source.

        Raises:
            CheckpointError: As `hierax.load`, or a file of the kind that was not wanted.
            UnknownNameError: No such name.
        """
        with hub_options(self.hub):
            weights = find_weights(source, revision=self.revision)
        raw = weights.raw
        if self.safetensors is not None and raw is not None and (".safetensors" in raw.path.name) != self.safetensors:
            raise CheckpointError(
                f"use_safetensors={self.safetensors} was asked for; what was found is {raw.path}. Leave it "
                "out, or name the file itself: hierax unpickles nothing, whatever the file."
            )
        return weights

    def published(self, source: str | Path) -> catalog.CatalogEntry | None:
        """What the catalogue knows of a source; nothing where another revision of it is asked for."""
        return None if self.revision or "@" in str(source) else known_entry(str(source))

    def sidecar(self, source: str | Path, *names: str) -> dict[str, Any] | None:
        """A configuration file beside the weights, which are not fetched; None where the catalogue or they must tell.

        Args:
            source: As for `weights`.
            *names: Files, of which the first that is there counts; a local one may be the source itself.

        Raises:
            CheckpointError: A repository without any of them, or a damaged file.
            UnknownNameError: No such name.
        """
        if is_local(source) or Path(source).exists():
            path = Path(source).expanduser()
            places = [path / name for name in names] if path.is_dir() else [path] if path.suffix == ".json" else []
            return next((read_json(place) for place in places if place.is_file()), None)
        name, _, pinned = str(source).partition("@")
        revision = self.revision or pinned or None
        entry = known_entry(name)
        if entry is None and name.count("/") != 1:
            catalog.resolve(name)  # which says what there is
        if entry is not None and entry.path is not None:
            return self.sidecar(entry.path, *names)
        if entry is not None and not (revision and entry.repo and entry.format == "transformers"):
            return None
        repo = name if entry is None else str(entry.repo)
        with hub_options(self.hub):
            return read_json(fetch_sidecar(repo, names, revision=revision))


def requested(options: Mapping[str, Any], known: Iterable[str]) -> tuple[Request, dict[str, Any]]:
    """Part keyword arguments of `from_pretrained` into how to load and the rest, which are fields of a config.

    Args:
        options: All of them.
        known: Names that the rest may have.

    Raises:
        InputError: An option that hierax cannot honour.
        UnknownNameError: No option of transformers, and not among the known.
    """
    said = {name: value for name, value in options.items() if name in _HONOURED}
    rest = {name: value for name, value in options.items() if name not in said and name not in _WITHOUT_EFFECT}
    known = list(known)
    for name in [name for name in rest if name in _REFUSED]:
        harmless, remedy = _REFUSED[name]
        value = rest.pop(name)
        if value is not None and not (isinstance(value, (str, bool)) and value in harmless):
            raise InputError(f"{name}= is not supported here; got {brief(value)}. {remedy}.")
    for name in rest:
        if name not in known:
            choices = (*known, *_HONOURED, *_REFUSED)
            raise UnknownNameError(f"Unknown option {name!r}. {nearest(name, choices)}")
    return _request(said), rest


def is_option(name: str) -> bool:
    """Whether a keyword argument says how to load."""
    return name in _HONOURED or name in _WITHOUT_EFFECT or name in _REFUSED


def _request(said: Mapping[str, Any]) -> Request:
    token, cache = said.get("token", said.get("use_auth_token")), said.get("cache_dir")
    dtype = said.get("dtype", said.get("torch_dtype"))
    return Request(
        hub=HubOptions(
            cache=None if cache is None else Path(cache).expanduser().absolute(),
            offline=bool(said.get("local_files_only")),
            token={True: None, False: ""}.get(token, token) if isinstance(token, bool) else token,
            again=bool(said.get("force_download")),
        ),
        revision=said.get("revision"),
        device=_one_device(said.get("device_map")),
        dtype=None if dtype in (None, "auto") else as_dtype(dtype),
        lenient=bool(said.get("ignore_mismatched_sizes")),
        safetensors=said.get("use_safetensors"),
        info=bool(said.get("output_loading_info")),
    )


def _one_device(given: Any) -> torch.device | None:
    """The device of a device map, which may name the same one for every part."""
    if isinstance(given, Mapping):
        places = set(map(str, given.values()))
        if len(places) != 1:
            raise InputError(f"device_map must be one device, such as 'cpu' or 'cuda'; got {brief(dict(given))}.")
        given = next(iter(given.values()))
    if isinstance(given, str) and given in _WHEREVER:
        return torch.device("cuda") if torch.cuda.is_available() else None
    return None if given is None else usable_device(given)


def known_entry(name: str) -> catalog.CatalogEntry | None:
    """What the catalogue knows of a name, None for any other source."""
    try:
        return None if is_local(name) else catalog.resolve(name)
    except UnknownNameError:
        return None
