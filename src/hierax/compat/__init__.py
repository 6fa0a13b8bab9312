"""Stand-ins for code written against birder or transformers: change the import prefix, keep the rest.

`hierax.compat.birder` and `hierax.compat.transformers` need neither package; both run on hierax's own encoder.
"""

from .names import refuse_unknown

__getattr__ = refuse_unknown(
    __name__,
    "another package",
    ["birder", "transformers"],
    {"timm|hiera|sam2|torchvision|open_clip": "hierax.load reads its files; the page Switch says what replaces what."},
)
