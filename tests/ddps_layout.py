"""Checkpoints in the official layout of DDPS, random weights, made without the converter."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Official:
    """Sizes of an official model."""

    classes: int = 7
    steps: int = 20
    width: int = 16
    multipliers: tuple[int, ...] = (1, 1, 1)
    mit_widths: tuple[int, ...] = (8, 16, 40, 64)
    depths: tuple[int, ...] = (1, 1, 1, 1)
    neck: int = 16
    embed: int = 16

    def state(self) -> dict[str, Tensor]:
        """Names and tensors as mmsegmentation saves them."""
        rng = torch.Generator().manual_seed(0)
        state = {
            name: 0.1 * torch.randn(shape, generator=rng) for name, shape in self.shapes().items()
        }
        for name in state:
            if name.endswith("running_var"):
                state[name] = 1 + state[name].abs()
            if name.endswith("num_batches_tracked"):
                state[name] = torch.tensor(1000)
        n = torch.arange(self.steps, dtype=torch.float64)
        kept = 0.99999 + (9e-6 - 0.99999) * n / (self.steps - 1)
        state["decode_head.log_cumprod_at"] = torch.cat([kept.log(), torch.zeros(1)]).float()
        return state

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes."""
        backbone: dict[str, tuple[int, ...]] = {}
        before = 3
        for i, (width, depth) in enumerate(zip(self.mit_widths, self.depths, strict=True)):
            backbone |= stage(f"backbone.layers.{i}", i, before, width, depth)
            before = width
        head: dict[str, tuple[int, ...]] = {
            "log_cumprod_at": (self.steps + 1,),
            "log_cumprod_bt": (self.steps + 1,),
            "log_at": (self.steps,),
            "log_bt": (self.steps,),
        }
        for i, width in enumerate(self.mit_widths):
            head |= conv_module(f"convs.{i}", width, self.neck)
        head |= conv_module("fusion_conv", 4 * self.neck, self.neck)
        head |= {f"unet.{k}": v for k, v in self.unet().items()}
        head |= affine("conv_seg_new", self.classes, self.neck, 1, 1)
        head["embed.weight"] = (self.classes, self.embed)
        return backbone | {f"decode_head.{k}": v for k, v in head.items()}

    def unet(self) -> dict[str, tuple[int, ...]]:
        d = self.width
        sizes = [d, *(m * d for m in self.multipliers)]
        pairs = list(pairwise(sizes))
        last = len(pairs) - 1
        out = affine("init_conv", d, self.neck + self.embed, 7, 7)
        out |= affine("time_mlp.1", 4 * d, d) | affine("time_mlp.3", 4 * d, 4 * d)
        for i, (a, b) in enumerate(pairs):
            out |= residual(f"downs.{i}.0", a, a, d) | residual(f"downs.{i}.1", a, a, d)
            out |= linear_attention(f"downs.{i}.2", a)
            side = 3 if i == last else 4
            out |= affine(f"downs.{i}.3", b, a, side, side)
        for i, (a, b) in enumerate(reversed(pairs)):
            out |= residual(f"ups.{i}.0", a + b, b, d) | residual(f"ups.{i}.1", a + b, b, d)
            out |= linear_attention(f"ups.{i}.2", b)
            out |= affine(f"ups.{i}.3" if i == last else f"ups.{i}.3.1", a, b, 3, 3)
        middle = sizes[-1]
        out |= residual("mid_block1", middle, middle, d) | residual("mid_block2", middle, middle, d)
        out |= {"mid_attn.fn.fn.to_qkv.weight": (384, middle, 1, 1)}
        out |= affine("mid_attn.fn.fn.to_out", middle, 128, 1, 1)
        out |= {"mid_attn.fn.norm.g": (1, middle, 1, 1)}
        out |= residual("final_res_block", 2 * d, d, d)
        return out | affine("final_conv", self.neck, d, 1, 1)


Shapes = dict[str, tuple[int, ...]]


def affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def conv_module(name: str, c_in: int, c_out: int) -> Shapes:
    norm: Shapes = {
        f"{name}.bn.{part}": (c_out,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    norm[f"{name}.bn.num_batches_tracked"] = ()
    return {f"{name}.conv.weight": (c_out, c_in, 1, 1)} | norm


def stage(name: str, i: int, before: int, width: int, depth: int) -> Shapes:
    side, reduction = (7, 3, 3, 3)[i], (8, 4, 2, 1)[i]
    out = affine(f"{name}.0.projection", width, before, side, side)
    out |= affine(f"{name}.0.norm", width)
    for j in range(depth):
        block = f"{name}.1.{j}"
        out |= affine(f"{block}.norm1", width)
        out[f"{block}.attn.attn.in_proj_weight"] = (3 * width, width)
        out[f"{block}.attn.attn.in_proj_bias"] = (3 * width,)
        out |= affine(f"{block}.attn.attn.out_proj", width, width)
        if reduction > 1:
            out |= affine(f"{block}.attn.sr", width, width, reduction, reduction)
            out |= affine(f"{block}.attn.norm", width)
        out |= affine(f"{block}.norm2", width)
        out |= affine(f"{block}.ffn.layers.0", 4 * width, width, 1, 1)
        out |= affine(f"{block}.ffn.layers.1", 4 * width, 1, 3, 3)
        out |= affine(f"{block}.ffn.layers.4", width, 4 * width, 1, 1)
    return out | affine(f"{name}.2", width)


def residual(name: str, c_in: int, c_out: int, width: int) -> Shapes:
    out = affine(f"{name}.mlp.1", 2 * c_out, 4 * width)
    out |= affine(f"{name}.block1.proj", c_out, c_in, 3, 3) | affine(f"{name}.block1.norm", c_out)
    out |= affine(f"{name}.block2.proj", c_out, c_out, 3, 3) | affine(f"{name}.block2.norm", c_out)
    return out | (affine(f"{name}.res_conv", c_out, c_in, 1, 1) if c_in != c_out else {})


def linear_attention(name: str, width: int) -> Shapes:
    out: Shapes = {f"{name}.fn.fn.to_qkv.weight": (384, width, 1, 1)}
    out |= affine(f"{name}.fn.fn.to_out.0", width, 128, 1, 1)
    out[f"{name}.fn.fn.to_out.1.g"] = (1, width, 1, 1)
    return out | {f"{name}.fn.norm.g": (1, width, 1, 1)}


def with_copies(state: dict[str, Tensor], *, skip: Sequence[str] = ()) -> dict[str, Tensor]:
    """With a copy of each tensor as the training hook adds them, weights twice as large."""
    copies = {
        f"ema_{k.replace('.', '_')}": v if ".log_" in k else 2 * v
        for k, v in state.items()
        if not k.endswith(tuple(skip))
    }
    return state | copies
