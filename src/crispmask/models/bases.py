"""Any base segmenter that a refiner can be trained behind, from its folder."""

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from crispmask.errors import InputError
from crispmask.models.checkpoint import find_model, no_model
from crispmask.models.segformer import SegformerBase, SegformerBaseConfig
from crispmask.models.segmenters import FPNSegmenter

Base = FPNSegmenter | SegformerBase

BASES: dict[str, type[Base]] = {"FPNSegmenter": FPNSegmenter, "SegformerBase": SegformerBase}
"""Classes by the name that ``config.json`` records."""


def load_base(name: str | Path, *, class_names: Sequence[str] | None = None) -> Base:
    """The base of a bundled name, a folder or a hub id, in evaluation mode.

    The folder is one of ours, or holds a ``SegformerForSemanticSegmentation`` of transformers,
    which names its classes in its own way and gets ``class_names``. Without ``class_names`` the
    model's own stay.

    Raises:
        InputError: if there is no such model, or it does not have these classes. A base without
            a classifier fits any.
    """
    folder = find_model(name, part="base")
    try:
        described = dict(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{folder / 'config.json'} cannot be read ({error}); give the folder of a base."
        ) from error
    if described.get("model_type") == "segformer":
        return from_transformers(folder, class_names=class_names)
    kind = described.get("model")
    if kind not in BASES:
        raise InputError(
            f"{folder} holds a {kind or 'model of unknown kind'}, needed as a base is one of "
            f"{', '.join(BASES)} or a SegFormer of transformers."
        )
    base = BASES[kind].from_pretrained(folder)
    if class_names is None:
        return base
    if isinstance(base, SegformerBase) and base.classifier is None:
        base.config = dataclasses.replace(base.config, class_names=tuple(class_names))
    if base.config.class_names != tuple(class_names):
        raise InputError(
            f"the segmenter {name} knows the classes {', '.join(base.config.class_names)}, "
            f"the data {', '.join(class_names)}; train a segmenter on this data first."
        )
    return base


def from_transformers(
    folder: str | Path, *, class_names: Sequence[str] | None = None
) -> SegformerBase:
    """A `SegformerBase` with the weights of transformers' ``SegformerForSemanticSegmentation``.

    Its features are what the classifier of that model reads. Nothing is downloaded.

    Args:
        folder: ``config.json`` and ``model.safetensors``, for instance of
            nvidia/segformer-b2-finetuned-ade-512-512.
        class_names: in the order of the model's labels; by default what the model calls them.

    Raises:
        InputError: if transformers is not installed, the folder cannot be read or holds its
            weights as a pickle alone, or the model has another number of labels or another layout.
    """
    if importlib.util.find_spec("transformers") is None:
        raise InputError("SegFormer needs transformers; install it: pip install 'crispmask[hf]'.")
    from transformers import SegformerForSemanticSegmentation

    if not any(Path(folder).glob("*.safetensors")) and any(Path(folder).glob("*.bin")):
        raise InputError(
            f"{folder} holds its weights as a pickle (.bin), which can run code; load it with "
            "transformers where you trust it, and save_pretrained writes model.safetensors."
        )
    if not Path(folder).is_dir():
        raise InputError(no_model(folder))
    kind: Any = SegformerForSemanticSegmentation
    try:
        theirs, loading = kind.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} holds no SegFormer that transformers reads: {error}") from error
    if lacking := sorted(loading["missing_keys"]):
        raise InputError(
            f"{folder} lacks {len(lacking)} tensors of a SegFormer with a decoder (first: "
            f"{lacking[0]}); give a model that was trained to segment."
        )
    said = theirs.config
    if class_names is None:
        class_names = [said.id2label[i] for i in range(said.num_labels)]
    if said.num_labels != len(class_names):
        raise InputError(
            f"{folder} tells {said.num_labels} classes apart, the data {len(class_names)}; give a "
            "SegFormer that was trained on this data."
        )
    model = SegformerBase(_config(said, class_names))
    model.backbone.load_state_dict(theirs.segformer.state_dict())
    head = theirs.decode_head.state_dict()
    own: dict[str, Tensor] = {}
    for i in range(len(said.hidden_sizes)):
        own[f"stages.{i}.weight"] = head[f"linear_projections.{i}.proj.weight"][:, :, None, None]
        own[f"stages.{i}.bias"] = head[f"linear_projections.{i}.proj.bias"]
    own["fuse.0.weight"] = head["linear_fuse.weight"]
    own |= {k.replace("batch_norm", "fuse.1"): v for k, v in head.items() if "batch_norm" in k}
    model.neck.load_state_dict(own)
    assert isinstance(model.classifier, nn.Conv2d)
    model.classifier.load_state_dict(theirs.decode_head.classifier.state_dict())
    return model.eval()


def _config(said: Any, class_names: Sequence[str]) -> SegformerBaseConfig:
    """Our config of a model of transformers."""
    usual = {"patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "hidden_act": "gelu"}
    for name, value in usual.items():
        if getattr(said, name) not in (value, tuple(value)):
            raise InputError(
                f"a SegFormer needs {name} {value} to be read, got {getattr(said, name)}."
            )
    return SegformerBaseConfig(
        class_names=tuple(class_names),
        widths=tuple(said.hidden_sizes),
        depths=tuple(said.depths),
        heads=tuple(said.num_attention_heads),
        reductions=tuple(said.sr_ratios),
        mlp_ratios=tuple(said.mlp_ratios),
        neck_channels=said.decoder_hidden_size,
        neck="transformers",
        norm_eps=1e-5,  # of every layer norm, whatever the config of transformers says
        drop_path=said.drop_path_rate,
        dropout=said.classifier_dropout_prob,
    )
