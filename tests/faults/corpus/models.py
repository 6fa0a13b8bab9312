"""Sidecars, names and arguments that gave raw errors, gigabytes, or vectors of NaN."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hierax
from hierax.errors import CheckpointError, HieraxError

from ...members import MEMBERS, coloured_classes, noise, weights_of, written
from .case import Case, refused
from .case import hierax as hierax_command

KINDS = {  # what is written, and which package's classes read it
    "hierax": ("Hiera", "hierax"),
    "transformers": ("Hiera", "transformers"),
    "sam2": ("SAM 2 trunk", "transformers"),
    "timm": ("timm HieraDet", "timm"),
    "birder": ("birder abswin, attention pool", "birder"),
    "meta": ("Hiera", "meta"),
}
HUGE = "1" * 5000
DEEP = "[" * 100_000 + "]" * 100_000


def _with(kind: str, file: str, *place: str | int, text: str) -> Callable[[Path], None]:
    """Write a folder in which one place of a JSON file says something else."""

    def make(folder: Path) -> None:
        _folder(kind, folder)
        content = node = json.loads((folder / "model" / file).read_text())
        for key in place[:-1]:
            node = node[key]  # type: ignore[index]
        node[place[-1]] = "@@"  # type: ignore[index]
        (folder / "model" / file).write_text(json.dumps(content).replace('"@@"', text))

    return make


def _folder(kind: str, folder: Path) -> None:
    member, to = KINDS[kind]
    if to in ("hierax", "transformers", "timm"):
        written(MEMBERS[member], folder / "model", to)
        return
    from hierax.weights import files
    from hierax.weights.write import write_weights

    (folder / "model").mkdir()
    path = write_weights(weights_of(MEMBERS[member]), folder / "model" / "model.safetensors", to=to)
    raw = files.read(path)
    if to == "birder":  # whose facts may stand beside the file as well as in it
        facts = {key: json.loads(text) for key, text in raw.metadata.items() if text[:1] in "[{"}
        (path.parent / "model.json").write_text(json.dumps({**facts, "name": "hiera_abswin_tiny"}))
        files.write_safetensors(path, {key: tensor.clone() for key, tensor in raw.tensors.items()}, {"format": "pt"})


def _as_file(content: str | bytes, name: str = "config.json", times: int = 1) -> Callable[[Path], None]:
    """Content repeated only when it is written: every case is forked from a process that holds all of them."""

    def make(folder: Path) -> None:
        _folder("hierax", folder)
        data = (content.encode() if isinstance(content, str) else content) * times
        (folder / "model" / name).write_bytes(data)

    return make


def _as_link(target: str, name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _folder("hierax", folder)
        (folder / "model" / name).unlink()
        if target:
            (folder / "model" / name).symlink_to(target)
        else:
            os.mkfifo(folder / "model" / name)

    return make


def _load(folder: Path) -> Any:
    predictor = hierax.load(folder / "model")
    return str(predictor.card), predictor.embed(noise())


def _compat(folder: Path) -> Any:
    from hierax.compat.transformers import AutoImageProcessor, HieraForImageClassification

    pixels = AutoImageProcessor.from_pretrained(folder / "model")(noise(), return_tensors="pt")["pixel_values"]
    return HieraForImageClassification.from_pretrained(folder / "model")(pixels, interpolate_pos_encoding=True)


def _refused(name: str, make: Callable[[Path], None], match: str, act: Callable[[Path], Any] = _load) -> Case:
    return Case(name, make=make, act=act, raises=HieraxError if act is _compat else CheckpointError, match=match)


_ARCHITECTURE = [
    ("windows", "[[1,1],[1,1],[1,1],[1,1]]", "multiple of q_stride"),
    ("windows", "[[1000000000,1000000000],[4,4],null,null]", "windows must be"),
    ("windows", "[[9600,8],[4,4],null,null]", "windows must be at least 1 and at most 64"),
    ("windows", "[-1,[4,4],null,null]", "must fit into a grid"),
    ("windows", "[-4096,[4,4],null,null]", "at least one token"),
    ("windows", "[[0,0],[4,4],null,null]", "at least 1"),
    ("q_stride", "[0,0]", "q_stride must be at least 1"),
    ("q_stride", "[3,3]", "q_stride"),
    ("depths", "[1,1000000,1,1]", "depths must be at least 1 and at most 1024"),
    ("depths", "[" + "1," * 99_999 + "1]", "of 1 to 4 parts"),
    ("embed_dim", "1000000000", "embed_dim must be at least 1 and at most"),
    ("embed_dim", "65536", "needs"),
    ("num_heads", "7", "Heads must divide"),
    ("input_size", "[1000000000,1000000000]", "input_size must be"),
    ("input_size", "[65536,65536]", "pixels"),
    ("input_size", "[9600,9600]", "pixels"),
    ("input_size", "[0,0]", "at least 1"),
    ("input_size", "true", "input_size must be a list"),
    ("input_size", "[" + "1," * 99_999 + "1]", "of 2 to 3 parts"),
    ("patch_padding", "[0,0]", "one token a stride"),
    ("patch_padding", "[1000000000,3]", "at most 64"),
    ("patch_kernel", "[2000000000,7]", "at most 64"),
    ("mlp_ratio", "1e-30", "at least one channel"),
    ("mlp_ratio", "1e30", "at most 64"),
    ("norm_eps", "1e30", "norm_eps must be"),
    ("norm_eps", "NaN", "finite"),
    ("norm_eps", "1e400", "finite"),
    ("num_classes", HUGE, "too many digits"),
    ("num_classes", "1099511627776", "num_classes must be"),
    ("position", '"separable"', "separable"),
    ("name", '"' + "x" * 1_000_000 + '"', "name must be of"),
    ("family", '"' + "9" * 1_000_000 + '"', "family must be one of"),
    ("global_blocks", "5", "global_blocks must be a list"),
]
_PREPROCESS = [
    ("mean", "[1e30,0,0]", "mean must be at least"),
    ("mean", '["a","b","c"]', "mean must be a number"),
    ("std", "[1e-30,1,1]", "std must be at least"),
    ("std", "[0,1,1]", "std must be at least"),
    ("std", "[-1,1,1]", "std must be at least"),
    ("std", "[NaN,1,1]", "finite"),
    ("size", "[9600,9600]", "at most"),
    ("size", "[4000,4000]", "must be asked for"),
    ("size", "[0,0]", "size must be at least 1"),
    ("crop_ratio", "0", "crop_ratio must be"),
    ("crop_ratio", "1e30", "crop_ratio must be"),
    ("crop_ratio", "1e-30", "crop_ratio must be"),
    ("resize_to", "65536", "resize_to must be at most 20 times"),
    ("interpolation", '"lanczos"', "bicubic, bilinear"),
]
_FOREIGN = [
    ("hierax", "config.json", ("id2label",), "5", "id2label must be a table"),
    ("hierax", "config.json", ("id2label",), '{"zero": "a"}', "numbered from 0"),
    ("hierax", "config.json", ("id2label", "0"), r'"\ud800"', "surrogate"),
    ("hierax", "config.json", ("commercial",), '"no"', "commercial must be true or false"),
    ("hierax", "config.json", ("architecture",), DEEP, "nested too deeply"),
    ("transformers", "config.json", ("id2label",), "5", "id2label must be a table"),
    ("transformers", "config.json", ("depths",), "[1,2,3]", "masked_unit_size|depths"),
    ("transformers", "config.json", ("depths",), "7", "depths must be a list"),
    ("transformers", "config.json", ("query_stride",), "[0,0]", "query_stride must be at least 1"),
    ("transformers", "config.json", ("image_size",), "[9600,9600]", "pixels"),
    ("transformers", "config.json", ("num_heads",), '"x"', "num_heads must be a list"),
    ("transformers", "config.json", ("masked_unit_attention",), "5", "masked_unit_attention must be a list"),
    ("transformers", "config.json", ("num_query_pool",), "1000000000", "q_pool"),
    ("transformers", "preprocessor_config.json", ("image_mean",), '["a","b","c"]', "image_mean must be a number"),
    ("transformers", "preprocessor_config.json", ("image_mean",), "[1e30,0,0]", "image_mean must be"),
    ("transformers", "preprocessor_config.json", ("image_std",), "0", "image_std must be"),
    ("transformers", "preprocessor_config.json", ("resample",), '"bicubic"', "resample must be a whole number"),
    ("transformers", "preprocessor_config.json", ("resample",), "1", "resample must be 0"),
    ("transformers", "preprocessor_config.json", ("size",), '{"shortest_edge": 1000000000}', "size must be"),
    ("transformers", "preprocessor_config.json", ("crop_size",), '{"height": 0, "width": 0}', "crop_size must be"),
    ("transformers", "preprocessor_config.json", ("rescale_factor",), "1e-300", "rescale_factor must be"),
    ("sam2", "config.json", ("window_size_per_stage",), "[1,1,1,1]", "multiple of q_stride"),
    ("sam2", "config.json", ("window_size_per_stage",), "[8,4,1000000000,7]", "window_size_per_stage must be"),
    ("sam2", "config.json", ("num_attention_heads_per_stage",), "[]", "of 1 to 4 parts"),
    ("sam2", "config.json", ("image_size",), "[9600,9600]", "pixels"),
    ("timm", "config.json", ("pretrained_cfg", "mean"), '["a","b","c"]', "mean must be a number"),
    ("timm", "config.json", ("pretrained_cfg", "mean"), "[1e30,0,0]", "mean must be"),
    ("timm", "config.json", ("pretrained_cfg", "interpolation"), '"lanczos"', "bicubic, bilinear"),
    ("timm", "config.json", ("pretrained_cfg", "input_size"), "[3,9600,9600]", "pixels"),
    ("timm", "config.json", ("pretrained_cfg", "crop_pct"), "1e-30", "crop_ratio must be"),
    ("timm", "config.json", ("pretrained_cfg",), "[1]", "pretrained_cfg"),
    ("timm", "config.json", ("model_args", "window_spec"), "[1,1,1,1]", "multiple of q_stride"),
    ("timm", "config.json", ("label_names",), "5", "label_names must be"),
    ("birder", "model.json", ("class_to_idx",), "5", "class_to_idx must be a table"),
    ("birder", "model.json", ("class_to_idx",), '{"a": "b"}', "class_to_idx must be a whole number"),
    ("birder", "model.json", ("signature",), "5", "signature must be a table"),
    ("birder", "model.json", ("signature",), '{"inputs": [{"data_shape": [0,3,9600,9600]}]}', "pixels"),
    ("birder", "model.json", ("rgb_stats",), '{"mean": ["a","b","c"], "std": [1,1,1]}', "mean must be a number"),
    ("birder", "model.json", ("config", "embed_dim"), "1000000000", "embed_dim must be at least 1 and at most"),
    ("meta", "config.json", ("input_size",), "7", "input_size must be a list"),
    ("meta", "config.json", ("mask_unit_attn",), "[" + "true," * 99_999 + "true]", "of 1 to 4 parts"),
    ("meta", "config.json", ("q_stride",), "[0,0]", "q_stride must be at least 1"),
]
_FILES = {
    "deep": (DEEP, "nested too deeply"),
    "many_values": ("[" + "[]," * 2_000_000 + "[]]", "values"),
    "not_utf8": (b'{"model_type": "\xff"}', "UTF-8"),
    "twice": ('{"model_type": "hierax", "model_type": "timm"}', "stands twice"),
    "no_object": ("[1, 2]", "JSON object"),
    "many_digits": ('{"x": ' + HUGE + "}", "too many digits"),
    "empty": ("", "valid JSON"),
}


def _name(folder: Path) -> Any:
    return hierax.load("x" * 1_000_000)


CASES = [
    *(
        _refused(f"{key}_{number}", _with("hierax", "config.json", "architecture", key, text=text), match)
        for number, (key, text, match) in enumerate(_ARCHITECTURE)
    ),
    *(
        _refused(f"{key}_{number}", _with("hierax", "preprocessor_config.json", "hierax", key, text=text), match)
        for number, (key, text, match) in enumerate(_PREPROCESS)
    ),
    *(
        _refused(f"{kind}_{place[-1]}_{number}", _with(kind, file, *place, text=text), match)
        for number, (kind, file, place, text, match) in enumerate(_FOREIGN)
    ),
    *(
        _refused(f"compat_{place[-1]}_{number}", _with(kind, file, *place, text=text), match, _compat)
        for number, (kind, file, place, text, match) in enumerate(_FOREIGN)
        if kind == "transformers"
    ),
    _refused(
        "compat_num_labels",
        _with("transformers", "config.json", "num_labels", text="1000000000"),
        "num_labels",
        _compat,
    ),
    *(_refused(f"config_{name}", _as_file(*content[:1]), content[1]) for name, content in _FILES.items()),
    _refused("config_large", _as_file(b" ", times=400_000_000), "smaller than"),
    *(
        _refused(f"{file.partition('.')[0]}_{name}", _as_link(target, file), "regular file|readable")
        for file in ("config.json", "preprocessor_config.json")
        for name, target in (("zeros", "/dev/zero"), ("pipe", ""), ("dangling", "nowhere"), ("folder", "/"))
    ),
    Case("readme_zeros", make=_as_link("/dev/zero", "README.md"), act=_load),
    Case("config_with_mark", make=lambda f: _marked(f), act=_load),
    Case("long_name", act=_name, raises=HieraxError, match="Unknown model", seconds=1.0),
]


def _marked(folder: Path) -> None:
    _folder("hierax", folder)
    path = folder / "model" / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def _sparse() -> Any:
    import torch

    return torch.zeros(3, 96, 96).to_sparse()


def _meta() -> Any:
    import torch

    return torch.zeros(2, 3, 96, 96, device="meta")


def _complex() -> Any:
    import torch

    return torch.zeros(3, 96, 96, dtype=torch.complex64)


def _closed() -> Any:
    from PIL import Image

    image = Image.open(_png())
    image.fp.close()
    return image


def _png() -> Any:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(noise()).save(stream, "PNG")
    return stream


def _arrays() -> dict[str, Callable[[], Any]]:
    import numpy as np

    return {
        "object": lambda: np.full((4, 4, 3), None, dtype=object),
        "nan": lambda: np.full((4, 4, 3), np.nan),
        "no_pixels": lambda: np.zeros((0, 4, 3), np.uint8),
        "no_axes": lambda: np.array(3, np.uint8),
        "five_axes": lambda: np.zeros((1, 1, 1, 4, 3), np.uint8),
        "text": lambda: np.array([[["a"] * 3] * 4] * 4),
        "records": lambda: np.zeros((4, 4, 3), dtype=[("x", "u1")]),
        "big_endian": lambda: np.zeros((4, 4, 3), ">u2"),
        "mixed": lambda: [np.zeros((4, 4, 3), np.uint8), 3],
        "bytes": lambda: b"\x89PNG",
        "null_in_name": lambda: "a\0b.png",
        "home_of_nobody": lambda: Path("~nobody-of-that-name/x.png"),
        "long_path": lambda: "x" * 1_000_000,
        "sparse": _sparse,
        "meta": _meta,
        "complex": _complex,
        "closed": _closed,
    }


def _given(make: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda folder: hierax.load().embed(make())


def _called(call: Callable[[], Any]) -> Callable[[Path], Any]:
    return lambda folder: call()


_CALLS: dict[str, Callable[[], Any]] = {
    "load_size": lambda: hierax.load(input_size=10**5000),
    "load_classes": lambda: hierax.load(num_classes=10**5000),
    "load_number": lambda: hierax.load(5),  # type: ignore[arg-type]
    "load_name_number": lambda: hierax.load(name=5),  # type: ignore[arg-type]
    "describe_number": lambda: hierax.describe(0),  # type: ignore[arg-type]
    "create_width": lambda: hierax.create("hiera_tiny_224", embed_dim=10**5000),
    "config_deep": lambda: hierax.ModelConfig.from_dict({"windows": _deep()}),
    "spec_huge": lambda: hierax.PreprocessSpec(size=(10**5000, 3)),
    "stages": lambda: hierax.load().features([noise()], stages=5),  # type: ignore[arg-type]
    "stage_long": lambda: hierax.load().features([noise()], stages=["x" * 1_000_000]),
}


def _bounded_by_what_there_is(folder: Path) -> tuple[int, int]:
    """As many classes and images as there are; the numbers themselves fit in no machine word."""
    predictor = hierax.load()
    found = predictor.classify([noise()], top_k=10**5000)[0]
    return len(found), len(predictor.embed([noise()], batch_size=10**5000))


def _deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


CASES += [Case(f"image_{name}", act=_given(make), raises=HieraxError) for name, make in _arrays().items()]
CASES += [Case(f"call_{name}", act=_called(call), raises=HieraxError) for name, call in _CALLS.items()]
CASES += [Case("call_counts", act=_bounded_by_what_there_is, expect=lambda found: found == (16, 1))]


def _renamed(rename: Callable[[str], str], extra: str = "", factor: float = 1) -> Callable[[Path], None]:
    """A whole folder whose tensors have other names or values, and one tensor more."""

    def make(folder: Path) -> None:
        import torch

        from hierax.weights import files

        path = written(MEMBERS["Hiera"], folder / "model", "hierax") / "model.safetensors"
        raw = files.read(path)
        tensors = {
            rename(name): tensor if factor == 1 else tensor.double() * factor for name, tensor in raw.tensors.items()
        }
        files.write_safetensors(path, tensors | ({extra: torch.zeros(8)} if extra else {}), raw.metadata)

    return make


def _asking(*files: str, side: int = 2048) -> Callable[[Path], None]:
    """A windowed table of 4 x 4 goes with any size; these files say a larger one."""

    def make(folder: Path) -> None:
        path = written(MEMBERS["birder abswin"], folder / "model", "hierax")
        for name in files or ("config.json", "preprocessor_config.json"):
            content = json.loads((path / name).read_text())
            key = "architecture" if name == "config.json" else "hierax"
            content[key]["input_size" if key == "architecture" else "size"] = [side, side]
            (path / name).write_text(json.dumps(content))
        coloured_classes(folder / "data", per_class=2)
        (folder / "processor.json").write_text(json.dumps({"size": side, "crop_size": side}))

    return make


def _refuses(*command: str) -> Callable[[Path], bool]:
    """Whether a command line is refused with the remedy."""

    def act(folder: Path) -> bool:
        ran = hierax_command(*command)
        return refused(ran) and "must be asked for" in ran.err and "input_size=" in ran.err

    return act


def _processor(folder: Path) -> object:
    from hierax.compat.transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder / "processor.json")


def _asked_for(folder: Path) -> list[tuple[int, ...]]:
    """What a caller says goes before what a file says, in the network and in its preparation of images."""
    loaded = hierax.load(folder / "model", input_size=64)
    return [loaded.model.config.input_size, loaded.preprocess.size, hierax.describe(folder / "model").preprocess.size]


_TRAINED = ("finetune", "data", "out", "-m", "model", "--steps", "1", "--device", "cpu", "--set", "workers=0")


def _without_units(folder: Path) -> None:
    """An autoencoder whose mask units are smaller than what is pooled into one token."""
    path = written(MEMBERS["Hiera MAE"], folder / "model", "hierax")
    content = json.loads((path / "config.json").read_text())
    content["architecture"]["mask_unit"] = [1, 1]
    (path / "config.json").write_text(json.dumps(content))


CASES += [
    _refused("mask_unit_of_one_token", _without_units, "mask unit of an autoencoder must be a multiple"),
    # Each wrapper was a pass over names of megabytes, as many as there are.
    _refused("name_of_wrappers", _renamed(lambda name: "module." * 10_000 + name), "none of the known formats"),
    _refused("name_of_digits", _renamed(str, "blocks." + "1" * 5000 + ".norm1.weight"), "1 left over"),
    _refused("name_of_foreign_digits", _renamed(str, "blocks.\u0667.norm1.weight"), "1 left over"),
    _refused("beyond_float32", _renamed(str, factor=1e60), "infinite values in .*, as float32"),
    _refused("asks_for_4_megapixels", _asking(), "must be asked for"),
    _refused("network_asks_for_4_megapixels", _asking("config.json"), "must be asked for"),
    _refused("preprocess_asks_for_16_megapixels", _asking("preprocessor_config.json", side=4096), "must be asked for"),
    Case("embed_4_megapixels", _refuses("embed", "data", "-m", "model", "-o", "v.npz"), _asking(), expect=bool),
    Case("finetune_4_megapixels", _refuses(*_TRAINED), _asking(), expect=bool, seconds=15),
    Case("processor_of_4_megapixels", _processor, _asking(), raises=CheckpointError, match="size= and crop_size="),
    *(
        Case(
            f"asked_for_otherwise_{len(files)}",
            _asked_for,
            _asking(*files),
            expect=lambda sizes: sizes[:2] == [(64, 64)] * 2,
        )
        for files in ((), ("preprocessor_config.json",))
    ),
]
