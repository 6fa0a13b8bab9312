"""Why a name of birder is not here, and what to do instead; for every module that stands in for one of birder's."""

REASONS = {
    "detection_transform|.*[Dd]etection.*|wbf|sliding_window|coco": "Object detectors stay with birder; "
    "detector_backbone(source) gives them an encoder.",
    "naflex.*|.*[Nn]a[Ff]lex.*": "The Hiera family takes images on a fixed grid; only birder has NaFlex networks.",
    "model_registry|registry": "list_pretrained_models names what there is; hierax.create builds a network.",
    "read_.*|write_.*|checkpoint.*|.*_checkpoint|training_utils|scheduler|optim|save_.*": "Training and its files are "
    "hierax's own: hierax.finetune, hierax.pretrain, hierax.save.",
    "tools|scripts|adversarial|introspection|kernels|layers|ops|datahub|eval|conf|settings|version|.*__version__": "It "
    "belongs to birder's own tools.",
    "infer_dataloader_features_iter|feature_extraction": "net.forward_features and net.detection_features give "
    "features.",
    "data_parallel|InferenceDataParallel|wds.*|make_wds.*|webdataset": "hierax embed and hierax eval take folders and "
    "shards of any size.",
}
