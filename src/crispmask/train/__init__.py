"""Training: `train` runs a config and leaves a model folder."""

from crispmask.train.configs import (
    LoopConfig,
    RefinerTrainConfig,
    SegmenterTrainConfig,
    TrainConfig,
)
from crispmask.train.run import train

__all__ = ["LoopConfig", "RefinerTrainConfig", "SegmenterTrainConfig", "TrainConfig", "train"]
