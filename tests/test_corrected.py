"""What a report says of corrections: clicks on errors, told to the refiner or pasted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crispmask.data.sample import Sample
from crispmask.evaluate import Row, evaluate, refiner_rows
from crispmask.evaluate.corrected import (
    CONTROL,
    COUNTS,
    PASTED,
    RULE,
    RULED,
    TOLD,
    probe_corrections,
)
from crispmask.evaluate.corrections import clicks_on, known_after, spread
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.evidence import pasted
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.unet import MaskUNetConfig
from crispmask.shapes import IGNORE, Image

K = 3
NAMES = ("land", "water", "cloud")


class Patches:
    """Noisy patches of three classes, some pixels without a label."""

    class_names = NAMES

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        rng = torch.Generator().manual_seed(index)
        mask = torch.randint(K, (4, 5), generator=rng)
        mask = mask.repeat_interleave(8, 0).repeat_interleave(8, 1)
        image = F.one_hot(mask, K).movedim(-1, 0) + torch.randn(3, 32, 40, generator=rng)
        mask = mask.masked_fill(torch.rand(mask.shape, generator=rng) < 0.1, IGNORE)
        return Sample(image=image.clamp(0, 1), mask=mask, name=str(index))


def samples() -> list[Sample]:
    return [Patches()[i] for i in range(3)]


def segmenter(image: Image) -> BaseOutput:
    smooth = F.avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)
    return BaseOutput(probs=(8 * smooth).softmax(1))


def refiner(*, evidence: bool = True, state_input: bool = True) -> MaskRefiner:
    """A refiner whose answer depends on what it is told."""
    torch.manual_seed(0)
    channels = condition_channels("probs", K, stride=2)
    network = MaskUNetConfig(
        num_classes=K,
        cond_channels=channels,
        widths=(8, 16),
        evidence=evidence,
        state_input=state_input,
    )
    model = MaskRefiner(RefinerConfig(class_names=NAMES, network=network))
    nn.init.normal_(model.network.classifier.weight, std=0.2)
    if evidence:
        nn.init.normal_(model.network.stem_state.weight)
    return model


def test_scores_are_those_of_pixels_that_no_click_told() -> None:
    model = refiner()
    found = probe_corrections(model, samples(), segmenter)
    assert (found.counts, found.images) == (COUNTS, 3)
    for place in (0, 3):
        scores = {name: ConfusionMatrix(K) for name in (PASTED, RULED, TOLD)}
        for sample in samples():
            image, base = sample.image[None], segmenter(sample.image[None])
            plain = model(image, base, names=[sample.name])
            clicks = clicks_on(sample.mask, plain.labels[0], COUNTS[place])
            known = known_after(clicks, sample.mask.shape)
            truth = sample.mask.where(known == IGNORE, IGNORE)
            told = model(image, base, known=known, names=[sample.name]).labels
            scores[TOLD].update(told, truth[None])
            scores[PASTED].update(pasted(plain.probs, known[None]).argmax(1), truth[None])
            ruled = spread(plain.labels[0], clicks, radius=RULE)
            scores[RULED].update(ruled[None], truth[None])
        for name, counts in scores.items():
            assert found.rows[name][place] == pytest.approx(counts.compute().miou)
    assert len({row[0] for row in found.rows.values()}) == 1  # without clicks all are alike
    assert len({found.rows[name][3] for name in (PASTED, RULED, TOLD)}) == 3


def test_the_control_is_told_the_same_clicks() -> None:
    model, control = refiner(), refiner(state_input=False)
    found = probe_corrections(model, samples(), segmenter, control=control)
    alone = probe_corrections(model, samples(), segmenter)
    assert list(found.rows) == [*list(alone.rows)[:2], CONTROL, TOLD]
    assert all(found.rows[name] == row for name, row in alone.rows.items())
    counts = ConfusionMatrix(K)
    for sample in samples():
        image, base = sample.image[None], segmenter(sample.image[None])
        plain = model(image, base, names=[sample.name]).labels[0]
        known = known_after(clicks_on(sample.mask, plain, COUNTS[3]), sample.mask.shape)
        truth = sample.mask.where(known == IGNORE, IGNORE)
        answer = control(image, base, known=known, names=[sample.name])
        counts.update(answer.labels, truth[None])
    assert found.rows[CONTROL][3] == pytest.approx(counts.compute().miou)
    assert found.rows[CONTROL] != found.rows[TOLD]


def test_the_picture_shows_an_image_its_clicks_and_both_answers() -> None:
    model = refiner()
    shown = probe_corrections(model, samples(), segmenter).example
    assert shown is not None
    sample = Patches()[int(shown.name)]
    assert (shown.truth == sample.mask.numpy()).all()
    told = shown.known != IGNORE
    assert 0 < told.sum() < told.size / 2
    assert (shown.known[told] == shown.truth[told]).all()
    assert (shown.after[told] == shown.known[told]).all()
    base = segmenter(sample.image[None])
    assert (shown.base == base.labels[0].numpy()).all()
    before = model(sample.image[None], base, names=[shown.name]).labels[0]
    assert (shown.before == before.numpy()).all()


def test_where_all_is_right_there_is_nothing_to_show() -> None:
    model = refiner()
    right = []
    for sample in samples():
        answer = model(sample.image[None], segmenter(sample.image[None]), names=[sample.name])
        right.append(Sample(image=sample.image, mask=answer.labels[0], name=sample.name))
    found = probe_corrections(model, right, segmenter)
    assert found.example is None
    assert all(set(row) == {1.0} for row in found.rows.values())


def test_an_image_with_fewer_errors_than_clicks_is_not_shown() -> None:
    model, nearly = refiner(), []
    for sample in samples():
        mask = model(sample.image[None], segmenter(sample.image[None]), names=[sample.name]).labels
        mask[0, 8, 8] = (mask[0, 8, 8] + 1) % K
        nearly.append(replace(sample, mask=mask[0]))
    assert probe_corrections(model, nearly, segmenter).example is None


def test_images_without_labels_are_no_number() -> None:
    blank = [replace(s, mask=torch.full_like(s.mask, IGNORE)) for s in samples()]
    found = probe_corrections(refiner(), blank, segmenter)
    assert found.example is None
    assert "cannot be told" in found.reading


@pytest.mark.parametrize(("evidence", "rows"), [(True, 4), (False, 3)])
def test_a_report_tells_a_control_that_learned_it(evidence: bool, rows: int) -> None:
    model, control = refiner(), refiner(evidence=evidence, state_input=False)
    table = refiner_rows([model], [control], flip_segmenter=segmenter, num_classes=K, steps=(1,))
    report = evaluate(Patches(), segmenter, table, title="patches", progress=False, pictures=0)
    assert report.corrections is not None
    assert len(report.corrections.rows) == rows


@pytest.mark.parametrize("evidence", [True, False])
def test_a_report_has_them_if_the_refiner_learned_evidence(evidence: bool, tmp_path: Path) -> None:
    model = refiner(evidence=evidence)
    rows = [
        Row(name="base", predictors=(lambda image, base, name: base.probs,)),
        Row(
            name="refined",
            predictors=(lambda image, base, name: model(image, base, names=[name]).probs,),
            refiner=model,
        ),
    ]
    report = evaluate(Patches(), segmenter, rows, title="patches", progress=False, pictures=0)
    _, page = report.write(tmp_path)
    html, record = page.read_text(encoding="utf-8"), report.to_json()["corrections"]
    if not evidence:
        assert report.corrections is None
        assert record is None
        assert 'id="corrections"' not in html
        return
    assert report.corrections is not None
    assert record["rows"][TOLD] == list(report.corrections.rows[TOLD])
    section = html[html.index('<section id="corrections">') : html.index('<section id="classes">')]
    assert report.corrections.reading in section
    assert section.count("<svg") == 1
    assert section.count("data:image/png;base64,") == 6
    for words in ("5 clicks", "refined after 5 clicks", "largest wrong regions of 3 images"):
        assert words in section
