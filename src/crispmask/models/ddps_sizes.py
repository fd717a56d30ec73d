"""What the shapes in an official DDPS checkpoint say of the models that they belong to."""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from crispmask.diffusion.schedules import linear
from crispmask.errors import InputError
from crispmask.models.ddps_file import State
from crispmask.models.refiner_config import RefinerConfig
from crispmask.models.segformer import SIZES, SegformerBaseConfig
from crispmask.nn.unet import paper

VOID = 0
"""Class of unknown pixels in the official models."""

HEAD = "decode_head"
UNET = "decode_head.unet"


class Sizes:
    """The configurations of base and refiner, read off the shapes of the official tensors.

    Strides and the time embedding leave no trace in the shapes; all official models have the same.
    Nor do heads, but mmsegmentation makes a stage as wide as its heads times a number, and the
    first stage of every Mix Transformer has one head.

    Raises:
        InputError: if a tensor that says a size is missing or has a wrong number of axes, there
            are fewer than two time steps, or the noise schedule is not the linear one.
    """

    def __init__(self, state: State, source: str) -> None:
        self.state, self.source = state, source
        if "backbone.layers.0.0.projection.weight" not in state:
            raise InputError(
                f"{source} is not a SegFormer variant of DDPS: it has no "
                "backbone.layers.0.0.projection.weight; other bases (DeepLab) are not read."
            )
        self.num_classes = self._shape(f"{HEAD}.conv_seg_new.weight", 4)[0]
        self.num_steps = self._shape(f"{HEAD}.log_at", 1)[0]
        self.feature_channels = self._shape(f"{HEAD}.fusion_conv.conv.weight", 4)[0]
        levels = self._count(rf"{re.escape(UNET)}\.downs\.(\d+)\.")
        first = "0.block1.proj.weight"
        down = [self._shape(f"{UNET}.downs.{i}.{first}", 4)[0] for i in range(levels)]
        up = [self._shape(f"{UNET}.ups.{i}.{first}", 4)[0] for i in reversed(range(levels))]
        self.widths = (tuple(down), tuple(up))
        self._check_schedule()

    @property
    def backbone(self) -> str:
        """ "mit-b0" to "mit-b5", or widths and depths of another one."""
        sizes = (self._widths(), self._depths())
        for name, known in SIZES.items():
            if known == sizes:
                return f"mit-{name}"
        return f"widths {sizes[0]}, depths {sizes[1]}"

    def base(self, class_names: Sequence[str]) -> SegformerBaseConfig:
        """The base without a classifier: backbone and neck."""
        reductions, ratios = [], []
        for i, width in enumerate(self._widths()):
            block = f"backbone.layers.{i}.1.0"
            reduces = f"{block}.attn.sr.weight" in self.state
            reductions.append(self._shape(f"{block}.attn.sr.weight", 4)[-1] if reduces else 1)
            ratios.append(self._shape(f"{block}.ffn.layers.0.weight", 4)[0] // width)
        return SegformerBaseConfig(
            class_names=tuple(class_names),
            widths=self._widths(),
            depths=self._depths(),
            heads=tuple(max(1, width // self._widths()[0]) for width in self._widths()),
            reductions=tuple(reductions),
            mlp_ratios=tuple(ratios),
            neck_channels=self.feature_channels,
            classifier=False,
        )

    def refiner(self, class_names: Sequence[str]) -> RefinerConfig:
        """The denoiser and its process."""
        down, up = self.widths
        network = replace(
            paper(self.num_classes, cond_channels=self.feature_channels),
            widths=down,
            up_widths=() if up == down else up,
            embed_dim=self._shape(f"{HEAD}.embed.weight", 2)[1],
            stem_kernel=self._shape(f"{UNET}.init_conv.weight", 4)[-1],
            head_channels=self._shape(f"{UNET}.final_conv.weight", 4)[0],
            time_scale=float(self.num_steps - 1),
        )
        return RefinerConfig(
            class_names=tuple(class_names),
            network=network,
            conditioning="features",
            stride=4,
            residual=False,
            feature_channels=self.feature_channels,
            void_class=VOID,
        )

    def _widths(self) -> tuple[int, ...]:
        stages = range(self._count(r"backbone\.layers\.(\d+)\."))
        return tuple(self._shape(f"backbone.layers.{i}.0.projection.weight", 4)[0] for i in stages)

    def _depths(self) -> tuple[int, ...]:
        stages = range(self._count(r"backbone\.layers\.(\d+)\."))
        return tuple(self._count(rf"backbone\.layers\.{i}\.1\.(\d+)\.") for i in stages)

    def _count(self, pattern: str) -> int:
        """One more than the largest number that the names have in this place."""
        found = (re.match(pattern, key) for key in self.state)
        return max((int(match[1]) + 1 for match in found if match), default=0)

    def _shape(self, key: str, ndim: int) -> tuple[int, ...]:
        if key not in self.state:
            raise InputError(
                f"{self.source} lacks {key}, without which the model's size is unknown; "
                "convert an official checkpoint as it was saved."
            )
        shape = tuple(self.state[key].shape)
        if len(shape) != ndim or 0 in shape:
            raise InputError(
                f"{self.source} needs {key} to have {ndim} axes and values, got shape {shape}."
            )
        return shape

    def _check_schedule(self) -> None:
        steps = self.num_steps
        if steps < 2:
            raise InputError(
                f"{self.source} has {steps} time step; a diffusion model has at least 2, and a "
                "single-step model of the first stage cannot be refined with."
            )
        name = f"{HEAD}.log_cumprod_at"
        if self._shape(name, 1)[0] != steps + 1:
            raise InputError(
                f"{self.source} needs {name} to have {steps + 1} values for {steps} time steps, "
                f"got {self._shape(name, 1)[0]}."
            )
        table = self.state[name]
        tolerance = max(1e-4, torch.finfo(table.dtype).eps if table.is_floating_point() else 0.0)
        survival = table[:steps].double().exp()
        error = (survival - linear(torch.linspace(0, 1, steps, dtype=torch.float64))).abs().max()
        if not error < tolerance:
            raise InputError(
                f"{self.source} was trained with another noise schedule than the linear one of "
                f"DDPS (survival differs by {error.item():.2g}); such models are not read."
            )
