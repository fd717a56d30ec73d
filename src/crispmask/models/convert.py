"""Official DDPS checkpoints, SegFormer variants, as a base segmenter and a `MaskRefiner`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from crispmask.atomic import unfinished, write_atomic
from crispmask.errors import InputError
from crispmask.models.ddps_file import State, Weights, listed, read_checkpoint
from crispmask.models.ddps_keys import (
    BASE_NAMES,
    REFINER_NAMES,
    Names,
    official_name,
    our_part,
    why_ignored,
)
from crispmask.models.ddps_report import ConversionReport, ConvertedKey
from crispmask.models.ddps_sizes import VOID, Sizes
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segformer import SegformerBase


def convert_ddps(
    checkpoint: str | Path,
    output: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    weights: Weights = "ema",
) -> ConversionReport:
    """Convert an official ``.pth`` of DDPS (Lai et al. 2023) and say where each tensor went.

    Writes ``output/base`` for `SegformerBase`, ``output/refiner`` for `MaskRefiner` and
    ``output/conversion.json``, all of it or nothing.

    Args:
        checkpoint: file of a SegFormer variant.
        output: folder that does not exist yet.
        class_names: names of the classes 1, 2, ...; class 0 is always "void".
        weights: "ema" takes the copies called ``ema_...`` where the file has them, "model" never.
            docs/convert.md says when the second is right.

    Raises:
        InputError: if the file cannot be read; a tensor is missing, unknown, not finite or of
            another shape than the others imply; the names do not fit; or ``output`` exists.
    """
    source, folder = Path(checkpoint), Path(output)
    if folder.exists():
        raise InputError(f"{folder} exists already; give the name of a new folder.")
    state, other = read_checkpoint(source, weights=weights)
    sizes = Sizes(state, str(source))
    names = _class_names(class_names, sizes.num_classes)
    try:
        with torch.device("meta"):  # sizes alone: no memory, no random numbers
            base = SegformerBase(sizes.base(names))
            refiner = MaskRefiner(sizes.refiner(names))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{source} has sizes that do not fit each other: {error}") from error

    filled, targets = {}, dict[str, list[str]]()
    problems: list[str] = []
    for part, own, table in (
        ("base", base.state_dict(), BASE_NAMES),
        ("refiner", refiner.state_dict(), REFINER_NAMES),
    ):
        for name in own:
            if not why_ignored(name):
                targets.setdefault(official_name(name, table), []).append(f"{part}: {name}")
        filled[part] = _fill(own, state, table, sizes.feature_channels, problems)
    problems += [f"{k} is unknown" for k in state if k not in targets and not why_ignored(k)]
    if problems:
        problems = list(dict.fromkeys(problems))
        raise InputError(
            f"{source} does not fit the layout of DDPS with SegFormer in {len(problems)} points: "
            f"{listed(problems)}; convert an official checkpoint as it was saved."
        )
    base.load_state_dict(filled["base"], assign=True)
    refiner.load_state_dict(filled["refiner"], assign=True)
    report = ConversionReport(
        checkpoint=str(source),
        output=str(folder),
        backbone=sizes.backbone,
        num_classes=sizes.num_classes,
        num_steps=sizes.num_steps,
        widths=sizes.widths,
        keys=tuple(_keys(state, targets, other)),
    )
    _write(folder, {"base": base, "refiner": refiner}, report)
    return report


def _class_names(given: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    names = [f"class {i}" for i in range(1, num_classes)] if given is None else list(given)
    if len(names) != num_classes - 1:
        raise InputError(
            f"the checkpoint has {num_classes - 1} classes beside void, got {len(names)} class "
            "names; give one for each, without void."
        )
    return (*names[:VOID], "void", *names[VOID:])


def _fill(
    own: Mapping[str, Tensor], state: State, names: Names, channels: int, problems: list[str]
) -> State:
    """Values for our tensors; what cannot be filled is added to ``problems``."""
    values: State = {}
    for name, empty in own.items():
        if why_ignored(name):  # a counter of batches
            values[name] = torch.zeros(empty.shape, dtype=empty.dtype)
            continue
        official = official_name(name, names)
        if official not in state:
            problems.append(f"{official} is missing")
            continue
        value = our_part(name, state[official], feature_channels=channels)
        if value.shape != empty.shape:
            problems.append(
                f"{official} has shape {tuple(state[official].shape)}, of which {name} needs "
                f"{tuple(empty.shape)}"
            )
        elif not torch.isfinite(value).all():
            problems.append(f"{official} is not finite")
        values[name] = value.to(empty.dtype).clone()
    return values


def _keys(
    state: State, targets: Mapping[str, Sequence[str]], other: Mapping[str, str]
) -> Iterator[ConvertedKey]:
    """Every entry of the file: those that went somewhere, then the rest."""
    for name in (k for k in state if k in targets):
        shape = tuple(state[name].shape)
        yield ConvertedKey(name=name, shape=shape, targets=tuple(targets[name]))
    for name in (k for k in state if k not in targets):
        shape = tuple(state[name].shape)
        yield ConvertedKey(name=name, shape=shape, ignored=why_ignored(name))
    for name, reason in other.items():
        yield ConvertedKey(name=name, ignored=reason)


def _write(
    folder: Path, models: Mapping[str, SegformerBase | MaskRefiner], report: ConversionReport
) -> None:
    """The folder under a temporary name, which it loses when it is complete."""
    with unfinished(folder) as temporary:
        for part, model in models.items():
            model.save_pretrained(temporary / part)
            write_atomic(temporary / part / "README.md", _card(model, report))
        write_atomic(temporary / "conversion.json", json.dumps(report.to_json(), indent=1) + "\n")


def _card(model: SegformerBase | MaskRefiner, report: ConversionReport) -> str:
    """The model card: what it is and where it comes from."""
    return f"""\
---
library_name: crispmask
pipeline_tag: image-segmentation
---

# {type(model).__name__} from {Path(report.checkpoint).name}

Converted from an official checkpoint of DDPS (Lai et al. 2023, arXiv 2306.01721), whose weights
came without a licence. {report.backbone}, {report.num_classes - 1} classes and void (class 0, never
answered), {report.num_steps} official time steps.
"""
