"""The standard rows, the choice of pictures and the bootstrap, each against a plain version."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crispmask.data.votes import majority_filter
from crispmask.evaluate import refiner_rows
from crispmask.evaluate.bootstrap import ClassCounts, gain
from crispmask.evaluate.examples import choose
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.unet import MaskUNetConfig
from crispmask.report import ImageResult
from crispmask.shapes import Image

CLASSES = ("sea", "sand", "wood", "rock")
IMAGE = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))


def segmenter(image: Image) -> BaseOutput:
    """Looks at single pixels."""
    return BaseOutput(probs=torch.cat([image, 1 - image[:, :1]], dim=1).mul(3).softmax(1))


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
    base = segmenter(IMAGE)
    probs = {row.name: [p(IMAGE, base, "island-0") for p in row.predictors] for row in rows}

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
                IMAGE, base, num_inference_steps=calls, seed=seed, names=["island-0"]
            ).probs
            torch.testing.assert_close(probs[name][seed], want)
    assert "control" not in [
        r.name for r in refiner_rows(refiners, [], flip_segmenter=segmenter, num_classes=4)
    ]


def test_flip_averages_the_base_with_its_mirrored_answer() -> None:
    def leftish(image: Image) -> BaseOutput:
        """Prefers class 0 on the left, whatever is there."""
        ramp = torch.linspace(2, 0, image.shape[-1]).expand(1, 1, *image.shape[-2:])
        return BaseOutput(probs=torch.cat([ramp, ramp * 0 + 1], dim=1).softmax(1))

    rows = refiner_rows([tiny_refiner(0)], [], flip_segmenter=leftish, num_classes=2)
    got = rows[1].predictors[0](IMAGE, leftish(IMAGE), "x")
    torch.testing.assert_close(got, got.flip(-1))
    torch.testing.assert_close(
        got[..., 0], (leftish(IMAGE).probs[..., 0] + leftish(IMAGE).probs[..., -1]) / 2
    )


def test_the_filter_of_the_table_is_the_one_of_masks() -> None:
    """Ties included: in a window of four pixels there are many."""
    labels = torch.randint(3, (1, 6, 2), generator=torch.Generator().manual_seed(0))
    base = BaseOutput.from_labels(labels, num_classes=3)
    rows = refiner_rows([tiny_refiner(0)], [], flip_segmenter=segmenter, num_classes=3)
    row = next(row for row in rows if row.name == "5x5 majority filter")
    got = row.predictors[0](torch.zeros(1, 3, 6, 2), base, "name")
    torch.testing.assert_close(got.sum(1), torch.ones(1, 6, 2))
    assert torch.equal(got.argmax(1), majority_filter(labels, 5, num_classes=3))
