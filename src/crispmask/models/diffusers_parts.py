"""Parts of a diffusers folder, loaded offline, strictly and from safetensors only."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from crispmask.errors import InputError

NO_PARAMETER = "position_ids"
"""Buffer that old CLIP checkpoints store and new versions of transformers do not."""


def diffusers_class(name: str) -> Any:
    """A class of diffusers.

    Raises:
        InputError: if diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            "latent diffusion needs diffusers; install it: pip install 'crispmask[text]'."
        ) from error
    return getattr(diffusers, name)


def transformers_class(name: str) -> Any:
    """A class of transformers.

    Raises:
        InputError: if transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "text encoders need transformers; install it: pip install 'crispmask[text]'."
        ) from error
    return getattr(transformers, name)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file.

    Raises:
        InputError: if it cannot be read or is no object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); it is missing or damaged, copy it again."
        ) from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a JSON object, got a {type(data).__name__}.")
    return data


def load_diffusers(cls: Any, folder: Path, *, weights: bool = True) -> nn.Module:
    """A model of diffusers from its folder, in float32 and evaluation mode.

    Args:
        cls: class of diffusers.
        folder: holds config.json and diffusion_pytorch_model.safetensors (or .fp16.safetensors).
        weights: without them the model has its shape only, on the ``meta`` device.

    Raises:
        InputError: if a file is missing or damaged, or a tensor is missing, extra or of another
            shape.
    """
    config = read_json(folder / "config.json")
    with _reading(folder):
        if not weights:
            with torch.device("meta"):
                model: nn.Module = cls.from_config(config)
            return model.eval()
        return _load(cls, folder, stem="diffusion_pytorch_model")


def load_text_encoder(folder: Path, *, weights: bool = True) -> nn.Module:
    """transformers' `CLIPTextModel` from its folder, in float32 and evaluation mode.

    Args:
        folder: holds config.json and model.safetensors (or model.fp16.safetensors).
        weights: without them the model has its shape only, on the ``meta`` device.

    Raises:
        InputError: as `load_diffusers`.
    """
    cls = transformers_class("CLIPTextModel")
    with _reading(folder):
        if not weights:
            config = transformers_class("CLIPTextConfig").from_pretrained(folder)
            with torch.device("meta"):
                model: nn.Module = cls(config)
            return model.eval()
        return _load(cls, folder, stem="model")


def load_tokenizer(folder: Path) -> Any:
    """transformers' `CLIPTokenizer` from its folder.

    Raises:
        InputError: if its files are missing or damaged.
    """
    with _reading(folder):
        return transformers_class("CLIPTokenizer").from_pretrained(folder, local_files_only=True)


def _load(cls: Any, folder: Path, *, stem: str) -> nn.Module:
    """A model of diffusers or transformers with all of its weights, in evaluation mode."""
    model, info = cls.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        variant=_variant(folder, stem),
    )
    _check_complete(model, info, folder)
    loaded: nn.Module = model.float().eval()
    return loaded


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """What the libraries raise for files that do not fit, as one sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        first = first.partition(". If you want")[0]  # advice for those who call diffusers
        raise InputError(
            f"{folder} cannot be loaded ({first}); a file is damaged or of another model, "
            "copy the folder again."
        ) from error


def _variant(folder: Path, stem: str) -> str | None:
    """None for plain weights, "fp16" where only these are stored."""
    plain = folder / f"{stem}.safetensors"
    if plain.is_file() or plain.with_name(f"{plain.name}.index.json").is_file():
        return None
    if (folder / f"{stem}.fp16.safetensors").is_file():
        return "fp16"
    if any(folder.glob("*.bin")):
        raise InputError(
            f"{folder} needs {plain.name}, got weights as pickle (.bin) only, which can run code; "
            "take the safetensors files of the checkpoint."
        )
    raise InputError(f"{folder} has no {plain.name}; copy the weights of this part, too.")


def _check_complete(model: nn.Module, info: Any, folder: Path) -> None:
    wrong = {str(k) for name in ("missing_keys", "mismatched_keys") for k in info[name]}
    wrong |= {str(k) for k in info["unexpected_keys"] if NO_PARAMETER not in str(k)}
    wrong |= {name for name, weight in model.named_parameters() if weight.is_meta}
    if wrong:
        raise InputError(
            f"the weights in {folder} do not fit its config.json: {len(wrong)} tensors are "
            f"missing, extra or of another shape (first: {sorted(wrong)[:3]}); copy both files "
            "of one model again."
        )
