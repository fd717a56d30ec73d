"""Known labels: they stand in the state and in the answer, and training shows such."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from crispmask.data.marks import disc, innermost
from crispmask.data.regions import regions_of
from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.evaluate.corrections import clicks_on, known_after, mended, spread, untouched
from crispmask.models.ensemble import refine_ensemble
from crispmask.models.evidence import commonest, pasted, without
from crispmask.models.interactive import Correction
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import (
    ProcessName,
    RefinerConfig,
    Sampling,
    condition_channels,
    num_states,
)
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.unet import MaskUNet, MaskUNetConfig
from crispmask.predict import refine_windows
from crispmask.recipes import earth_evidence
from crispmask.shapes import IGNORE, Mask, Time
from crispmask.train import objectives
from crispmask.train.batches import Batch, Stored, evenly
from crispmask.train.configs import RefinerTrainConfig
from crispmask.train.damage import damaged, holes
from crispmask.train.evidence import Evidence, EvidenceConfig, click, simulate, stroke
from crispmask.train.objectives import RefinerObjective
from crispmask.train.run import partly_labelled

NAMES = ("land", "water", "cloud")


def refiner(
    *, process: ProcessName = "uniform", evidence: bool = True, state_input: bool = True
) -> MaskRefiner:
    """A refiner whose answer depends on all of its input."""
    torch.manual_seed(0)
    network = MaskUNetConfig(
        num_classes=3,
        cond_channels=condition_channels("probs", 3, stride=2),
        num_states=num_states(3, process),
        widths=(8, 16),
        state_input=state_input,
        evidence=evidence,
    )
    settings = RefinerConfig(class_names=NAMES, network=network, process=process, holes=0.5)
    model = MaskRefiner(settings)
    nn.init.normal_(model.network.classifier.weight, std=0.5)
    if state_input or evidence:
        nn.init.normal_(model.network.stem_state.weight)
    return model


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 3, 17, 23, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def base(image: Tensor) -> BaseOutput:
    logits = torch.randn(1, 3, 17, 23, generator=torch.Generator().manual_seed(2))
    return BaseOutput.from_logits(logits)


@pytest.fixture
def known() -> Mask:
    labels = torch.full((1, 17, 23), IGNORE)
    labels[0, 3:6, 4:9] = 2
    labels[0, 16, 22] = 1
    return labels


# the answer


@pytest.mark.parametrize("process", ["uniform", "absorbing", "mixed"])
@pytest.mark.parametrize("state_input", [True, False])
def test_known_pixels_come_back_and_change_others(
    image: Tensor, base: BaseOutput, known: Mask, process: ProcessName, state_input: bool
) -> None:
    model = refiner(process=process, state_input=state_input)
    plain, told = model(image, base), model(image, base, known=known)
    certain = known != IGNORE
    assert (told.labels[certain] == known[certain]).all()
    assert (told.probs.amax(1)[certain] == 1).all()
    elsewhere = ~certain[:, None].expand_as(plain.probs)
    assert (told.probs - plain.probs)[elsewhere].abs().max() > 1e-3


@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
def test_nothing_known_is_exactly_the_plain_answer(
    image: Tensor, base: BaseOutput, guidance_scale: float
) -> None:
    model = refiner()
    model.config = replace(model.config, condition_dropout=0.1)
    nothing = np.full((17, 23), IGNORE)
    options = {"num_inference_steps": 3, "guidance_scale": guidance_scale}
    plain, told = model(image, base, **options), model(image, base, known=nothing, **options)
    assert torch.equal(plain.probs, told.probs)


def test_guidance_is_from_an_answer_that_knows_them_too(
    image: Tensor, base: BaseOutput, known: Mask
) -> None:
    model = refiner()
    model.config = replace(model.config, condition_dropout=0.1)
    padded, seen = model.pad(image, base)
    state = model.known_state(known)
    x_t, t = torch.zeros_like(state), torch.ones(1)
    bound = model.bind(padded, seen, guidance_scale=0.0, known=state)
    alone = model.condition(padded, seen, keep=torch.zeros(1), known=state)
    torch.testing.assert_close(bound.denoise(x_t, t), model.state_logits(x_t, alone, t))


def test_the_state_holds_them_at_every_call(
    image: Tensor, base: BaseOutput, known: Mask, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = refiner()
    seen: list[Tensor] = []
    forward = MaskUNet.forward

    def watched(
        self: MaskUNet, x_t: Mask, stem: Tensor, t: Time, known: Mask | None = None
    ) -> Tensor:
        assert known is not None
        seen.append(known)
        return forward(self, x_t, stem, t, known)

    monkeypatch.setattr(MaskUNet, "forward", watched)
    model(image, base, known=known, num_inference_steps=4)
    state = model.known_state(known)
    assert len(seen) == 4
    assert all(torch.equal(labels, state) for labels in seen)
    assert (state == 2).sum() > 1
    assert (state == 1).sum() == 1


def test_noise_below_a_known_label_does_not_matter(known: Mask) -> None:
    network = refiner().network
    stem = torch.zeros(1, 8, 10, 12)
    state = torch.full((1, 10, 12), IGNORE)
    state[0, 2:5, 3:6] = 1
    first, second = torch.zeros(2, 1, 10, 12, dtype=torch.long)
    second[state != IGNORE] = 2
    t = torch.ones(1)
    assert torch.equal(network(first, stem, t, state), network(second, stem, t, state))
    nn.init.normal_(network.certain)
    as_noise = torch.where(state != IGNORE, state, first)
    assert not torch.equal(network(first, stem, t, state), network(as_noise, stem, t))


def test_windows_see_their_part(image: Tensor, base: BaseOutput, known: Mask) -> None:
    model = refiner(process="absorbing")
    whole = model(image, base, known=known)
    sampling = Sampling()
    windowed = refine_windows(model, image, base, known=known, window=16, overlap=8)
    assert (windowed.labels[known != IGNORE] == known[known != IGNORE]).all()
    plain = refine_windows(model, image, base, window=16, overlap=8, sampling=sampling)
    assert (windowed.probs - plain.probs)[:, :, 8:10].abs().max() > 1e-3
    assert torch.equal(refine_windows(model, image, base, known=known).probs, whole.probs)


@pytest.mark.parametrize("steps", [1, 3])
def test_correcting_answers_as_the_refiner_does(
    image: Tensor, base: BaseOutput, known: Mask, steps: int
) -> None:
    model = refiner()
    correction = Correction(model, image, base)
    sampling = Sampling(num_inference_steps=steps)
    for now in (None, known, torch.full_like(known, IGNORE)):
        expected = model(image, base, known=now, num_inference_steps=steps)
        assert torch.equal(correction(now, sampling=sampling).probs, expected.probs)


def test_one_image_is_corrected_whatever_becomes_of_its_base(
    image: Tensor, base: BaseOutput, known: Mask
) -> None:
    two, both = image.expand(2, -1, -1, -1), base.probs.expand(2, -1, -1, -1)
    with pytest.raises(InputError, match="one image is corrected at a time, got 2"):
        Correction(refiner(), two, both)
    correction = Correction(refiner(), image, base)
    before = correction(known).probs
    base.probs.fill_(1 / 3)
    assert torch.equal(correction(known).probs, before)


def test_saved_and_loaded(image: Tensor, base: BaseOutput, known: Mask, tmp_path: Path) -> None:
    model = refiner()
    nn.init.normal_(model.network.certain)
    model.save_pretrained(tmp_path)
    again = MaskRefiner.from_pretrained(tmp_path)
    first, second = (m(image, base, known=known).probs for m in (model, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (torch.full((17, 23), 3), "ids from 0 to 2"),
        (torch.zeros(1, 17, 24).long(), "size of the images, 1 of 17x23, got 1 of 17x24"),
        (torch.zeros(17, 23), "integers"),
        (torch.ones(17, 23, dtype=torch.bool), "integers of shape .* got torch.bool"),
        (torch.zeros(0, 0).long(), r"integers of shape .* \(0, 0\)"),
        ([[1, 2], [3]], "rows of one length"),
        (torch.zeros(1, 1, 17, 23).long(), "integers of shape"),
        ("nowhere.png", "does not exist"),
        ("strokes.geojson", "read them with crispmask.read_known"),
    ],
)
def test_wrong_evidence_is_refused(
    image: Tensor, base: BaseOutput, wrong: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        refiner()(image, base, known=wrong)


def test_all_known_and_untrained_are_said(image: Tensor, base: BaseOutput, known: Mask) -> None:
    every = torch.ones(17, 23, dtype=torch.long)
    with pytest.warns(UserWarning, match="every pixel of image '0' is known"):
        out = refiner()(image, base, known=every)
    assert (out.labels == 1).all()
    two, probs = image.expand(2, -1, -1, -1), base.probs.expand(2, -1, -1, -1)
    with pytest.warns(UserWarning, match="every pixel of image 'b' is known"):
        refiner()(two, probs, known=torch.stack([known[0], every]), names=["a", "b"])
    with pytest.warns(UserWarning, match="trained without known labels"):
        refiner(evidence=False)(image, base, known=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refiner()(image, base, known=known)


def test_warnings_point_at_who_called(image: Tensor, base: BaseOutput, known: Mask) -> None:
    plain = refiner(evidence=False)
    for call in (
        lambda: plain(image, base, known=known),
        lambda: refine_windows(plain, image, base, known=known),
        lambda: Correction(plain, image, base)(known),
    ):
        with pytest.warns(UserWarning, match="trained without known labels") as caught:
            call()
        assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (torch.full((17, 23), 7), "True, 1 or 255 .* with values up to 7"),
        (torch.rand(17, 23), "True, 1 or 255 .* got torch.float32"),
        (torch.ones(1, 1, 17, 23), r"got torch.float32 of shape \(1, 1, 17, 23\)"),
        (torch.ones(17, 22), "missing pixels must have the size of the images"),
        ("clouds.png", "got the path clouds.png; read the picture"),
    ],
)
def test_wrong_missing_pixels_are_refused(
    image: Tensor, base: BaseOutput, wrong: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        refiner()(image, base, missing=wrong)


def test_kinds_of_missing_pixels(image: Tensor, base: BaseOutput) -> None:
    model, missing = refiner(), torch.zeros(17, 23, dtype=torch.bool)
    missing[4:10, 6:14] = True
    wanted = model(image, base, missing=missing).probs
    for same in (missing.float(), 255 * missing.to(torch.uint8), missing[None].numpy()):
        assert torch.equal(model(image, base, missing=same).probs, wanted)


def test_an_ensemble_is_told_what_is_known(image: Tensor, base: BaseOutput, known: Mask) -> None:
    missing = torch.zeros(17, 23, dtype=torch.bool)
    missing[4:10, 6:14] = True
    told: dict[str, Any] = {"known": known, "missing": missing}
    model = refiner()
    out = refine_ensemble(model, image, base, ensemble_size=2, **told)
    each = [model(image, base, seed=seed, **told).probs for seed in (0, 1)]
    torch.testing.assert_close(out.probs, (each[0] + each[1]) / 2)
    assert (out.labels == known)[known != IGNORE].all()


def test_known_labels_stand_in_the_trace(image: Tensor, base: BaseOutput, known: Mask) -> None:
    model = refiner()
    state = model.known_state(known)
    out = model(image, base, known=known, num_inference_steps=3, keep_trace=True)
    for labels in out.trace:
        assert (labels == state)[state != IGNORE].all()


def test_a_correction_has_no_guidance(image: Tensor, base: BaseOutput) -> None:
    with pytest.raises(InputError, match="no guidance, got a guidance_scale of 2"):
        Correction(refiner(), image, base)(sampling=Sampling(guidance_scale=2.0))


def test_few_known_pixels_of_many_classes_take_little_memory() -> None:
    known = torch.full((1, 64, 64), IGNORE)
    known[0, 3:5, 3] = 7
    blocks = known.view(1, 32, 2, 32, 2).transpose(2, 3).flatten(3)
    votes = F.one_hot(blocks.where(blocks != IGNORE, 9), 10).sum(3)[..., :9]
    wanted = votes.argmax(-1).where(votes.sum(-1) > 0, IGNORE)
    assert torch.equal(commonest(known, 2, num_classes=9), wanted)
    probs = torch.rand(1, 9, 64, 64).softmax(1)
    one_hot = F.one_hot(known.clamp(max=8), 9).movedim(-1, 1).float()
    expected = torch.where((known != IGNORE)[:, None], one_hot, probs)
    before = probs.clone()
    assert torch.equal(pasted(probs, known), expected)
    assert torch.equal(probs, before)


def test_commonest_label_of_a_block() -> None:
    u = IGNORE
    known = torch.tensor([[[u, u, 1, 2], [u, u, 2, u], [0, 1, u, 2], [u, u, u, u]]])
    assert commonest(known, 2, num_classes=3).tolist() == [[[u, 2], [0, 2]]]


@pytest.mark.parametrize("steps", [1, 3])
def test_missing_pixels_say_nothing(image: Tensor, base: BaseOutput, steps: int) -> None:
    model = refiner()
    missing = torch.zeros(17, 23, dtype=torch.bool)
    missing[4:10, 6:14] = True
    other = torch.where(missing, 1 - image, image)
    confused = BaseOutput(probs=torch.where(missing, base.probs.flip(1), base.probs))
    options = {"num_inference_steps": steps, "missing": missing}
    first = model(image, base, **options)
    assert torch.equal(first.probs, model(other, confused, **options).probs)
    assert not torch.equal(first.probs, model(image, base, num_inference_steps=steps).probs)


def test_the_nearest_pixels_speak_for_missing_ones(image: Tensor, base: BaseOutput) -> None:
    missing = torch.zeros(1, 17, 23, dtype=torch.bool)
    missing[0, :, 3:6] = True
    pixels, filled = without(image, base, missing)
    assert (pixels[..., 3:6] == 0.5).all()
    assert torch.equal(pixels[..., 6:], image[..., 6:])
    assert torch.equal(filled.probs[..., 3], base.probs[..., 2])
    assert torch.equal(filled.probs[..., 5], base.probs[..., 6])
    assert torch.equal(filled.probs[..., 6:], base.probs[..., 6:])
    _, nothing = without(image, base, torch.ones_like(missing))
    assert (nothing.probs == 1 / 3).all()


def test_start_from_another_mask(image: Tensor, base: BaseOutput) -> None:
    model = refiner()
    image, base = image[..., :16, :20], BaseOutput(probs=base.probs[..., :16, :20])
    as_base = model(image, base, num_inference_steps=2, start="base")
    coarse = model.base_state(base, model.condition(image, base).log_base)
    same = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    given = model(image, base, num_inference_steps=2, start=same)
    assert torch.equal(as_base.probs, given.probs)
    other = model(image, base, num_inference_steps=2, start=(same + 1) % 3)
    assert not torch.equal(as_base.probs, other.probs)
    with pytest.raises(InputError, match="size of the images"):
        model(image, base, start=torch.zeros(5, 5, dtype=torch.long))


def test_drawn_estimates_differ_by_seed_in_their_answer(image: Tensor, base: BaseOutput) -> None:
    model = refiner(process="absorbing")
    options = {"num_inference_steps": 3}

    def apart(**more: str) -> Tensor:
        first, second = (model(image, base, seed=seed, **options, **more).probs for seed in (0, 1))
        mean: Tensor = (first - second).abs().mean()
        return mean

    assert apart(estimate="sample") > apart()


# training


def blocks(generator: torch.Generator, size: Sequence[int] = (4, 5)) -> Mask:
    """Masks of blocks of 8 x 8 pixels, the corner unknown."""
    small = torch.randint(3, (2, *size), generator=generator)
    masks = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    masks[:, :6, :6] = IGNORE
    return masks


@given(st.integers(0, 10_000))
def test_marks_are_true_and_on_what_is_wrong(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = blocks(generator)
    base = masks.clone()
    base[:, 8:16, 8:24] = 1
    base[base == IGNORE] = 0
    config = EvidenceConfig(most=8, wrong=1.0, errors=0.0)
    found = simulate(masks, base, config, num_classes=3, generator=generator)
    marked = found.known != IGNORE
    assert (found.known[marked] == masks[marked]).all()
    assert (found.regions[marked] == masks[marked]).all()  # the mark lies in its region
    assert (masks != base)[marked].all()
    assert marked.any() or not (masks != base)[masks != IGNORE].any()


def test_number_and_errors_of_marks() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = blocks(generator)
    base = (masks + 1) % 3
    lies = EvidenceConfig(most=20, errors=1.0)
    found = simulate(masks, base, lies, num_classes=3, generator=generator)
    marked = found.known != IGNORE
    assert marked.any()
    assert (found.known[marked] != masks[marked]).all()
    assert (found.regions == IGNORE).all()  # what is wrong is not learned as the region's truth

    def number(most: int) -> int:
        config = EvidenceConfig(most=most, strokes=0)
        found = simulate(masks[:1], base[:1], config, num_classes=3, generator=generator)
        return len(regions_of(found.known[0]))

    assert {number(2) for _ in range(30)} == {1, 2}
    counts = [number(20) for _ in range(30)]
    assert min(counts) <= 2
    assert max(counts) >= 6


def test_same_seed_same_marks() -> None:
    masks = blocks(torch.Generator().manual_seed(3))
    config = EvidenceConfig()
    first, second = (
        simulate(masks, masks, config, num_classes=3, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(first.known, second.known)


def test_clicks_and_strokes_stay_inside() -> None:
    inside = disc((24, 24), 12, 12, 8) & ~disc((24, 24), 12, 12, 3)
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        for draw in (click, stroke):
            mark = draw(inside, 3, generator)
            assert mark.any()
            assert not (mark & ~inside).any()


def test_innermost_pixel() -> None:
    inside = torch.zeros(9, 11, dtype=torch.bool)
    inside[1:8, 1:8] = True
    assert innermost(inside) == (4, 4)
    assert innermost(torch.ones(5, 5, dtype=torch.bool)) == (2, 2)  # the edge is a border


@pytest.mark.parametrize(
    "wrong",
    [
        {"wrong": 1.5},
        {"errors": -0.1},
        {"most": 0},
        {"region_weight": -1.0},
        {"region_weight": float("nan")},
    ],
)
def test_config_is_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EvidenceConfig(**wrong)  # type: ignore[arg-type]


def test_evidence_needs_labels_as_state() -> None:
    with pytest.raises(ValueError, match="evidence needs"):
        replace(earth_evidence(), conditioning="features")


def objective(model: MaskRefiner, weight: float) -> RefinerObjective:
    config = replace(
        earth_evidence(),
        evidence=EvidenceConfig(region_weight=weight),
        process="absorbing",
        dice_weight=0.0,
    )
    assert isinstance(config, RefinerTrainConfig)
    return RefinerObjective(model, config)


def crops() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        masks=blocks(generator),
        maps=torch.rand(2, 3, 16, 20, generator=generator).softmax(1),
        images=torch.rand(2, 3, 32, 40, generator=generator),
        labelled=torch.ones(2, dtype=torch.bool),
    )


def test_training_learns_from_marks_and_their_regions() -> None:
    model = refiner(process="absorbing")
    losses = [
        objective(model, weight)(crops(), 0.9, torch.Generator().manual_seed(1))
        for weight in (0.0, 0.5)
    ]
    assert losses[1] > losses[0]
    losses[1].backward()
    for parameter in (model.network.certain, model.network.embed.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_marks_lie_on_what_the_network_itself_has_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    model = refiner(process="absorbing")
    assert model.network.classifier.bias is not None
    with torch.no_grad():
        model.network.classifier.bias[2] = 50.0  # it answers 2 whatever it sees
    corrected = []

    def watched(masks: Mask, answer: Mask, config: EvidenceConfig, **rest: Any) -> Evidence:
        corrected.append(answer)
        return simulate(masks, answer, config, **rest)

    monkeypatch.setattr(objectives, "simulate", watched)
    objective(model, 1.0)(crops(), 0.9, torch.Generator().manual_seed(1))
    (answer,) = corrected
    assert (answer == 2).all()


def test_to_a_network_that_reads_no_marks_they_make_no_difference() -> None:
    control = refiner(process="absorbing", state_input=False)
    deaf = objective(control, 0.0)
    with torch.no_grad():
        for stem in (control.network.stem_state, control.network.stem_near):
            stem.weight.zero_()
    plain = RefinerObjective(control, replace(deaf.settings, evidence=None))
    found = [model(crops(), 0.9, torch.Generator().manual_seed(1)) for model in (deaf, plain)]
    torch.testing.assert_close(*found)


def test_unlabelled_images_are_learned_as_masks_alone() -> None:
    model = refiner()
    settings = replace(earth_evidence(), process="uniform", evidence=None, hard_labels=0.0)
    generator = torch.Generator().manual_seed(0)
    masks = blocks(generator)
    first, second = torch.rand(2, 2, 3, 32, 40, generator=generator)
    maps = torch.rand(2, 3, 16, 20, generator=generator).softmax(1)

    def loss(images: Tensor, labelled: bool) -> Tensor:
        every = torch.full((2,), labelled)
        batch = Batch(images=images, masks=masks, labelled=every, maps=maps)
        found: Tensor = RefinerObjective(model, settings)(
            batch, 0.9, torch.Generator().manual_seed(1)
        )
        return found

    assert loss(first, True) != loss(second, True)
    assert loss(first, False) == loss(second, False)


def test_a_share_of_images_is_spread_evenly() -> None:
    assert evenly(10, 0.2) == [False] * 4 + [True] + [False] * 4 + [True]
    assert sum(evenly(374, 0.05)) == 18
    assert all(evenly(7, 1.0))
    with pytest.raises(InputError, match=r"0.05 of 10 images are none; take 0.1 or more"):
        evenly(10, 0.05)


def test_masks_of_the_others_are_half_of_what_is_drawn() -> None:
    seen = [
        Stored(image=torch.full((3, 4, 4), i, dtype=torch.uint8), mask=torch.zeros(4, 4).byte())
        for i in range(10)
    ]
    settings = replace(earth_evidence(), labelled=0.2)
    labels = [(int(item.image[0, 0, 0]), item.labelled) for item in partly_labelled(seen, settings)]
    assert {place for place, labelled in labels if labelled} == {4, 9}
    assert sum(labelled for _, labelled in labels) == len(labels) / 2 == 8
    alone = partly_labelled(seen, replace(settings, other_masks=False))
    assert [int(item.image[0, 0, 0]) for item in alone] == [4, 9]
    assert partly_labelled(seen, replace(settings, labelled=1.0)) == seen


def test_holes_are_rectangles_or_clouds() -> None:
    for clouds in (0.0, 1.0):
        generator = torch.Generator().manual_seed(4)
        hidden = holes(20, (32, 40), 1.0, generator, clouds=clouds)
        assert (hidden.float().mean((1, 2)) >= 1 / 64 - 0.002).all()
        assert (hidden.float().mean((1, 2)) <= 1 / 4 + 0.02).all()
        boxes = [one.any(0).sum() * one.any(1).sum() for one in hidden]
        filled = [int(one.sum()) == int(box) for one, box in zip(hidden, boxes, strict=True)]
        assert sum(filled) == (0 if clouds else 20)
    assert not holes(2, (32, 40), 0.0, generator).any()


def test_holes_hide_image_and_base(monkeypatch: pytest.MonkeyPatch) -> None:
    hole = torch.zeros(2, 32, 40, dtype=torch.bool)
    hole[:, 8:24, 8:32] = True
    monkeypatch.setattr(objectives, "holes", lambda *_: hole)
    settings = replace(earth_evidence(), process="uniform", evidence=None)
    generator = torch.Generator().manual_seed(0)
    masks, images = blocks(generator), torch.rand(2, 3, 32, 40, generator=generator)
    maps = torch.rand(2, 3, 16, 20, generator=generator).softmax(1)
    inner = torch.zeros(16, 20, dtype=torch.bool)
    inner[6:10, 6:14] = True  # enlarged, it stays within the hole
    batches = [
        Batch(images=i, masks=masks, labelled=torch.ones(2, dtype=torch.bool), maps=m)
        for i in (images, images.where(~hole[:, None], 1 - images))
        for m in (maps, maps.where(~inner, maps.flip(1)))
    ]

    def losses(share: float) -> set[float]:
        objective = RefinerObjective(refiner(), replace(settings, holes=share))
        return {objective(batch, 0.2, torch.Generator().manual_seed(1)).item() for batch in batches}

    assert len(losses(0.0)) == 4
    assert len(losses(1.0)) == 1


# damage


def test_damage_is_structured_and_never_on_the_unknown() -> None:
    masks = blocks(torch.Generator().manual_seed(5), (8, 8))
    probs = torch.full((2, 3, 64, 64), 1 / 3)
    results = [damaged(masks, probs, torch.Generator().manual_seed(i)) for i in range(8)]
    changed = torch.stack([(result != masks).float().mean() for result in results])
    assert 0 < changed.mean() < 0.6
    assert changed.max() > changed.min()
    for result in results:
        assert (result[masks == IGNORE] == IGNORE).all()
        assert set(torch.unique(result).tolist()) <= {0, 1, 2, IGNORE}
        regions = sum(len(regions_of(mask)) for mask in result)
        assert regions < 0.1 * (result != masks).sum() + 200  # patches, not single pixels


def test_damage_takes_labels_that_the_base_confuses() -> None:
    masks = blocks(torch.Generator().manual_seed(5), (8, 8)) % 2
    probs = torch.zeros(2, 3, 64, 64)
    probs[:, 2] = 1.0
    found = {
        int(label)
        for seed in range(4)
        for label in torch.unique(
            damaged(masks, probs, torch.Generator().manual_seed(seed))
        ).tolist()
    }
    assert 2 in found


# corrections in evaluation


def test_clicks_lie_in_the_largest_errors() -> None:
    truth = torch.zeros(20, 30, dtype=torch.long)
    labels = truth.clone()
    labels[2:6, 2:6] = 1  # 16 wrong pixels
    labels[10:18, 10:20] = 2  # 80
    labels[0, 29] = 1
    clicks = clicks_on(truth, labels, 2)
    assert [int(c.region.sum()) for c in clicks] == [80, 16]
    known = known_after(clicks, truth.shape)
    told = known != IGNORE
    assert (known[told] == 0).all()
    assert not (told & (labels == 0)).any()
    assert told.sum() < 96
    assert (mended(labels, clicks) != truth).sum() == 1
    ruled = spread(labels, clicks, radius=3)
    assert (ruled != labels).sum() == 29 + 16  # a disc of 29 pixels; all of the smaller region
    assert not (ruled != labels)[labels == 0].any()
    assert torch.unique(known_after([], truth.shape)).tolist() == [IGNORE]


def test_the_rule_keeps_what_was_told_and_takes_the_nearest_click() -> None:
    truth = torch.full((12, 20), 1)
    truth[:, 10:] = 2
    clicks = clicks_on(truth, torch.zeros_like(truth), 2)
    ruled = spread(torch.zeros_like(truth), clicks, radius=12)
    assert torch.equal(ruled, truth)  # each half lies nearer to its own click
    answer = torch.zeros_like(truth)
    answer[:, 4:] = 3  # the answer's border runs through what one click tells
    click = clicks_on(torch.ones_like(truth), torch.zeros_like(truth), 1)[0]
    moved = replace(click, place=(6, 5), pixels=disc(truth.shape, 6, 5, 3))
    ruled = spread(answer, [moved], radius=5)
    assert (ruled[moved.pixels] == 1).all()
    assert (ruled[:, :2] == 0).all()


def test_what_was_touched_does_not_count() -> None:
    sample = Sample(image=torch.zeros(3, 4, 4), mask=torch.ones(4, 4).long(), name="a")

    class Data:
        class_names = ("x", "y")
        blocks = ("here",)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Sample:
            return sample

    known = torch.full((4, 4), IGNORE)
    known[0] = 1
    data = untouched(Data(), {"a": known})
    assert data[0].mask.tolist() == [[IGNORE] * 4] + [[1] * 4] * 3
    assert (len(data), data.class_names, data.blocks) == (1, ("x", "y"), ("here",))
