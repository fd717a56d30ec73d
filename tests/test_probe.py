"""The probe tells a refiner that copies its state from one that does not look at it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from crispmask.data.earth import earth
from crispmask.data.sample import Sample
from crispmask.evaluate import Row, evaluate, refiner_rows
from crispmask.evaluate.probe import probe_state
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.checkpoint import WEIGHTS
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels
from crispmask.models.refiner_parts import Condition
from crispmask.models.segmenters import BaseOutput, FPNSegmenter
from crispmask.nn.mask_codec import MaskCodecConfig
from crispmask.nn.unet import MaskUNetConfig
from crispmask.shapes import IGNORE, Image, Logits, Mask, Time

K = 3


class Copying(MaskRefiner):
    """Answers with its state, whatever time it is."""

    def state_logits(self, x_t: Mask, condition: Condition, t: Time) -> Logits:
        states = self.config.network.num_classes
        assert 0 <= int(x_t.min()) <= int(x_t.max()) < states
        return 99 * F.one_hot(x_t, states).movedim(-1, 1).float()


def config() -> RefinerConfig:
    channels = condition_channels("probs", K, stride=2)
    network = MaskUNetConfig(num_classes=K, cond_channels=channels, widths=(8, 16))
    return RefinerConfig(class_names=("a", "b", "c"), network=network)


def segmenter(image: Image) -> BaseOutput:
    """Right where the red channel is large."""
    return BaseOutput(probs=(4 * image).softmax(1))


def samples(count: int = 3, size: tuple[int, int] = (37, 50)) -> list[Sample]:
    """Random stripes; sides that are no multiples of anything, some pixels unknown."""
    out = []
    for i in range(count):
        rng = torch.Generator().manual_seed(i)
        mask = torch.randint(K, (1, size[1] // 5), generator=rng)
        mask = mask.repeat_interleave(5, 1).expand(*size).clone()
        image = F.one_hot(mask, K).movedim(-1, 0) + torch.randn(3, *size, generator=rng)
        mask[torch.rand(size, generator=rng) < 0.1] = IGNORE
        out.append(Sample(image=image.clamp(0, 1), mask=mask, name=str(i)))
    return out


def test_a_refiner_that_copies_returns_what_it_is_handed() -> None:
    use = probe_state(Copying(config()), samples(), segmenter)
    assert use.times == (1.0, 0.5, 0.1)
    assert use.truth[0] == 1
    assert use.base[0] == pytest.approx(use.base_alone)
    assert use.truth[1] < use.truth[2]  # noised to half, and hardly
    # of random labels, a third is right: IoU 1/5
    assert use.noise == pytest.approx((0.2, 0.2, 0.2), abs=0.02)
    assert "would also copy its own errors" in use.reading


def test_the_base_is_measured_at_pixel_centres_of_the_state() -> None:
    use = probe_state(Copying(config()), samples(), segmenter)
    counts = ConfusionMatrix(K)
    for sample in samples():
        h, w = sample.mask.shape
        # the state's pixels are 2x2; the padding repeats the last row and column
        rows = torch.arange(1, h + 1, 2)
        columns = torch.arange(1, w + 1, 2)
        labels = segmenter(sample.image[None]).labels[0]
        pick = (rows.clamp(max=h - 1)[:, None], columns.clamp(max=w - 1)[None])
        truth = sample.mask[pick].clone()
        truth[rows >= h] = IGNORE
        truth[:, columns >= w] = IGNORE
        counts.update(labels[pick][None], truth[None])
    assert use.base_alone == pytest.approx(counts.compute().miou)


def test_an_untrained_refiner_does_not_look_at_its_state() -> None:
    use = probe_state(MaskRefiner(config()), samples(), segmenter)
    assert len({*use.truth, *use.base, *use.noise}) == 1
    assert "it hardly looks at its state" in use.reading


def test_absorbing_states_and_training_mode_are_left_as_they_were() -> None:
    plain = config()
    network = replace(plain.network, num_states=K + 1)
    refiner = MaskRefiner(replace(plain, process="absorbing", network=network)).train()
    torch.nn.init.normal_(refiner.network.classifier.weight)
    use = probe_state(refiner, samples(), segmenter)
    assert refiner.training
    assert all(0 <= score <= 1 for score in (*use.truth, *use.base, *use.noise))
    assert use == probe_state(refiner, samples(), segmenter)


def test_codes_are_decoded_before_they_are_measured() -> None:
    codec = MaskCodecConfig(num_classes=K, stride=2)
    network = replace(config().network, num_classes=codec.num_codes, num_states=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        refiner = Copying(replace(config(), codec=codec, network=network, residual=False))
    assert refiner.codec is not None
    known = [replace(s, mask=s.mask.where(s.mask != IGNORE, 0)) for s in samples(size=(32, 40))]
    use = probe_state(refiner, known, segmenter)
    through, alone = ConfusionMatrix(K), ConfusionMatrix(K)
    for sample in known:
        through.update(refiner.codec(sample.mask[None]).argmax(1), sample.mask[None])
        alone.update(segmenter(sample.image[None]).labels, sample.mask[None])
    assert use.truth[0] == pytest.approx(through.compute().miou)
    assert use.base_alone == pytest.approx(alone.compute().miou)


def test_images_without_labels_are_no_number() -> None:
    blank = [replace(s, mask=torch.full_like(s.mask, IGNORE)) for s in samples(1)]
    use = probe_state(MaskRefiner(config()), blank, segmenter)
    assert math.isnan(use.truth[0])
    assert "cannot be told" in use.reading


class Stripes:
    class_names = ("a", "b", "c")

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Sample:
        return replace(samples(1, (16, 20))[0], name=str(index))


def test_a_report_probes_the_first_refiner_on_sixteen_images() -> None:
    rows = refiner_rows(
        [Copying(config())], [], flip_segmenter=segmenter, num_classes=K, steps=(1, 2)
    )
    report = evaluate(Stripes(), segmenter, rows, title="stripes", progress=False, pictures=0)
    assert report.state_use is not None
    assert report.state_use.images == 16
    plain = Row(name="base", predictors=(lambda image, base, name: base.probs,))
    alone = evaluate(Stripes(), segmenter, [plain], title="base", progress=False, pictures=0)
    assert alone.state_use is None


@pytest.mark.skipif(not (WEIGHTS / "earth-small").is_dir(), reason="earth-small is not bundled")
def test_the_bundled_refiner() -> None:
    data = earth("test")
    use = probe_state(
        MaskRefiner.from_pretrained("earth-small"),
        [data[i] for i in (0, 20)],
        FPNSegmenter.from_pretrained("earth-small"),
    )
    assert use.images == 2
    # the state was its own first prediction: it is read, and trusted little
    assert use.base[-1] < use.truth[-1] < use.base[-1] + 0.1
