"""Class probabilities and embeddings of one image, of a batch, and of a data loader."""

from ....names import refuse_unknown
from ...reasons import REASONS
from .dataloader import evaluate, infer_dataloader, infer_dataloader_iter
from .infer import infer_batch, infer_image

__all__ = ["evaluate", "infer_batch", "infer_dataloader", "infer_dataloader_iter", "infer_image"]
__getattr__ = refuse_unknown(__name__, "birder", __all__, REASONS)
