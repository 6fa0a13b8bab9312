"""Writing torch.export archives, .pt2, for the torch that writes them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch

from ..weights.programs import TORCH_ENTRY, ProgramFacts


def check_installed(dtype: str) -> None:
    """Nothing more is needed."""


def write(program: torch.export.ExportedProgram, path: Path, facts: ProgramFacts) -> None:
    """Write a traced program without what needs trust to be read: pickled examples, conditions, places in code."""
    for node in program.graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
    program._example_inputs = None
    program._guards_code = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path, extra_files={TORCH_ENTRY: json.dumps(facts.to_texts())})
