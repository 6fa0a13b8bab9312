"""Stand-ins for code written against birder or transformers: change the import prefix, keep the rest.

`hierax.compat.birder` and `hierax.compat.transformers` need neither package; both run on hierax's own encoder.
"""
