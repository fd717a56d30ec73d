"""Model and data set in, report out: every row sees the same images and the same base."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from crispmask.data.catalog import palette_for
from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate.bootstrap import blocks_of, gain
from crispmask.evaluate.corrected import probe_corrections
from crispmask.evaluate.examples import Group, choose, draw
from crispmask.evaluate.images import LabelledImages, evenly_spread
from crispmask.evaluate.meter import Meter, class_counts, row_result
from crispmask.evaluate.probe import probe_state
from crispmask.evaluate.rows import Row
from crispmask.models.segmenters import Segmenter
from crispmask.provenance import provenance
from crispmask.report.report import Report
from crispmask.report.results import Comparison, Corrections, Example, ImageResult, StateUse

PROBED = 16
"""Images at most on which a refiner's use of its state, and of corrections, is measured."""


@torch.inference_mode()
def evaluate(
    dataset: LabelledImages,
    segmenter: Segmenter,
    rows: Sequence[Row],
    *,
    title: str,
    progress: bool = True,
    limit: int | None = None,
    pictures: int = 6,
) -> Report:
    """Measure all rows, one image at a time, in one pass; a second pass draws the pictures.

    The pictures and most figures compare the base with the first row that has `steps`, or with
    the last row where none has, each by its first seed. The first row with a refiner also has its
    use of the state probed, on 16 images at most, and, if it was trained with known labels, what
    it makes of simulated corrections, beside its control.

    Args:
        dataset: images with their true masks.
        segmenter: the base, called once per image; its probabilities have the image's size.
        rows: the first one is the base.
        title: what is evaluated on what.
        progress: whether to show a bar on stderr.
        limit: how many images to use at most, spread evenly over the data set.
        pictures: images shown: a third each with the best, a median and the worst change.

    Raises:
        InputError: without rows or images, with two rows of one name or one compared with a row
            that is not there, or if the base does not fit the data set.
    """
    names = [row.name for row in rows]
    if not rows or len(set(names)) < len(names):
        raise InputError(f"evaluation needs rows with different names, got {names}.")
    for row in rows:
        if lacking := set(row.compared.values()) - set(names):
            raise InputError(
                f'row "{row.name}" is compared with {", ".join(sorted(lacking))}, which is no row; '
                "add it."
            )
    indices = evenly_spread(len(dataset), limit)
    count = len(indices)
    base = rows[0]
    ours = next((row for row in rows if row.steps is not None), rows[-1])
    with _progress(shown=progress) as bar:
        measured = _measure(dataset, segmenter, rows, indices, ours=ours, bar=bar)

    per_image = zip(
        measured.names,
        measured.meters[base.name][0].image_miou,
        measured.meters[ours.name][0].image_miou,
        strict=True,
    )
    images = tuple(ImageResult(name=n, base=before, ours=after) for n, before, after in per_image)
    counts = {name: class_counts(meters) for name, meters in measured.meters.items()}
    blocks, about_blocks = blocks_of(dataset, indices)
    others = [row.name for row in rows if row is not ours]

    def comparisons(row: Row) -> dict[str, Comparison]:
        return {
            part: Comparison(over=over, gain=gain(counts[row.name], counts[over], blocks))
            for part, over in row.compared.items()
        }

    probed = next((row for row in rows if row.refiner is not None), None)

    def samples() -> Iterator[Sample]:
        few = evenly_spread(count, PROBED)
        return (dataset[indices[i]] for i in few)

    return Report(
        title=title,
        class_names=tuple(dataset.class_names),
        palette=palette_for(dataset.class_names),
        shares=measured.meters[base.name][0].true_shares(),
        rows=tuple(row_result(row, measured.meters[row.name], comparisons(row)) for row in rows),
        ours=ours.name,
        gains={name: gain(counts[ours.name], counts[name], blocks) for name in others},
        images=images,
        examples=tuple(
            _example(dataset[indices[i]], images[i], group, segmenter, (base, ours))
            for i, group in choose(images, pictures)
        ),
        protocol={
            "data": f"{count} of {len(dataset)} images, {_size_range(measured.sizes)} pixels, "
            f"{len(dataset.class_names)} classes",
            "seeds": ", ".join(f"{row.name}: {len(row.predictors)}" for row in rows),
            "intervals": f"bootstrap over {about_blocks}, paired",
            "timing": "one image at a time, with the base's time, median over images",
            **provenance(),
        },
        state_use=_state_use(probed, samples(), segmenter),
        corrections=_corrections(probed, samples(), segmenter),
    )


def _state_use(row: Row | None, samples: Iterable[Sample], segmenter: Segmenter) -> StateUse | None:
    if row is None or row.refiner is None:
        return None
    return probe_state(row.refiner, samples, segmenter)


def _corrections(
    row: Row | None, samples: Iterable[Sample], segmenter: Segmenter
) -> Corrections | None:
    if row is None or row.refiner is None or not row.refiner.config.network.evidence:
        return None
    control = row.control
    if control is not None and not control.config.network.evidence:
        control = None
    return probe_corrections(row.refiner, samples, segmenter, control=control)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    meters: dict[str, list[Meter]]
    names: list[str]
    sizes: set[tuple[int, int]]


def _measure(
    dataset: LabelledImages,
    segmenter: Segmenter,
    rows: Sequence[Row],
    indices: Sequence[int],
    *,
    ours: Row,
    bar: Progress,
) -> _Measured:
    device, classes = _device(segmenter), len(dataset.class_names)
    meters = {row.name: [Meter(classes, device) for _ in row.predictors] for row in rows}
    measured = _Measured(meters=meters, names=[], sizes=set())
    task = bar.add_task("", total=len(indices))
    for index in indices:
        sample = dataset[index]
        _measure_one(sample, segmenter, rows, meters)
        measured.names.append(sample.name)
        measured.sizes.add((sample.mask.shape[1], sample.mask.shape[0]))
        before, after = meters[rows[0].name][0].miou, meters[ours.name][0].miou
        gained = f" → {100 * after:.1f}" if ours is not rows[0] else ""
        bar.update(task, advance=1, description=f"mIoU {100 * before:.1f}{gained}")
    return measured


def _measure_one(
    sample: Sample, segmenter: Segmenter, rows: Sequence[Row], meters: dict[str, list[Meter]]
) -> None:
    device = _device(segmenter)
    image, target = sample.image[None].to(device), sample.mask[None].to(device)
    start = _clock(device)
    output = segmenter(image)
    base_seconds = _clock(device) - start
    _check(output.probs, target, meters[rows[0].name][0].num_classes, sample.name)
    for row in rows:
        for predict, meter in zip(row.predictors, meters[row.name], strict=True):
            start = _clock(device)
            probs = predict(image, output, sample.name)
            seconds = _clock(device) - start + base_seconds * row.uses_base
            meter.update(probs.to(device), target, seconds)


def _example(
    sample: Sample,
    result: ImageResult,
    group: Group,
    segmenter: Segmenter,
    rows: tuple[Row, Row],
) -> Example:
    image = sample.image[None].to(_device(segmenter))
    output = segmenter(image)
    base, ours = (row.predictors[0](image, output, sample.name) for row in rows)
    return draw(sample, result, group, base=base, ours=ours)


def _check(probs: Tensor, target: Tensor, classes: int, name: str) -> None:
    want = (1, classes, *target.shape[1:])
    if tuple(probs.shape) != want:
        raise InputError(
            f"the base must answer {name} with probabilities of shape {want}, got "
            f"{tuple(probs.shape)}; its classes and its output size must be the data set's."
        )


def _device(segmenter: Segmenter) -> torch.device:
    parameters = segmenter.parameters() if isinstance(segmenter, nn.Module) else iter(())
    first = next(parameters, None)
    return torch.device("cpu") if first is None else first.device


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _progress(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("evaluating"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images, {task.description}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


def _size_range(sizes: set[tuple[int, int]]) -> str:
    low, high = min(sizes), max(sizes)
    text = f"{low[0]}x{low[1]}"
    return text if low == high else f"{text} to {high[0]}x{high[1]}"
