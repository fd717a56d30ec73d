"""Training: `train` runs a config and leaves a model folder."""

from crispmask.train.configs import RefinerTrainConfig, SegmenterTrainConfig, TrainConfig
from crispmask.train.latent_config import GeneratorConfig, LatentVaeConfig
from crispmask.train.loop_config import LoopConfig
from crispmask.train.masks_config import CodecTrainConfig, PriorTrainConfig
from crispmask.train.run import train
from crispmask.train.text_config import TextTrainConfig

__all__ = [
    "CodecTrainConfig",
    "GeneratorConfig",
    "LatentVaeConfig",
    "LoopConfig",
    "PriorTrainConfig",
    "RefinerTrainConfig",
    "SegmenterTrainConfig",
    "TextTrainConfig",
    "TrainConfig",
    "train",
]
