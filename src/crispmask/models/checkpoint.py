"""Models as folders: ``config.json``, ``model.safetensors`` and a card, loaded strictly."""

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from crispmask.atomic import unfinished, write_atomic
from crispmask.errors import InputError

WEIGHTS = Path(__file__).parent.parent / "weights"
FILES = ("config.json", "model.safetensors", "README.md")


def from_dict(cls: type[Any], data: Mapping[str, Any], *, source: str) -> Any:
    """An instance of dataclass ``cls`` from plain JSON values, nested dataclasses included.

    Raises:
        InputError: if a field is unknown, missing, of another type or contradicts another;
            ``source`` is named.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - {f.name for f in dataclasses.fields(cls)})
    if unknown:
        raise InputError(
            f"{source} has fields {unknown} that {cls.__name__} does not know; remove them or "
            f"use the version of crispmask that wrote them."
        )
    values = {}
    for name, value in data.items():
        nested = [o for o in _options(hints[name]) if dataclasses.is_dataclass(o)]
        if nested and isinstance(value, dict):
            value = from_dict(typing.cast(type[Any], nested[0]), value, source=source)
        elif isinstance(value, list):
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        if not _fits(value, hints[name]):
            hint = hints[name]
            wanted = hint.__name__ if isinstance(hint, type) else str(hint)
            raise InputError(
                f"{source} needs {name} to be {wanted.removeprefix('typing.')}, got {value!r}; "
                "restore the file."
            )
        values[name] = value
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source} is not a valid {cls.__name__}: {error}") from error


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union; else the hint alone."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return typing.get_args(hint)
    return (hint,)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from JSON, its lists made tuples, is of a type that configs use."""
    if len(_options(hint)) > 1:
        return any(_fits(value, option) for option in _options(hint))
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(each) and all(map(_fits, value, each))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


class Pretrained(ModelHubMixin):
    """Save and load for modules that are built from one config dataclass.

    A subclass names its config class; `huggingface_hub` adds ``push_to_hub``.
    """

    config_class: typing.ClassVar[type[Any]]
    part: typing.ClassVar[str] = ""
    """Sub-folder of a bundle of several models."""
    config: Any

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:  # type: ignore[override]
        """The model of a bundled name ("earth-small"), a folder or a hub id, in evaluation mode.

        Raises:
            InputError: if there is no such model, or its files are damaged or of another model.
        """
        model = cls._load_folder(find_model(name, part=cls.part))
        _module(model).eval()
        return model

    def _save_pretrained(self, save_directory: Path) -> None:
        state = {k: v.detach().cpu().contiguous() for k, v in _module(self).state_dict().items()}
        path = save_directory / "model.safetensors"
        try:
            with unfinished(path) as temporary:
                save_file(state, temporary, metadata={"format": "pt"})
        except SafetensorError as error:
            raise InputError(
                f"{path} cannot be written ({error}); make room or choose another folder."
            ) from error
        self.save_config(save_directory)

    def save_config(self, folder: Path) -> None:
        """Write ``config.json`` alone, whose change leaves the weights as they are."""
        config = {"model": type(self).__name__, **dataclasses.asdict(self.config)}
        write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")

    @classmethod
    def _load_folder(cls, folder: Path) -> Self:
        source = folder / "config.json"
        try:
            data = json.loads(source.read_text())
        except (OSError, ValueError) as error:
            raise InputError(
                f"{source} cannot be read ({error}); a model folder needs config.json and "
                "model.safetensors as save_pretrained writes them."
            ) from error
        if not isinstance(data, dict):
            raise InputError(f"{source} must hold a JSON object, as save_pretrained writes it.")
        kind = data.pop("model", None)
        if kind != cls.__name__:
            raise InputError(
                f"{folder} holds a {kind or 'model of unknown kind'}, needed is a {cls.__name__}; "
                "give the folder of such a model."
            )
        model = cls(from_dict(cls.config_class, data, source=str(source)))
        weights = folder / "model.safetensors"
        try:
            state = load_file(weights)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{weights} cannot be read ({error}); it is missing or damaged, copy it again."
            ) from error
        own = _module(model).state_dict()
        wrong = [k for k in own if k not in state or state[k].shape != own[k].shape]
        wrong += [k for k in state if k not in own]
        if wrong:
            raise InputError(
                f"{weights} does not fit its config.json: {len(wrong)} tensors are missing, extra "
                f"or of another shape (first: {wrong[:3]}); copy both files of one model again."
            )
        _module(model).load_state_dict(state)
        return model


def _module(model: Pretrained) -> nn.Module:
    return typing.cast(nn.Module, model)


def no_model(name: str | Path, bundled: Sequence[str] = ()) -> str:
    """The sentence for a name that is no folder, which says how to get one."""
    hub_id = str(name) if re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(name)) else "OWNER/NAME"
    neither = f"neither a folder nor bundled ({', '.join(bundled)})" if bundled else "no folder"
    return (
        f"no model called {str(name)!r}: it is {neither}; models are loaded from folders, so check "
        f"the path, or get one from the hub: hf download {hub_id} --local-dir FOLDER."
    )


def find_model(name: str | Path, *, part: str = "") -> Path:
    """The folder of a model: bundled name, path, or a hub id which is then downloaded.

    ``runs/refiner`` is a path, not a hub id, where there is a folder ``runs``: the hub is not asked
    for what was mistyped. A folder that is a bundle holds its models in sub-folders (base, refiner,
    control); ``part`` says which one is meant.

    Raises:
        InputError: if nothing of that name is found.
    """
    known = sorted(p.name for p in WEIGHTS.glob("*") if p.is_dir())
    folder = WEIGHTS / name if str(name) in known else Path(name)
    if not folder.is_dir():
        if folder.parent != Path() and folder.parent.is_dir():
            raise InputError(no_model(name, known))
        try:
            folder = Path(snapshot_download(str(name), allow_patterns=list(FILES)))
        except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
            raise InputError(no_model(name, known)) from error
    if part and not (folder / "config.json").exists() and (folder / part).is_dir():
        return folder / part
    return folder
