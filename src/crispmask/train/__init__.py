"""Training: `train` runs a config and leaves a model folder."""

from crispmask.train.configs import (
    CodecTrainConfig,
    LoopConfig,
    PriorTrainConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    TrainConfig,
)
from crispmask.train.run import train

__all__ = [
    "CodecTrainConfig",
    "LoopConfig",
    "PriorTrainConfig",
    "RefinerTrainConfig",
    "SegmenterTrainConfig",
    "TrainConfig",
    "train",
]
