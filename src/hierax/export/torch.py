"""Writing torch.export archives, .pt2, for the torch that writes them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch

from ..weights.programs import TORCH_ENTRY, ProgramFacts

FEWEST_HALVED = 1024  # elements of a tensor: norms and biases stay as they are


def check_installed(dtype: str) -> None:
    """Nothing more is needed."""


def write(program: torch.export.ExportedProgram, path: Path, facts: ProgramFacts, _: Any = None) -> None:
    """Write a traced program without what needs trust to be read: pickled examples, conditions, places in code."""
    if facts.dtype == "float16":
        halve(program)
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    program._example_inputs = None
    program._guards_code = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={TORCH_ENTRY: json.dumps(facts.to_texts())})


def halve(program: torch.export.ExportedProgram) -> None:
    """Keep weights in float16, which the program turns back into float32 in every call."""
    graph = program.graph
    sources = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node.name in sources]
    for node in inputs:
        held: Any = program.state_dict if sources[node.name] in program.state_dict else program.constants
        weight = held[sources[node.name]]
        if weight.dtype != torch.float32 or weight.numel() < FEWEST_HALVED:
            continue
        half = weight.detach().half()
        is_parameter = isinstance(weight, torch.nn.Parameter)
        held[sources[node.name]] = torch.nn.Parameter(half, requires_grad=False) if is_parameter else half
        whole = node.meta["val"]
        with graph.inserting_before(next(each for each in graph.nodes if each.op != "placeholder")):
            back = graph.call_function(torch.ops.aten.to.dtype, (node, torch.float32))
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
        back.meta["val"], node.meta["val"] = whole, whole.half()
    program.graph_module.recompile()
