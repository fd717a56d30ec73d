"""How long and how fast any run trains."""

from dataclasses import dataclass

LARGEST_SEED = 10**8
"""Of which every step and process makes a seed of its own that fits 64 bits."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        batch_size: crops per step and process.
        learning_rate: peak of a linear warm-up and a cosine decay to zero.
        halvings: the rate is halved so often, evenly, down to 1e-6, instead of the cosine; 0 keeps
            the cosine.
        restart: share of the steps after which warm-up and decay start again; 0 is once.
        betas: of AdamW.
        weight_decay: of AdamW, on matrices and filters only.
        decay_all: weight decay on gains and biases, too.
        warmup_steps: steps of linear warm-up.
        ema_decay: of the exponential average of the weights that is evaluated and saved.
        ema_every: steps between two updates of that average.
        clip_norm: largest norm of the gradient; 0 leaves it as it is.
        seed: of weights, crops and noise.
        eval_every: steps between evaluations on the validation split.
        eval_images: about how many images of the validation split, evenly spread, are used for
            these evaluations and for the scores of the card; 0 takes all.
        save_every: steps between checkpoints.
        workers: threads that draw batches ahead; 0 draws each when it is needed.
        track: write TensorBoard events (needs extra "tensorboard").
    """

    steps: int
    batch_size: int = 8
    learning_rate: float = 1e-3
    halvings: int = 0
    restart: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.02
    decay_all: bool = False
    warmup_steps: int = 50
    ema_decay: float = 0.995
    ema_every: int = 1
    clip_norm: float = 1.0
    seed: int = 0
    eval_every: int = 250
    eval_images: int = 40
    save_every: int = 250
    workers: int = 0
    track: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "ema_every", "eval_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("halvings", "workers", "clip_norm", "weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:  # nor NaN
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}.")
        for name in ("ema_decay", "restart"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}.")
        if abs(self.seed) > LARGEST_SEED:
            raise ValueError(f"seed must be at most {LARGEST_SEED}, got {self.seed}.")
