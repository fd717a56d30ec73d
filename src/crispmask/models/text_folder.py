"""A text segmenter as a folder: its networks as diffusers saves them, and its heads."""

import copy
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crispmask.atomic import beside
from crispmask.errors import InputError
from crispmask.models.checkpoint import WEIGHTS, from_dict, no_model
from crispmask.models.diffusers_parts import diffusers_class, load_diffusers, read_json
from crispmask.models.latent_unet import load_unet
from crispmask.models.text_config import TextSegmenterConfig
from crispmask.models.text_parts import TextParts
from crispmask.models.text_states import QueryEncoder

MODEL = "TextSegmenter"
CONFIG = "config.json"
HEADS = "heads.safetensors"

_VAES = ("AutoencoderKL", "AutoencoderTiny")


def find_segmenter(name: str | Path) -> Path:
    """The folder of a bundled name or a path; nothing is downloaded.

    Raises:
        InputError: if there is none.
    """
    bundled, folder = _bundled(), _place(name)
    if not folder.is_dir():
        raise InputError(no_model(name, bundled))
    return folder


def is_segmenter(name: str | Path) -> bool:
    """Whether a bundled name or a folder is of a trained model, not of a backbone."""
    return (_place(name) / CONFIG).is_file()


def is_backbone(folder: Path) -> bool:
    """Whether a folder holds a latent diffusion model as diffusers saves it, and no segmenter."""
    return (folder / "model_index.json").is_file() and not (folder / CONFIG).is_file()


def write_segmenter(
    folder: Path,
    config: TextSegmenterConfig,
    parts: TextParts,
    heads: Mapping[str, Tensor],
    *,
    half: bool,
) -> None:
    """Write all of a segmenter's files; a new folder appears whole or not at all.

    In a folder that is there, only the segmenter's own files are replaced, ``config.json`` last:
    without it the folder is no model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as temporary:
        temporary.mkdir()
        _write(temporary, config, parts, heads, half=half)
        if not folder.exists():
            temporary.rename(folder)
            return
        (folder / CONFIG).unlink(missing_ok=True)
        written = sorted(temporary.iterdir(), key=lambda path: path.name == CONFIG)
        for path in written:
            old = folder / path.name
            if old.is_dir():
                shutil.rmtree(old)
            path.replace(old)


def read_segmenter(folder: Path) -> tuple[TextSegmenterConfig, TextParts]:
    """Config and networks of a folder that `write_segmenter` wrote; `read_heads` has the rest.

    Raises:
        InputError: if a part is missing or damaged.
    """
    config = _read_config(folder)
    missing = [part for part in ("unet", "vae", "scheduler") if not (folder / part).is_dir()]
    if config.words == "folder":
        missing += [p for p in ("text_encoder", "tokenizer") if not (folder / p).is_dir()]
    if missing:
        raise InputError(f"{folder} has no {', '.join(missing)}; copy the whole model again.")
    kind = read_json(folder / "vae" / CONFIG).get("_class_name")
    if kind not in _VAES:
        raise InputError(f"the VAE in {folder} must be one of {', '.join(_VAES)}, got {kind}.")
    schedule = read_json(folder / "scheduler" / "scheduler_config.json")
    parts = TextParts(
        unet=load_unet(folder / "unet"),
        vae=load_diffusers(diffusers_class(str(kind)), folder / "vae"),
        words=(
            QueryEncoder.minilm() if config.words == "minilm" else QueryEncoder.from_folder(folder)
        ),
        scheduler=diffusers_class("DDIMScheduler").from_config(schedule),
    )
    return config, parts


def read_heads(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the heads, in float32.

    Args:
        folder: of the model.
        like: the tensors that are needed, by name.

    Raises:
        InputError: if the file is missing or damaged, or does not hold exactly these tensors.
    """
    return read_tensors(folder / HEADS, like)


def read_tensors(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32.

    Args:
        path: of the file.
        like: those that are needed, by name; their values do not matter.

    Raises:
        InputError: if the file is missing or damaged, or does not hold exactly these tensors.
    """
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); it is missing or damaged, copy it again."
        ) from error
    wrong = [k for k in like if k not in state or state[k].shape != like[k].shape]
    wrong += [k for k in state if k not in like]
    if wrong:
        raise InputError(
            f"{path} does not fit its config.json: {len(wrong)} tensors are missing, extra or of "
            f"another shape (first: {wrong[:3]}); copy both files of one model again."
        )
    return {name: value.float() for name, value in state.items()}


def _bundled() -> list[str]:
    return sorted(path.parent.name for path in WEIGHTS.glob("*/unet"))


def _place(name: str | Path) -> Path:
    return WEIGHTS / name if str(name) in _bundled() else Path(name)


def _write(
    folder: Path,
    config: TextSegmenterConfig,
    parts: TextParts,
    heads: Mapping[str, Tensor],
    *,
    half: bool,
) -> None:
    for name, network in (("unet", parts.unet), ("vae", parts.vae)):
        saved: Any = copy.deepcopy(network).half() if half else network
        saved.save_pretrained(folder / name)
    parts.scheduler.save_pretrained(folder / "scheduler")
    if config.words == "folder":
        parts.words.save(folder, half=half)
    state = {k: v.detach().cpu().contiguous() for k, v in heads.items()}
    state = {k: v.half() for k, v in state.items()} if half else state
    save_file(state, folder / HEADS, metadata={"format": "pt"})
    record = {"model": MODEL, **dataclasses.asdict(config)}
    (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _read_config(folder: Path) -> TextSegmenterConfig:
    source = folder / CONFIG
    data = read_json(source)
    kind = data.pop("model", None)
    if kind != MODEL:
        raise InputError(
            f"{folder} holds a {kind or 'model of unknown kind'}, needed is a {MODEL}; give the "
            "folder of such a model."
        )
    config: TextSegmenterConfig = from_dict(TextSegmenterConfig, data, source=str(source))
    return config
