"""Other libraries' ways to name and build things, on hierax's own encoder.

`birder` and `transformers` stand in for those packages and need neither: change the import prefix, keep the rest of
your code. `smp`, `timm`, `torchvision` and `detectron2` hand an encoder to the library of that name, whose own code
takes it.
"""

from .names import refuse_unknown

__getattr__ = refuse_unknown(
    __name__,
    "another package",
    ["birder", "detectron2", "smp", "timm", "torchvision", "transformers"],
    {"hiera|sam2|open_clip": "hierax.load reads its files; the page Switch says what replaces what."},
)
