"""The loop measures what the metric classes do, in the same pass for every row."""

import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate import Row, evaluate
from crispmask.metrics.boundary import BoundaryIoU
from crispmask.metrics.calibration import CalibrationError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.segmenters import BaseOutput
from crispmask.shapes import IGNORE, Image, Probs

CLASSES = ("sea", "sand", "wood", "never seen")
COLOURS = torch.tensor([[0.1, 0.2, 0.8], [0.9, 0.8, 0.4], [0.1, 0.5, 0.1], [1.0, 0.0, 1.0]])


class Islands:
    """Drawn images: round islands with a wood in the middle, a few pixels unlabelled."""

    class_names = CLASSES

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        rng = torch.Generator().manual_seed(index)
        y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
        centre = torch.rand(2, generator=rng) * torch.tensor([10.0, 16.0]) + 7
        far = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt()
        mask = (far < 9).long() + (far < 4).long()
        image = COLOURS[mask].movedim(-1, 0) + 0.25 * torch.randn(3, 24, 32, generator=rng)
        mask[:2, :3] = IGNORE
        return Sample(image=image.clamp(0, 1), mask=mask, name=f"island-{index}")


def segmenter(image: Image) -> BaseOutput:
    """Nearest class colour, with a preference for what lies on the left of the image."""
    far = (image[:, None] - COLOURS[None, :, :, None, None]).square().sum(2)  # b k h w
    return BaseOutput(probs=(-6 * far).softmax(1))


def smoothed(image: Image, base: BaseOutput, name: str) -> Probs:
    return F.avg_pool2d(base.probs, 3, stride=1, padding=1, count_include_pad=False)


def sharpened(image: Image, base: BaseOutput, name: str) -> Probs:
    return (smoothed(image, base, name) + 1e-6).log().mul(3).softmax(1)


BASE = Row(name="base", predictors=(lambda image, base, name: base.probs,))
SMOOTH = Row(name="smooth", predictors=(smoothed, sharpened), steps=1)


def test_numbers_are_those_of_the_metric_classes() -> None:
    report = evaluate(Islands(), segmenter, [BASE, SMOOTH], title="islands", progress=False)

    for seed, predict in enumerate(SMOOTH.predictors):
        regions, calibration = ConfusionMatrix(4), CalibrationError()
        wide, thin = BoundaryIoU(4), BoundaryIoU(4, width=2)
        for sample in (Islands()[i] for i in range(4)):
            image, target = sample.image[None], sample.mask[None]
            probs = predict(image, segmenter(image), sample.name)
            calibration.update(probs, target)
            for metric in (regions, wide, thin):
                metric.update(probs.argmax(1), target)
        row = report.row("smooth")
        want = {
            "miou": regions.compute().miou,
            "accuracy": regions.compute().accuracy,
            "mbiou": wide.compute().mbiou,
            "mbiou_2px": thin.compute().mbiou,
            "ece": calibration.compute().ece,
            "nll": calibration.compute().nll,
        }
        assert {key: row.scores[key][seed] for key in want} == want
        np.testing.assert_equal(row.iou[seed], regions.compute().iou)
        np.testing.assert_equal(row.biou[seed], wide.compute().biou)
    assert report.row("smooth").seeds == 2
    assert sum(report.row("base").reliability.share) == pytest.approx(1)
    assert report.gains["base"].mean == pytest.approx(
        report.row("smooth").mean("miou") - report.base.mean("miou")
    )


def test_images_are_scored_by_the_classes_they_show() -> None:
    report = evaluate(Islands(), segmenter, [BASE, SMOOTH], title="islands", progress=False)

    assert [image.name for image in report.images] == [f"island-{i}" for i in range(4)]
    sample = Islands()[2]
    valid = sample.mask != IGNORE
    pred = segmenter(sample.image[None]).labels[0]
    iou = []
    for k in range(4):
        ours, true = (pred == k) & valid, (sample.mask == k) & valid
        if (ours | true).any():
            iou.append(((ours & true).sum() / (ours | true).sum()).item())
    assert report.images[2].base == pytest.approx(sum(iou) / len(iou))


def test_examples_show_the_first_seed_of_the_first_row_with_steps() -> None:
    last = Row(name="last", predictors=(smoothed,))
    report = evaluate(
        Islands(), segmenter, [BASE, SMOOTH, last], title="islands", progress=False, pictures=3
    )

    assert report.ours == "smooth"
    assert [e.group for e in report.examples] == ["best", "typical", "worst"]
    changes = [e.result.ours - e.result.base for e in report.examples]
    assert changes == sorted(changes, reverse=True)
    example = report.examples[0]
    sample = Islands()[int(example.result.name.split("-")[1])]
    base = segmenter(sample.image[None])
    assert (example.truth == sample.mask.numpy()).all()
    assert (example.base == base.labels[0].numpy()).all()
    ours = smoothed(sample.image[None], base, sample.name)[0]
    assert (example.ours == ours.argmax(0).numpy()).all()
    entropy = -(ours * ours.log()).sum(0) / np.log(4)
    np.testing.assert_allclose(example.uncertainty / 255, entropy.numpy(), atol=1 / 255)


def test_time_includes_the_base_unless_the_row_does_without() -> None:
    def slow(image: Image) -> BaseOutput:
        time.sleep(0.03)
        return segmenter(image)

    alone = Row(name="alone", predictors=(smoothed,), uses_base=False)
    rows = [BASE, SMOOTH, alone]
    report = evaluate(Islands(2), slow, rows, title="islands", progress=False, pictures=0)

    assert report.base.mean("seconds") >= 0.03
    assert min(report.row("smooth").scores["seconds"]) >= 0.03
    assert report.row("alone").mean("seconds") < 0.03
    assert report.examples == ()


def test_limit_spreads_over_the_data_set() -> None:
    report = evaluate(Islands(9), segmenter, [BASE], title="islands", progress=False, limit=3)

    assert [image.name for image in report.images] == ["island-0", "island-3", "island-6"]
    assert report.protocol["data"] == "3 of 9 images, 32x24 pixels, 4 classes"


def test_probabilities_of_an_image_are_gone_before_the_next() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def watched(image: Image) -> BaseOutput:
        assert all(reference() is None for reference in alive)
        output = segmenter(image)
        alive.append(weakref.ref(output.probs))
        return output

    def refined(image: Image, base: BaseOutput, name: str) -> Probs:
        probs = smoothed(image, base, name)
        alive.append(weakref.ref(probs))
        return probs

    rows = [BASE, Row(name="refined", predictors=(refined,))]
    evaluate(Islands(), watched, rows, title="islands", progress=False)
    assert len(alive) > 8


def test_an_image_without_labels_changes_nothing() -> None:
    class WithEmpty(Islands):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return replace(sample, mask=torch.full_like(sample.mask, IGNORE)) if index else sample

    both, one = (
        evaluate(data, segmenter, [BASE, SMOOTH], title="islands", progress=False)
        for data in (WithEmpty(2), Islands(1))
    )
    assert both.base.scores["miou"] == one.base.scores["miou"]
    assert np.isnan(both.images[1].base)
    assert len(both.examples) == 1


def test_progress_shows_both_scores_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(Islands(2), segmenter, [BASE, SMOOTH], title="islands")

    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "→" in err


@pytest.mark.parametrize(
    ("rows", "count", "message"),
    [
        ([], 1, "rows with different names"),
        ([BASE, BASE], 1, "rows with different names"),
        ([BASE], 0, "at least one image, got a data set of 0"),
    ],
)
def test_what_cannot_be_evaluated_is_said(rows: list[Row], count: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(Islands(count), segmenter, rows, title="islands", progress=False)


def test_a_base_of_another_size_is_refused() -> None:
    def half(image: Image) -> BaseOutput:
        return BaseOutput(probs=F.avg_pool2d(segmenter(image).probs, 2))

    with pytest.raises(InputError, match=r"island-0 .* \(1, 4, 24, 32\), got \(1, 4, 12, 16\)"):
        evaluate(Islands(), half, [BASE], title="islands", progress=False)


def test_a_row_needs_a_predictor() -> None:
    with pytest.raises(InputError, match='"none" needs at least one predictor'):
        Row(name="none", predictors=())


def test_intervals_are_drawn_by_the_blocks_of_the_data_set() -> None:
    class Blocks(Islands):
        blocks = ("north", "north", "south", "south")

    report = evaluate(Blocks(), segmenter, [BASE, SMOOTH], title="islands", progress=False)
    assert report.protocol["intervals"].startswith("bootstrap over 2 blocks")
    report = evaluate(Islands(25), segmenter, [BASE, SMOOTH], title="islands", progress=False)
    assert "25 images in runs of 2" in report.protocol["intervals"]
