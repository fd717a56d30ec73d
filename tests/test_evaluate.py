"""The loop measures what the metric classes do, in the same pass for every row."""

import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate import Row, evaluate, refiner_rows
from crispmask.evaluate.bootstrap import ClassCounts, gain
from crispmask.evaluate.examples import choose
from crispmask.evaluate.rows import vote_share
from crispmask.metrics.boundary import BoundaryIoU
from crispmask.metrics.calibration import CalibrationError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.refiner import MaskRefiner, RefinerConfig, condition_channels
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.unet import MaskUNetConfig
from crispmask.report import ImageResult
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
        ([BASE], 0, "at least one image, got 0 of 0"),
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


@given(
    st.lists(st.floats(-1, 1) | st.just(float("nan")), min_size=1, max_size=12), st.integers(0, 9)
)
def test_chosen_images_are_different_and_in_order(changes: list[float], pictures: int) -> None:
    images = [ImageResult(name=str(i), base=0.0, ours=c) for i, c in enumerate(changes)]
    chosen = [i for i, _ in choose(images, pictures)]

    known = [c for c in changes if c == c]
    assert len(set(chosen)) == len(chosen) == min(pictures, len(known))
    shown = [changes[i] for i in chosen]
    assert shown == sorted(shown, reverse=True)
    if chosen:
        assert shown[0] == max(known)
    if len(chosen) > 1:
        assert shown[-1] == min(known)


def test_gain_agrees_with_drawing_images_one_by_one() -> None:
    rng = np.random.default_rng(1)
    unions = rng.integers(1, 50, (2, 12, 3)).astype(float)
    theirs = ClassCounts(hits=unions * 0.4, unions=unions)
    ours = ClassCounts(hits=unions * rng.uniform(0.4, 0.9, unions.shape), unions=unions)
    blocks = [i // 3 for i in range(12)]
    got = gain(ours, theirs, blocks, draws=4000)

    def miou(counts: ClassCounts, chosen: list[int]) -> float:
        hits, unions = (x[:, chosen].sum(1) for x in (counts.hits, counts.unions))
        return float((hits / unions).mean(-1).mean())

    slow = []
    for _ in range(4000):
        chosen = [3 * block + i for block in rng.integers(0, 4, 4) for i in range(3)]
        slow.append(miou(ours, chosen) - miou(theirs, chosen))
    everything = list(range(12))
    assert got.mean == pytest.approx(miou(ours, everything) - miou(theirs, everything))
    assert (got.low, got.high) == pytest.approx(np.percentile(slow, (2.5, 97.5)), abs=0.01)
    same = gain(ours, ours, blocks)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_intervals_are_drawn_by_the_blocks_of_the_data_set() -> None:
    class Blocks(Islands):
        blocks = ("north", "north", "south", "south")

    report = evaluate(Blocks(), segmenter, [BASE, SMOOTH], title="islands", progress=False)
    assert report.protocol["intervals"].startswith("bootstrap over 2 blocks")
    report = evaluate(Islands(25), segmenter, [BASE, SMOOTH], title="islands", progress=False)
    assert "25 images in runs of 2" in report.protocol["intervals"]


def tiny_refiner(seed: int) -> MaskRefiner:
    cond = condition_channels("probs", 4, stride=2)
    network = MaskUNetConfig(num_classes=4, num_states=4, cond_channels=cond, widths=(8, 8))
    torch.manual_seed(seed)
    refiner = MaskRefiner(RefinerConfig(class_names=CLASSES, network=network)).eval()
    torch.nn.init.normal_(refiner.network.classifier.weight, std=0.3)
    return refiner


def test_the_standard_rows() -> None:
    refiners, control = [tiny_refiner(0), tiny_refiner(1)], tiny_refiner(2)
    rows = refiner_rows(refiners, [control], flip_segmenter=segmenter, num_classes=4, steps=(1, 3))
    image = Islands()[0].image[None]
    base = segmenter(image)
    probs = {row.name: [p(image, base, "island-0") for p in row.predictors] for row in rows}

    assert list(probs) == [
        "base",
        "base + flip",
        "5x5 majority filter",
        "control",
        "refined, 1 call",
        "refined, 3 calls",
    ]
    assert [row.steps for row in rows] == [None, None, None, None, 1, 3]
    assert probs["base"][0] is base.probs
    # this segmenter looks at single pixels, so mirroring changes nothing
    torch.testing.assert_close(probs["base + flip"][0], base.probs)
    for calls, name in ((1, "refined, 1 call"), (3, "refined, 3 calls")):
        for seed, refiner in enumerate(refiners):
            want = refiner(
                image, base, num_inference_steps=calls, seed=seed, names=["island-0"]
            ).probs
            torch.testing.assert_close(probs[name][seed], want)
    assert "control" not in [
        r.name for r in refiner_rows(refiners, [], flip_segmenter=segmenter, num_classes=4)
    ]
    report = evaluate(Islands(2), segmenter, rows, title="islands", progress=False)
    assert report.ours == "refined, 1 call"


def test_flip_averages_the_base_with_its_mirrored_answer() -> None:
    def leftish(image: Image) -> BaseOutput:
        """Prefers class 0 on the left, whatever is there."""
        ramp = torch.linspace(2, 0, image.shape[-1]).expand(1, 1, *image.shape[-2:])
        return BaseOutput(probs=torch.cat([ramp, ramp * 0 + 1], dim=1).softmax(1))

    rows = refiner_rows([tiny_refiner(0)], [], flip_segmenter=leftish, num_classes=2)
    image = Islands()[0].image[None]
    got = rows[1].predictors[0](image, leftish(image), "x")
    torch.testing.assert_close(got, got.flip(-1))
    torch.testing.assert_close(
        got[..., 0], (leftish(image).probs[..., 0] + leftish(image).probs[..., -1]) / 2
    )


def test_majority_vote_counts_the_window_inside_the_image() -> None:
    mask = torch.randint(3, (1, 7, 6), generator=torch.Generator().manual_seed(0))
    got = vote_share(mask, 3)
    for y in range(7):
        for x in range(6):
            window = mask[0, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].flatten()
            want = torch.bincount(window, minlength=3) / len(window)
            torch.testing.assert_close(got[0, :, y, x], want)
