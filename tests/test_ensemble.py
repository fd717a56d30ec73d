"""Disagreement between seeds and between calls: bounds, extremes and the bundled refiner."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crispmask.data.earth import earth
from crispmask.errors import InputError
from crispmask.models.checkpoint import WEIGHTS
from crispmask.models.ensemble import refine_ensemble, step_disagreement
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels
from crispmask.models.refiner_parts import RefinerOutput
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.nn.unet import MaskUNetConfig

K = 4


class Given(MaskRefiner):
    """Answers seed i with the i-th of given probabilities."""

    def __init__(self, answers: torch.Tensor) -> None:
        channels = condition_channels("probs", K, stride=2)
        network = MaskUNetConfig(num_classes=K, cond_channels=channels, widths=(8, 8))
        super().__init__(RefinerConfig(class_names=("a", "b", "c", "d"), network=network))
        self.answers = answers

    def forward(self, *args: object, seed: int = 0, **kwargs: object) -> RefinerOutput:
        return RefinerOutput(probs=self.answers[seed], trace=(), num_calls=3)


@given(st.integers(1, 5), st.integers(0, 1000), st.floats(0.1, 20))
def test_disagreement_is_the_mutual_information_of_seed_and_label(
    seeds: int, draw: int, sharp: float
) -> None:
    rng = torch.Generator().manual_seed(draw)
    answers = (sharp * torch.randn(seeds, 1, K, 3, 2, generator=rng)).softmax(2)
    out = refine_ensemble(Given(answers), None, None, ensemble_size=seeds)

    p = answers[:, 0].double()  # seeds k h w
    joint = p / seeds
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    information = torch.where(joint > 0, joint * (joint / independent).log(), 0.0).sum((0, 1))
    torch.testing.assert_close(
        out.disagreement[0].double(), information / math.log(K), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(out.probs, answers.mean(0))
    assert out.num_calls == 3 * seeds
    assert 0 <= float(out.disagreement.min()) <= float(out.disagreement.max()) <= 1


def test_extremes() -> None:
    certain = torch.eye(K).view(K, 1, K, 1, 1)  # each seed sure of another class
    out = refine_ensemble(Given(certain), None, None, ensemble_size=K)
    assert out.disagreement.item() == pytest.approx(1)
    unsure = torch.full((3, 1, K, 1, 1), 1 / K)
    out = refine_ensemble(Given(unsure), None, None, ensemble_size=3)
    assert out.disagreement.item() == pytest.approx(0, abs=1e-6)
    assert out.uncertainty.item() == pytest.approx(1)


def test_steps_that_differ_from_the_last() -> None:
    trace = [torch.tensor([[row]]) for row in ([0, 1, 2], [0, 1, 1], [3, 1, 1])]
    assert step_disagreement(trace).tolist() == [[[1.0, 0.0, 0.5]]]


def test_messages() -> None:
    with pytest.raises(InputError, match="ensemble_size must be at least 1, got 0"):
        refine_ensemble(Given(torch.ones(1)), None, None, ensemble_size=0)
    with pytest.raises(InputError, match="at least 2 calls, got 1; refine with"):
        step_disagreement([torch.zeros(1, 2, 2, dtype=torch.int64)])


@pytest.mark.skipif(not (WEIGHTS / "earth-small").is_dir(), reason="earth-small is not bundled")
def test_the_bundled_refiner() -> None:
    image = earth("test")[7].image[None]
    refiner = MaskRefiner.from_pretrained("earth-small")
    base: BaseOutput = FPNSegmenter.from_pretrained("earth-small")(image)

    out = refine_ensemble(refiner, image, base, ensemble_size=3, seed=5, names=["tile"])
    each = [refiner(image, base, seed=5 + i, names=["tile"]).probs for i in range(3)]
    torch.testing.assert_close(out.probs, torch.stack(each).mean(0))
    assert out.disagreement.shape == (1, 128, 128)
    assert out.disagreement.max() > 0
    one = refine_ensemble(refiner, image, base, ensemble_size=1, seed=5, names=["tile"])
    assert torch.equal(one.probs, each[0])
    assert not one.disagreement.any()

    steps = refiner(image, base, num_inference_steps=4, keep_trace=True)
    assert steps.trace[0].shape == (1, 64, 64)
    thirds = 3 * step_disagreement(steps.trace)
    torch.testing.assert_close(thirds, thirds.round())
