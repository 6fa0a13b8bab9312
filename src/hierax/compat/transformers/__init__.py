"""transformers' API of Hiera and of SAM 2's image encoder on hierax.

    from hierax.compat.transformers import AutoImageProcessor, AutoModel

Results equal transformers' to 1e-5, with one deliberate difference that `HieraBackbone` explains.
"""

from ..names import refuse_unknown
from .auto import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
)
from .autobackbone import register
from .configuration import HieraConfig
from .configuration_base import PreTrainedConfig
from .configuration_sam2 import Sam2HieraDetConfig, Sam2VisionConfig
from .detectors import backbone_config, use_in
from .hiera_base import HieraPreTrainedModel
from .hiera_models import HieraBackbone, HieraForImageClassification, HieraForPreTraining, HieraModel
from .image_processing import BatchFeature, BitImageProcessor, Sam2ImageProcessor
from .outputs import (
    BackboneOutput,
    HieraForImageClassificationOutput,
    HieraForPreTrainingOutput,
    HieraModelOutput,
    ModelOutput,
    Sam2HieraDetModelOutput,
    Sam2VisionEncoderOutput,
)
from .sam2_models import Sam2HieraDetModel, Sam2VisionModel

__all__ = [
    "AutoBackbone",
    "AutoConfig",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForImageClassification",
    "AutoModelForPreTraining",
    "BackboneOutput",
    "BatchFeature",
    "BitImageProcessor",
    "HieraBackbone",
    "HieraConfig",
    "HieraForImageClassification",
    "HieraForImageClassificationOutput",
    "HieraForPreTraining",
    "HieraForPreTrainingOutput",
    "HieraModel",
    "HieraModelOutput",
    "HieraPreTrainedModel",
    "ModelOutput",
    "PreTrainedConfig",
    "Sam2HieraDetConfig",
    "Sam2HieraDetModel",
    "Sam2HieraDetModelOutput",
    "Sam2ImageProcessor",
    "Sam2VisionConfig",
    "Sam2VisionEncoderOutput",
    "Sam2VisionModel",
    "backbone_config",
    "register",
    "use_in",
]
__getattr__ = refuse_unknown(
    __name__,
    "transformers",
    __all__,
    {
        "pipeline|.*Pipeline": "A pipeline picks among many kinds of model; hierax.load(source) is one of this family: "
        "its classify, embed and features take paths and PIL images.",
        "Trainer|TrainingArguments|TrainerCallback|.*Trainer": "hierax.finetune trains; a model of this module is a "
        "torch Module that any loop trains.",
        "Sam2(Video)?(Model|Processor|Config).*|Sam2(Mask|Prompt|Video|Image|Two).*": "Prompts, masks and memory stay "
        "with transformers; the image encoder is Sam2VisionModel.",
        "Auto(FeatureExtractor|Processor)|HieraImageProcessor.*|HieraFeatureExtractor|BitImageProcessorFast": "Images "
        "are prepared by AutoImageProcessor.",
        ".*Tokenizer(Fast)?|.*LM|Llama.*|Bert.*|CLIP.*": "It reads text, and hierax sees images.",
        "Auto.*": "hierax has the Auto classes of the tasks of this family.",
        "BitsAndBytesConfig|.*QuantConfig|QuantoConfig": "hierax.optimize(model, dtype='int8') quantises.",
        "(ViT|Dinov?2?|Swin|ConvNext|ResNet|MAE).*": "It is another architecture; hierax has the Hiera family only.",
        "models|image_utils|utils|modeling_outputs|configuration_utils|modeling_utils": "What is here is imported from "
        "hierax.compat.transformers itself.",
    },
)
