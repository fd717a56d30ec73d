"""Training: `train` runs a config and leaves a model folder."""

from crispmask.train.configs import (
    LoopConfig,
    PriorTrainConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    TrainConfig,
)
from crispmask.train.run import train

__all__ = [
    "LoopConfig",
    "PriorTrainConfig",
    "RefinerTrainConfig",
    "SegmenterTrainConfig",
    "TrainConfig",
    "train",
]
