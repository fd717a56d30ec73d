"""What a `MaskPrior` is made of."""

from dataclasses import dataclass
from typing import Literal, get_args

from crispmask.diffusion.schedules import SCHEDULES
from crispmask.models.refiner_config import ProcessName, num_states
from crispmask.nn.unet import MaskUNetConfig


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """What a `MaskPrior` is made of.

    Attributes:
        class_names: names in the order of the ids.
        network: size of the network; its condition is one channel of zeros.
        pixels: size at which the network sees a mask, as a number of pixels; masks are resized
            to about so many, in their own proportions.
        process: how labels are corrupted; "absorbing" and "mixed" need one state more than classes.
        schedule: survival of a label over time.
    """

    class_names: tuple[str, ...]
    network: MaskUNetConfig
    pixels: int = 96 * 128
    process: ProcessName = "absorbing"
    schedule: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        for name, known in (("process", get_args(ProcessName)), ("schedule", tuple(SCHEDULES))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}."
                )
        k = self.network.num_classes
        if len(self.class_names) != k:
            raise ValueError(
                f"class_names has {len(self.class_names)} names, the network {k} classes; "
                "give one name for each class."
            )
        states = num_states(k, self.process)
        if self.network.num_states != states or self.network.cond_channels != 1:
            raise ValueError(
                f"the network needs num_states={states} for the {self.process} process over {k} "
                f"classes and cond_channels=1, got {self.network.num_states} and "
                f"{self.network.cond_channels}."
            )
        if self.pixels < 1:
            raise ValueError(f"pixels must be at least 1, got {self.pixels}.")
