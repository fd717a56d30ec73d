"""Adapters of a text segmenter: what a training by low rank has changed, as a folder of its own."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from crispmask.atomic import write_atomic
from crispmask.errors import InputError
from crispmask.models.checkpoint import from_dict
from crispmask.models.diffusers_parts import read_json
from crispmask.models.text_config import TextSegmenterConfig
from crispmask.models.text_folder import CONFIG, HEADS, find_segmenter, read_tensors

MODEL = "TextAdapter"
FACTORS = "adapter.safetensors"

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of diffusers' attention layers that low-rank updates change."""


@dataclass(frozen=True, kw_only=True)
class TextAdapterConfig:
    """What an adapter belongs to, and what the two are together.

    Attributes:
        base: the segmenter that it was trained on, a bundled name or a folder, as it was given.
        base_sha256: `fingerprint` of that segmenter.
        rank: of the updates.
        segmenter: the base with the adapter.
    """

    base: str
    base_sha256: str
    rank: int
    segmenter: TextSegmenterConfig

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}.")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter.

    Raises:
        InputError: if its ``config.json`` is damaged.
    """
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("model") == MODEL


def fingerprint(folder: Path) -> str:
    """sha256, in hex, of the file with the heads, which no two trainings have in common.

    Raises:
        InputError: if there is none.
    """
    path = folder / (FACTORS if is_adapter(folder) else HEADS)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); copy the whole model again.") from error


def write_adapter(
    folder: Path,
    config: TextAdapterConfig,
    factors: Mapping[str, Tensor],
    heads: Mapping[str, Tensor],
) -> None:
    """Write an adapter, ``config.json`` last: without it the folder is no model.

    Args:
        folder: may be there and hold other files.
        config: says what it belongs to.
        factors: of each layer, as `like_factors` names them.
        heads: of the segmenter, all their weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    named = {f"unet.{k}": v for k, v in factors.items()}
    named |= {f"heads.{k}": v for k, v in heads.items()}
    state = {k: v.detach().cpu().contiguous() for k, v in named.items()}
    write_atomic(folder / FACTORS, save(state, metadata={"format": "pt"}))
    record = {"model": MODEL, **dataclasses.asdict(config)}
    write_atomic(folder / CONFIG, json.dumps(record, indent=2) + "\n")


def read_adapter_config(folder: Path) -> TextAdapterConfig:
    """The config of an adapter whose base is there.

    Raises:
        InputError: if it is damaged, or its base is gone or another model.
    """
    source = folder / CONFIG
    data = read_json(source)
    data.pop("model", None)
    config: TextAdapterConfig = from_dict(TextAdapterConfig, data, source=str(source))
    try:
        base = find_segmenter(config.base)
    except InputError as error:
        raise InputError(
            f"{folder} is an adapter and needs its base {config.base}, which is not there (a "
            "relative path counts from the current folder); bring it back, or write where it is "
            f'as "base" into {source}.'
        ) from error
    found = fingerprint(base)
    if found != config.base_sha256:
        raise InputError(
            f"{folder} is an adapter of another model than the one in {config.base}: the sha256 of "
            f"the heads must begin with {config.base_sha256[:12]}, got {found[:12]}; bring back "
            f'the base that it was trained on, or write where that is as "base" into {source}.'
        )
    return config


@torch.no_grad()
def adapt(
    folder: Path, config: TextAdapterConfig, unet: nn.Module, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Add the updates of an adapter to the weights of a U-Net, in place; returns its heads.

    Args:
        folder: of the adapter.
        config: its own.
        unet: the base's.
        like: the tensors of the heads that are needed, by name.

    Raises:
        InputError: if the file is missing or damaged, or does not hold exactly what is needed.
    """
    factors = like_factors(unet, config.rank)
    wanted = {f"unet.{k}": v for k, v in factors.items()}
    wanted |= {f"heads.{k}": v for k, v in like.items()}
    state = read_tensors(folder / FACTORS, wanted)
    for name in low_rank_layers(unet):
        down, up = (state[f"unet.{name}.lora_{i}.weight"] for i in "AB")
        layer: Any = unet.get_submodule(name)
        layer.weight += up @ down
    return {name: state[f"heads.{name}"] for name in like}


def like_factors(unet: nn.Module, rank: int) -> dict[str, Tensor]:
    """Names and shapes of the factors A (rank in) and B (out rank) of all layers, no values."""
    found = {}
    for name in low_rank_layers(unet):
        layer: Any = unet.get_submodule(name)
        found[f"{name}.lora_A.weight"] = torch.empty(rank, layer.in_features, device="meta")
        found[f"{name}.lora_B.weight"] = torch.empty(layer.out_features, rank, device="meta")
    return found


def low_rank_layers(unet: nn.Module) -> list[str]:
    """Names of the linear layers that low-rank updates change."""
    ends = tuple(f".{target}" for target in TARGETS)
    return [name for name, _ in unet.named_modules() if name.endswith(ends)]
