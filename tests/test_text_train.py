"""Fine-tuning for words: whole runs on tiny backbones, the losses, resumption, and collapse."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from backbone_layouts import Layout, write_backbone
from crispmask.cli import main
from crispmask.data.transforms import AugmentConfig
from crispmask.errors import InputError
from crispmask.metrics.confusion import ConfusionMatrix
from crispmask.models.backbone import load_backbone
from crispmask.models.mask_images import known_latents
from crispmask.models.text_denoiser import Call
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.recipes import RECIPES
from crispmask.shapes import IGNORE
from crispmask.train import LoopConfig, TextTrainConfig, collapse, train
from crispmask.train.collapse import MaskMonitor, stop_if_collapsed
from crispmask.train.loop import Task, _groups, fit
from crispmask.train.lora import add_lora
from crispmask.train.queries import NO_WORD, TextBatch, words_of
from crispmask.train.text import Source, short_names, text_task
from crispmask.train.text_model import new_text_segmenter
from crispmask.train.text_objective import TextObjective, dice_of_present
from crispmask.train.text_scores import word_maps
from text_runs import AUGMENT, NAMES, log, stopping_at, text_config, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "shapes", NAMES)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures under other words, the ground as background."""
    return write_data(tmp_path_factory.mktemp("other") / "toys", ("background", "ball", "box"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_backbone(tmp_path_factory.mktemp("backbone"), "sd1")


# whole runs


def test_a_run_leaves_a_model_and_its_record(data: Path, backbone: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in backbone.rglob("*") if path.is_file()}
    output = train(text_config(data, backbone, loop={"eval_every": 1}), tmp_path / "run")
    assert {path: path.read_bytes() for path in backbone.rglob("*") if path.is_file()} == before

    model = TextSegmenter.from_pretrained(output)
    assert model.config.class_names == NAMES
    assert (model.config.start, model.config.mask_code, model.config.guided) == (
        "zeros",
        "binary",
        False,
    )
    state = load_file(output / "checkpoint" / "state.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[f"average.module.{name}"]), name
    start = load_backbone(backbone)
    vae = start.vae.state_dict()
    assert all(torch.equal(v, vae[k]) for k, v in model.codec.vae.state_dict().items())
    unet = start.unet.state_dict()
    assert not all(torch.equal(v, unet[k]) for k, v in model.unet.state_dict().items())

    record = json.loads((output / "run.json").read_text())
    assert record["settings"]["kind"] == "TextTrainConfig"
    assert (record["train_images"], record["val_images"], record["words"]) == (4, 2, 3)
    signs = {"val_foreground", "val_foreground_ratio", "val_empty", "val_latent_std_ratio"}
    for row in log(output):
        assert {"val_miou", "val_presence_ap", *signs} <= row.keys()
        weighted = {"latent": 1, "bce": 1, "dice": 1, "align": 0.5, "compete": 0, "presence": 0.1}
        total = sum(weight * row[f"loss_{name}"] for name, weight in weighted.items())
        assert row["loss"] == pytest.approx(total, rel=1e-5)
    card = (output / "README.md").read_text()
    assert "license:" not in card  # that of a backbone or data may allow less than ours
    assert f"# TextSegmenter for {data}" in card
    assert "ground, disc, box" in card
    assert f"| val_miou | {record['val_miou']:.4f} |" in card
    assert record["val_miou"] == pytest.approx(slow_miou(model, data))


def slow_miou(model: TextSegmenter, data: Path) -> float:
    """mIoU on validation, a word at a time and all in the open."""
    score = ConfusionMatrix(3)
    for i in range(2):
        picture = Image.open(data / "val" / "images" / f"{i}.png")
        image = torch.from_numpy(np.array(picture)).movedim(-1, 0)[None] / 255
        mask = torch.from_numpy(np.array(Image.open(data / "val" / "labels" / f"{i}.png"))).long()
        with torch.no_grad():
            z, step = model.look(image), torch.tensor([999])
            found = model.call(z, torch.zeros_like(z), step, model.words.encode([""]))
            pixels = model.align.pixels(found.features)
            scores = []
            for name in NAMES:
                states = model.words.encode([name])
                call = model.call(z, torch.zeros_like(z), step, states)
                logits = model.mask_logits(-call.output, call.features, image)
                align = model.align.scores(pixels, model.align.words(states.pooled))
                large = F.interpolate(align, (24, 20), mode="bilinear", align_corners=False)
                there = F.logsigmoid(model.align.presence(align))
                both = logits + model.config.align_weight * large
                scores.append(both[0, 0] + model.config.presence_weight * there[0, 0])
        score.update(torch.stack(scores).argmax(0)[None], mask[None])
    return score.compute().miou


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_code": "overlay", "steps": "many"},
        {"mask_code": "resize", "drop_prompt": 0.5},
        {"mask_code": "palette", "steps": "many"},
        {"mask_code": "bits"},
        {"pathway": False, "gradient_checkpointing": True},
        {"from_scratch": True, "bce_weight": 0.0, "dice_weight": 0.0},
        {"augment": replace(AUGMENT, short_side=16), "synonyms": False, "absent": 1},
    ],
    ids=str,
)
def test_kinds_of_runs(data: Path, backbone: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = text_config(data, backbone, loop={"steps": 1}, **changes)
    model = TextSegmenter.from_pretrained(train(config, tmp_path / "run"))
    assert model.config.mask_code == config.mask_code
    assert model.config.start == ("noise" if config.steps == "many" else "zeros")
    assert model.config.guided == (config.drop_prompt > 0)
    assert (model.pathway is not None) == config.pathway
    assert model.config.image_size == config.augment.short_side


def test_all_trained_parts_learn(data: Path, backbone: Path) -> None:
    """After a step whose gates are open, each trained parameter has a gradient."""
    model, objective, batch = parts(text_config(data, backbone, loop={"batch_size": 4}))
    assert model.pathway is not None
    for adapter in model.pathway.adapters.values():
        torch.nn.init.constant_(adapter.gate, 0.5)  # type: ignore[arg-type]
    objective(batch, 0.0, torch.Generator().manual_seed(0)).backward()
    without = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert all(p.grad is None for p in model.codec.parameters())


def test_the_loss_of_a_batch_falls(data: Path, backbone: Path) -> None:
    model, objective, batch = parts(text_config(data, backbone, loop={"batch_size": 4}))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(15):
        loss = objective(batch, 0.0, torch.Generator().manual_seed(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("layout", ["sd1", "sd2", "marigold"])
def test_the_command_trains(data: Path, tmp_path: Path, layout: Layout) -> None:
    backbone = write_backbone(tmp_path / "backbone", layout)
    arguments = ["train", "text", "--backbone", str(backbone), "--data", str(data)]
    arguments += ["--loop.steps", "1", "--loop.batch-size", "1", "--augment.crop", "16", "16"]
    arguments += ["--template", "{}", "--output", str(tmp_path / "run")]
    assert main(arguments) == 0
    model = TextSegmenter.from_pretrained(tmp_path / "run")
    assert model.config.class_names == NAMES
    model.save_pretrained(tmp_path / "again")
    again = TextSegmenter.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["text", "text-earth", "text-camvid"])
def test_recipes(name: str) -> None:
    config = RECIPES[name]()
    assert isinstance(config, TextTrainConfig)
    assert all(side % 32 == 0 for side in config.augment.crop)


# stop and resume


@pytest.mark.parametrize(
    "changes",
    [{"unet_rate_factor": 0.1, "fraction": 0.5}, {"steps": "many", "drop_prompt": 0.3}],
    ids=str,
)
def test_a_resumed_run_is_the_same(
    data: Path,
    other: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    loop = {"steps": 4, "save_every": 2, "eval_every": 3}
    both = (str(data), str(other))
    config = text_config(data, backbone, loop=loop, **{**changes, "data": both})
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(config, straight)
    with stopping_at(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train(config, resumed)
    train(config, resumed, resume=True)
    assert log(straight) == log(resumed)
    for name in ("heads", "unet/diffusion_pytorch_model", "checkpoint/state"):
        ours, theirs = (load_file(run / f"{name}.safetensors") for run in (straight, resumed))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {"val_miou_shapes", "val_miou_toys", "val_miou"} <= log(straight)[-1].keys()


# parts of a step


def parts(config: TextTrainConfig) -> tuple[TextSegmenter, TextObjective, TextBatch]:
    """Model, objective and first batch of a run."""
    torch.manual_seed(0)
    task, _ = text_task(config)
    objective = task.objective
    assert isinstance(objective, TextObjective)
    batch = task.draw(torch.Generator().manual_seed(0))
    assert isinstance(batch, TextBatch)
    return objective.model, objective, batch


def run(objective: TextObjective, batch: TextBatch) -> Tensor:
    loss: Tensor = objective(batch, 0.0, torch.Generator().manual_seed(0))
    return loss


def test_one_step_learns_minus_the_mask(
    data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From zeros at the last step v is -z_0; an oracle has no latent loss."""
    model, objective, batch = parts(text_config(data, backbone))
    z_image = model.look(batch.images)
    crops, words = batch.asked.nonzero().unbind(1)
    truth = batch.filled[crops] == objective.table.ids[0, words][:, None, None]
    z_0 = model.mask_latents(truth[:, None], batch.images[crops])
    slow = model.codec.encode((2 * truth.float() - 1)[:, None].expand(-1, 3, -1, -1))
    torch.testing.assert_close(z_0, slow)  # absent words share a picture
    call, seen = model.call, []

    def oracle(z: Tensor, z_t: Tensor, step: Tensor, states: Any) -> Call:
        seen.append((z_t, step))
        return Call(output=-z_0, features=call(z, z_t, step, states).features)

    monkeypatch.setattr(model, "call", oracle)
    generator = torch.Generator().manual_seed(0)
    latent, bce, _ = objective.masks_loss(batch, z_image, batch.asked, generator)
    assert latent.item() == pytest.approx(0, abs=1e-10)
    assert bce > 0
    ((z_t, step),) = seen
    assert not z_t.any()
    assert set(step.tolist()) == {999}
    monkeypatch.setattr(model, "call", call)
    latent, _, _ = objective.masks_loss(batch, z_image, batch.asked, generator)
    assert latent > 0


def test_many_steps_are_mostly_noisy(data: Path, backbone: Path) -> None:
    _, objective, _ = parts(text_config(data, backbone, steps="many"))
    steps = objective.steps(4000, torch.Generator().manual_seed(0))
    last = (steps == 999).float().mean().item()
    assert last == pytest.approx(0.5, abs=0.03)
    rest = steps[steps < 999].float()
    assert (int(rest.min()), int(rest.max())) < (100, 999)
    assert rest.mean().item() == pytest.approx(1000 * 2 / 3, abs=20)  # density 2 t / T


def test_unknown_pixels_carry_no_loss(data: Path, backbone: Path) -> None:
    """Latents: not in cells of unknown pixels, nor one around them. Pixels: not in themselves."""
    config = text_config(data, backbone, loop={"batch_size": 4})
    for weights, part in (
        ({"bce_weight": 0.0, "dice_weight": 0.0}, "unet.conv_out"),
        ({"latent_weight": 0.0}, "decoder.out"),
    ):
        changes: dict[str, Any] = {"align_weight": 0.0, "presence_weight": 0.0, **weights}
        model, objective, batch = parts(replace(config, **changes))
        batch.masks[:, :, 10:] = IGNORE
        found: list[Tensor] = []
        module = model.get_submodule(part)
        handle = module.register_forward_hook(lambda _, __, out, to=found: to.append(out))
        loss = run(objective, batch)
        handle.remove()
        (gradient,) = torch.autograd.grad(loss, found[-1])
        size = gradient.abs().amax((0, 1))  # both parts are at half the size of the crop
        if part == "unet.conv_out":
            known = known_latents(batch.masks, 2).any(0)[0]
            assert not known[:, 4:].any()
            assert torch.equal(size > 0, known)
        else:
            assert size[:, 5:].max() == 0
            assert size[:, :4].max() > 0
        batch.masks[:] = IGNORE
        assert run(objective, batch) == 0


@pytest.mark.parametrize("foreign", [(), ("tree", "red car")])
def test_words_and_presence_against_a_slow_version(
    data: Path, other: Path, backbone: Path, foreign: tuple[str, ...]
) -> None:
    both = (str(data), str(other))
    config = text_config(
        data, backbone, data=both, loop={"batch_size": 5}, absent=1, foreign=foreign
    )
    model, objective, batch = parts(config)
    assert set(batch.sources.tolist()) == {0, 1}
    generator = torch.Generator().manual_seed(0)
    found, _ = objective.words_loss(batch, model.look(batch.images), generator)
    cells, rivals, images = [], [], []
    for i, source in enumerate(batch.sources.tolist()):
        z = model.look(batch.images[i : i + 1])
        states = model.words.encode([""])
        features = model.call(z, torch.zeros_like(z), torch.tensor([999]), states).features
        words = NAMES if source == 0 else ("ball", "box")
        texts = model.align.words(model.words.encode(words).pooled)
        scores = model.align.scores(model.align.pixels(features), texts)
        small = batch.masks[i, 1::2, 1::2]  # nearest-exact of an even side
        for k in range(len(words)):
            label = k + source  # the second set begins with its background
            one = F.binary_cross_entropy_with_logits(
                scores[0, k], (small == label).float(), reduction="none"
            )
            cells.append(one[small != IGNORE])
            there = (batch.masks[i] == label).any().float()
            images.append(
                F.binary_cross_entropy_with_logits(model.align.presence(scores)[0, k], there)
            )
        for word in foreign:
            text = model.align.words(model.words.encode([word]).pooled)
            score = model.align.scores(model.align.pixels(features), text)
            nowhere = F.softplus(score[0, 0])  # the cross-entropy of "no"
            cells.append(nowhere[small != IGNORE])
            images.append(F.softplus(model.align.presence(score)[0, 0]))
        named = small.where(small != IGNORE, -1) - source
        worded = named >= 0  # neither unknown nor background
        rivals.append(
            scores[0].log_softmax(0).movedim(0, -1)[worded].gather(1, named[worded][:, None])
        )
    assert found["align"].item() == pytest.approx(torch.cat(cells).mean().item(), rel=1e-4)
    assert found["compete"].item() == pytest.approx(-torch.cat(rivals).mean().item(), rel=1e-4)
    assert found["presence"].item() == pytest.approx(torch.stack(images).mean().item(), rel=1e-4)


def test_hard_words_are_absent_and_of_the_own_data_set(
    data: Path, other: Path, backbone: Path
) -> None:
    both = (str(data), str(other))
    config = text_config(data, backbone, data=both, loop={"batch_size": 8}, absent=4)
    model, objective, batch = parts(config)
    batch.there[:], batch.asked[:] = False, False
    batch.there[:, 0], batch.asked[:, 0] = True, True
    generator = torch.Generator().manual_seed(0)
    _, hard = objective.words_loss(batch, model.look(batch.images), generator)
    expected = [[False, True, True] if s == 0 else [False, True, False] for s in batch.sources]
    assert hard.tolist() == expected


def test_rows_are_asked_in_their_own_words(data: Path, other: Path, backbone: Path) -> None:
    both = (str(data), str(other))
    config = text_config(data, backbone, data=both, loop={"batch_size": 8}, drop_prompt=0.5)
    model, objective, batch = parts(config)
    crops, said, masks = objective.rows(batch, batch.asked, torch.Generator().manual_seed(0))
    words = batch.asked.nonzero()[:, 1]
    names = (NAMES, ("ball", "box"))
    sentences = dict[int, str]()
    for crop, word, row, mask in zip(crops, words, said.tolist(), masks[:, 0], strict=True):
        source = int(batch.sources[crop])
        if row == NO_WORD:  # all that has a word; the ground is one in the first set alone
            assert torch.equal(mask, batch.filled[crop] >= source)
        else:
            assert torch.equal(mask, batch.filled[crop] == word + source)
            assert sentences.setdefault(row, names[source][word]) == names[source][word]
            expected = model.words.encode([names[source][word]]).pooled
            assert torch.equal(objective.states(torch.tensor([row])).pooled, expected)
    assert {NO_WORD, *sentences} == set(said.tolist())
    assert len(set(sentences.values())) >= 3


def test_early_states_teach_no_pixels(
    data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, objective, batch = parts(text_config(data, backbone, steps="many"))
    found = []
    for t in (400, 600):
        steps = partial(torch.full, fill_value=t)
        monkeypatch.setattr(objective, "steps", lambda n, _, steps=steps: steps((n,)))
        z_image = objective.model.look(batch.images)
        generator = torch.Generator().manual_seed(0)
        found.append(objective.masks_loss(batch, z_image, batch.asked, generator))
    assert min(*found[0][:1], *found[1]) > 0
    assert not any(found[0][1:])


def test_dice_counts_words_that_occur() -> None:
    truth = torch.zeros(3, 2, 2, dtype=torch.bool)
    truth[0, 0] = True
    truth[1] = True
    valid = torch.ones_like(truth)
    valid[1, 1] = False
    logits = torch.zeros(3, 2, 2)  # one half everywhere
    expected = ((1 - 2 * 1 / (2 + 2)) + (1 - 2 * 1 / (1 + 2))) / 2
    assert dice_of_present(logits, truth, valid).item() == pytest.approx(expected)
    assert dice_of_present(logits[2:], truth[2:], valid[2:]) == 0


def test_rates_of_the_backbone_and_of_new_parts(data: Path, backbone: Path) -> None:
    task, _ = text_task(text_config(data, backbone, unet_rate_factor=0.1))
    model = task.objective.model
    assert isinstance(model, TextSegmenter)
    groups = _groups(model, LoopConfig(steps=1), task.rate_factors)
    by_rate: dict[float, set[int]] = {}
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
        by_rate.setdefault(group["rate_factor"], set()).update(map(id, group["params"]))
    unet = set(map(id, model.unet.parameters()))
    everything = {id(p) for p in model.parameters() if p.requires_grad}
    assert by_rate == {0.1: unet, 1.0: everything - unet}


def test_a_random_unet_is_of_the_same_size(data: Path, backbone: Path) -> None:
    torch.manual_seed(0)
    words = [words_of("shapes", NAMES)]
    plain = new_text_segmenter(text_config(data, backbone), words)
    fresh = new_text_segmenter(text_config(data, backbone, from_scratch=True), words)
    assert {n: p.shape for n, p in plain.unet.named_parameters()} == {
        n: p.shape for n, p in fresh.unet.named_parameters()
    }
    assert dict(fresh.unet.config) | {"_use_default_values": 0} == dict(plain.unet.config) | {
        "_use_default_values": 0
    }
    old, new = plain.unet.conv_in.weight, fresh.unet.conv_in.weight
    assert not old[:, 4:].any()
    assert new[:, 4:].any()
    assert not torch.equal(old, new)


def test_fractions_are_nested_and_depend_on_the_seed(data: Path, backbone: Path) -> None:
    def chosen(fraction: float, seed: int) -> list[bytes]:
        config = text_config(data, backbone, fraction=fraction, loop={"seed": seed})
        task, facts = text_task(config)
        sources: list[Source] = task.draw.args[1]  # type: ignore[attr-defined]
        assert facts["train_images"] == len(sources[0].train)
        return [item.image.numpy().tobytes() for item in sources[0].train]

    whole, half, one = chosen(1.0, 0), chosen(0.5, 0), chosen(0.01, 0)
    assert (len(whole), len(half), len(one)) == (4, 2, 1)
    assert set(one) < set(half) < set(whole)
    assert half == chosen(0.5, 0)
    assert len({tuple(chosen(0.5, seed)) for seed in range(4)}) > 1


def test_held_out_words_are_never_asked_and_their_pixels_unknown(
    data: Path, other: Path, backbone: Path, tmp_path: Path
) -> None:
    config = text_config(
        data, backbone, data=(str(data), str(other)), loop={"batch_size": 8}, held_out=("box",)
    )
    model, objective, batch = parts(config)
    assert model.config.class_names == ("ground", "disc", "ball")
    assert objective.table.ids.tolist() == [[0, 1], [1, -1]]
    assert not (batch.masks == 2).any()
    assert (batch.masks == IGNORE).float().mean() > 0.05
    assert batch.asked.shape == (8, 2)
    train(config, tmp_path / "run")  # the scores still ask for all words
    with pytest.raises(InputError, match="held_out must name classes of the data, got tree"):
        text_task(replace(config, held_out=("tree",)))
    with pytest.raises(InputError, match="held_out leaves no word"):
        text_task(replace(config, held_out=("ball", "box")))
    with pytest.raises(InputError, match="in no image of the data, got Ball, which are among"):
        text_task(replace(config, held_out=(), foreign=("tree", "Ball")))


def test_low_rank_updates_are_merged(data: Path, backbone: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = text_config(data, backbone, lora_rank=2, loop={"learning_rate": 0.1})
    model = TextSegmenter.from_pretrained(train(config, tmp_path / "run"))
    before, after = load_backbone(backbone).unet.state_dict(), model.unet.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    attention = {n for n in before if n.split(".")[-2].startswith("to_") or ".to_out.0." in n}
    assert changed <= {n for n in attention if n.endswith("weight")} | {
        "conv_in.weight",
        "conv_in.bias",
    }
    assert "conv_in.weight" in changed
    assert changed & attention


# signs of collapse


def test_the_monitor_counts_known_pixels() -> None:
    monitor = MaskMonitor(torch.device("cpu"))
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[:, :2] = True  # 16 of 32
    known = torch.ones_like(truth)
    known[1, 0] = False
    predicted = torch.zeros_like(truth)
    predicted[0, :3] = True  # 12, and of the second what is unknown
    predicted[1, 0] = True
    z = torch.tensor([1.0, -1.0]).repeat(8).view(2, 1, 4, 2)
    monitor.update(predicted, truth, known, 0.5 * z + 3, z)
    assert monitor.compute() == pytest.approx(
        {
            "val_foreground": 12 / 28,
            "val_foreground_ratio": 12 / 12,
            "val_empty": 0.5,
            "val_latent_std_ratio": 0.5,
        }
    )


HEALTHY = {
    "step": 900,
    "val_empty": 0.1,
    "val_foreground": 0.3,
    "val_foreground_ratio": 1.1,
    "val_latent_std_ratio": 0.8,
}


@pytest.mark.parametrize(
    ("signs", "match"),
    [
        ({"val_empty": 1.0}, "step 900: 100% of the words that occur .* empty mask; raise dice"),
        (
            {"val_foreground": 1.0, "val_foreground_ratio": 4.0},
            "100% of the pixels .* raise absent",
        ),
        ({"val_latent_std_ratio": 0.001}, "latents are the same everywhere .* 0.001 of the truth"),
    ],
)
def test_collapsed_runs_are_told(signs: dict[str, float], match: str) -> None:
    stop = partial(stop_if_collapsed, steps=1000, latents=True, pixels=True)
    stop(HEALTHY)
    stop({"step": 900, "loss": 1.0})
    stop({**HEALTHY, "val_foreground": 1.0, "val_foreground_ratio": 1.0})  # nothing else is there
    with pytest.raises(InputError, match=match):
        stop({**HEALTHY, **signs})
    stop({**HEALTHY, **signs, "step": 100})  # young
    stop_if_collapsed({**HEALTHY, **signs}, steps=10_000, latents=True, pixels=True)
    stop_if_collapsed({**HEALTHY, **signs}, steps=1000, latents=False, pixels=False)


def test_a_collapsed_run_ends_and_its_log_says_so(
    data: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "GRACE_STEPS", 1)
    config = text_config(data, backbone, loop={"steps": 5, "eval_every": 2})
    task, _ = text_task(config)
    signs = {k: v for k, v in HEALTHY.items() if k != "step"} | {"val_empty": 1.0}
    dead = Task(task.objective, task.draw, lambda _: signs, watch=task.watch)
    with pytest.raises(InputError, match="the run has collapsed at step 1"):
        fit(dead, config.loop, tmp_path, resume=False)
    rows = log(tmp_path)
    assert [row["step"] for row in rows] == [0, 1]
    assert rows[-1]["val_empty"] == 1.0


def test_scores_of_an_image_do_not_depend_on_the_chunk(
    data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, batch = parts(text_config(data, backbone, steps="many"))
    words = model.eval().words.encode(NAMES)
    with torch.no_grad():
        whole = word_maps(model, batch.images[:1], words, words)
        monkeypatch.setattr("crispmask.train.text_scores.CHUNK", 2)
        pieces = word_maps(model, batch.images[:1], words, words)
    torch.testing.assert_close(vars(whole.parts), vars(pieces.parts))
    torch.testing.assert_close(whole.latents, pieces.latents)


# what is refused


def test_lora_without_peft(data: Path, backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"lora_rank needs peft; install it: .*\[text\]"):
        add_lora(load_backbone(backbone).unet, 2, new_input=True)
    assert text_config(data, backbone, lora_rank=2).lora_rank == 2


def test_a_crop_that_does_not_divide(data: Path, backbone: Path, tmp_path: Path) -> None:
    config = text_config(data, backbone, augment=AugmentConfig(crop=(16, 18)))
    with pytest.raises(InputError, match=r"crop must be multiples of 4 .* got 16x18"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_closed_code_for_a_background(other: Path, backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'palette' needs a word for every class, but"):
        train(text_config(other, backbone, mask_code="palette"), tmp_path / "run")


def test_a_backbone_that_is_none(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no model called .*nothing.* hf download"):
        train(text_config(data, tmp_path / "nothing"), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data": ()}, "one or more different data sets"),
        ({"data": ("earth", "earth")}, "one or more different data sets"),
        ({"data": ("earth", "fields"), "mask_code": "bits"}, "got 2 data sets; use binary"),
        ({"present": 0}, "present must be at least 1, got 0"),
        ({"absent": 0}, "absent must be at least 1"),
        ({"drop_prompt": 1.0}, r"drop_prompt must lie in \[0, 1\)"),
        ({"fraction": 0.0}, r"fraction must lie in \(0, 1\]"),
        ({"unet_rate_factor": 2.0}, r"unet_rate_factor must lie in \(0, 1\]"),
        ({"lora_rank": -1}, "lora_rank must be at least 0"),
        ({"lora_rank": 4, "from_scratch": True}, "from_scratch needs lora_rank=0"),
        ({"dice_weight": -1.0}, "dice_weight must be at least 0"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        text_config(Path("data"), Path("backbone"), **changes)


def test_names_for_the_log(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "set").mkdir(parents=True)
    folders = [str(tmp_path / name / "set") for name in ("a", "b")]
    assert short_names(["earth", "camvid:/somewhere/camvid"]) == ["earth", "camvid"]
    assert short_names(folders) == ["set_0", "set_1"]
