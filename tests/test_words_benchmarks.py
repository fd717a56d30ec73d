"""The benchmarks of words run on a tiny model, and count what they say they count."""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from backbone_layouts import write_backbone
from crispmask.data.sample import Sample
from crispmask.data.transforms import AugmentConfig
from crispmask.evaluate.open_vocabulary import WordsProtocol
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segmenters import FPNSegmenter
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.models.vocabulary import Vocabulary
from crispmask.recipes import RECIPES
from crispmask.text_recipes import earth_text
from crispmask.train import LoopConfig
from tiny_text import tiny_segmenter

NAMES = ("land", "water", "cloud")
WORDS = [a + b for a in "abcdef" for b in "ghijkl"]


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module(name)


@pytest.fixture
def model(tiny_words: Path) -> TextSegmenter:
    return TextSegmenter.from_pretrained(tiny_words)


class Noise:
    """Two images of noise with labels in halves."""

    class_names = NAMES

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        rng = torch.Generator().manual_seed(index)
        mask = torch.zeros(16, 24, dtype=torch.int64)
        mask[:, 12:] = 1 + index
        return Sample(torch.rand(3, 16, 24, generator=rng), mask, str(index))


def test_all_rows_of_words(
    model: TextSegmenter, tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benchmark("words", monkeypatch)
    vocabulary = Vocabulary(
        class_names=NAMES,
        synonyms={"land": ("ground",), "water": ("sea", "lake"), "cloud": ("haze",)},
        templates=("{}",),
    )
    base = FPNSegmenter.from_pretrained(tiny_models)
    refiner = MaskRefiner.from_pretrained(tiny_models)
    rows = bench.plan(model, vocabulary, absent=("sofa",), steps=(1, 2), base=base, refiner=refiner)
    protocol = WordsProtocol(
        data="noise", vocabulary=vocabulary, trained_on=("water",), image_size="as they are"
    )
    timed = bench.measure(Noise(), rows, protocol, limit=None)
    assert list(timed) == [
        "names",
        "synonyms 1",
        "names and synonyms",
        "absent words",
        "names, 2 steps",
        "names, vae decoder",
        "names, flip",
        "names, no masks drawn",
        "names, refined",
        "base",
    ]
    image = Noise()[1].image[None]
    labels = {
        "names": model(image, list(NAMES)).labels,
        "names, 2 steps": model(image, list(NAMES), num_inference_steps=2).labels,
        "base": base(image).probs.argmax(1),
    }
    only = model.config  # weights beside which no mask counts
    model.config = replace(only, align_weight=1e6, presence_weight=1e6)
    labels["names, no masks drawn"] = model(image, list(NAMES)).labels
    model.config = only
    labels["names, refined"] = refiner(image, model(image, list(NAMES)).probs).labels
    by_name = {name: row for row in rows for name in row.rows}
    for name, want in labels.items():
        names = replace(vocabulary, synonyms={})
        assert torch.equal(by_name[name].ask(names)(image, among=None).labels, want), name
    among = by_name["base"].ask(vocabulary)(image, among=[0]).labels
    assert (among == 0).all()

    record = bench.summary(timed)
    ours, theirs = (record["rows"][row]["scores"]["miou_truth"] for row in ("names", "base"))
    assert record["share_of_base"] == pytest.approx(ours / theirs)
    assert all(row["seconds_per_image"] > 0 for row in record["rows"].values())
    assert json.dumps(bench.facts(model, tmp_path), allow_nan=False)
    assert bench.facts(model, tmp_path)["pathway"] is True


def test_the_command_writes_its_numbers(
    tiny_words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benchmark("words", monkeypatch)
    monkeypatch.setattr(bench, "vocabulary_of", lambda names: Vocabulary(class_names=names))
    monkeypatch.setattr(bench, "ABSENT", {"earth": ("polyp", "sofa")})
    words = [str(tiny_words), "earth", "--limit", "1", "--steps", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["words.py", *words])
    bench.main()
    record = json.loads((tmp_path / "words_earth_tiny-words.json").read_text())
    assert set(record["rows"]) == {
        "names",
        "absent words",
        "names, vae decoder",
        "names, flip",
        "names, no masks drawn",
    }
    assert record["share_of_base"] is None
    assert "commit" in record["run"]
    assert record["rows"]["names"]["images"] == 1


def test_starts_are_kept_at_a_low_strength_and_forgotten_at_a_high_one(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benchmark("words_start", monkeypatch)
    monkeypatch.setattr(bench, "STRENGTHS", (0.01, 1.0))
    monkeypatch.setattr(bench, "vocabulary_of", lambda names: Vocabulary(class_names=names))
    model = tiny_segmenter(start="noise", mask_code="resize", decode="vae")
    base = FPNSegmenter.from_pretrained(tiny_models)
    rows = bench.rows_of(model, NAMES, seed=0, wanted=bench.WAYS)
    found = bench.measure(Noise(), rows, base, limit=None)
    assert list(found)[:2] == ["base", "plain, 1 call"]
    assert found["base"]["kept"] == 1
    assert found["plain, 4 calls"]["kept"] is None
    near, far = (
        found[f"from the truth at {strength}, 1 call, masks alone"] for strength in (0.01, 1.0)
    )
    assert near["kept"] == near["accuracy"] > 0.95
    assert far["miou"] == found["plain, 1 call, masks alone"]["miou"]
    assert json.dumps(found, allow_nan=False)


def test_arms_of_the_study_are_trained_once_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = benchmark("words_study", monkeypatch)
    backbone = write_backbone(tmp_path / "runs" / "tiny", "sd1")
    recipe = replace(
        earth_text(),
        backbone=str(backbone),
        template="{}",
        foreign=(),
        loop=LoopConfig(steps=9, batch_size=1, ema_decay=0.5),
        augment=AugmentConfig(crop=(16, 16), short_side=16),
    )
    monkeypatch.setitem(RECIPES, "text-earth", lambda: recipe)
    monkeypatch.setattr(bench, "vocabulary_of", lambda names: Vocabulary(class_names=names))
    monkeypatch.setattr(bench, "ABSENT", {"earth": ("polyp", "sofa")})
    words = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    words += ["--steps", "1", "--limit", "1", "--arms", "without pathway", "words held out"]
    monkeypatch.setattr(sys, "argv", ["words_study.py", "earth", *words])
    bench.main()
    said = capsys.readouterr().out
    assert "4 of 4 runs are missing: without-pathway-0, words-held-out-0, without-pathway-1" in said
    rows = json.loads((tmp_path / "words_study_earth.json").read_text())["rows"]
    assert set(rows) == {
        "without pathway",
        "without pathway, absent words",
        "without pathway, no masks drawn",
        "words held out",
        "words held out, no masks drawn",
    }
    assert all(len(seeds) == 2 for seeds in rows.values())
    settings = json.loads(
        (tmp_path / "runs" / "words" / "earth" / "words-held-out-1" / "run.json").read_text()
    )["settings"]
    assert settings["held_out"] == ["wetland", "urban"]
    assert (settings["loop"]["steps"], settings["loop"]["seed"]) == (1, 1)
    bench.main()
    assert "0 of 4 runs are missing" in capsys.readouterr().out


def test_arms_of_the_study_change_one_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benchmark("words_study", monkeypatch)
    runs = [
        bench.run_of("earth", arm, seed=0, steps=7, runs=Path("runs"))
        for arm in bench.arms("earth")
    ]
    assert len({run.folder for run in runs}) == len(runs) == 11
    plain = runs[0].config
    assert plain.backbone == "runs/latent-earth-pretrain"
    for run in runs[1:]:
        changed = [
            name for name, value in vars(run.config).items() if value != getattr(plain, name)
        ]
        assert 1 <= len(changed) <= 2
        assert "loop" not in changed


def test_domains_are_trained_together_and_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benchmark("domains", monkeypatch)
    write_backbone(tmp_path / "runs" / "latent-earth-pretrain", "sd1")
    recipe = replace(earth_text(), template="{}", fraction=0.05)
    monkeypatch.setattr(bench, "earth_text", lambda: recipe)
    monkeypatch.setattr(bench, "vocabulary_of", lambda names: Vocabulary(class_names=names))
    monkeypatch.setattr(bench, "SIDE", 16)
    words = ["earth", "fields", "--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    words += ["--steps", "1", "--batch-size", "1", "--seeds", "1", "--limit", "2", "--adapters"]
    pytest.importorskip("peft")
    monkeypatch.setattr(sys, "argv", ["domains.py", *words])
    bench.main()
    said = capsys.readouterr().out
    runs = "joint-0, earth-0, fields-0, adapter-earth-0, adapter-fields-0"
    assert f"5 of 5 runs are missing: {runs}" in said
    assert "| | earth mIoU | fields mIoU | earth mean F1 | mean mIoU |" in said
    rows = json.loads((tmp_path / "domains.json").read_text())["rows"]
    assert list(rows) == [
        "joint, names",
        "joint, no masks drawn",
        "alone, names",
        "alone, no masks drawn",
        "joint + an adapter each, names",
        "joint + an adapter each, no masks drawn",
    ]
    for (one,) in rows.values():
        assert one["mean"]["miou"] == pytest.approx(
            sum(scores["miou_union"] for scores in one["sets"].values()) / 2
        )
    joint = json.loads((tmp_path / "runs" / "domains" / "joint-0" / "run.json").read_text())
    assert (joint["settings"]["data"], joint["settings"]["loop"]["steps"]) == (
        ["earth", "fields"],
        2,
    )
    adapter = tmp_path / "runs" / "domains" / "adapter-fields-0"
    record = json.loads((adapter / "config.json").read_text())
    assert record["base"] == str(tmp_path / "runs" / "domains" / "joint-0")
    assert record["rank"] == 8


def test_speed_counts_what_it_says(model: TextSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benchmark("text_speed", monkeypatch)
    states = bench.text_states(model, WORDS[:9])
    assert (states["sentences_first"], states["sentences_again"]) == (9, 0)

    image = torch.rand(1, 3, 16, 16)
    many = bench.many_words(model, WORDS[:12], image, top=3, rounds=1)
    assert (many["rows_ranked"], many["rows_exact"]) == (1 + 3, 1 + 12)
    seconds = many["seconds"]
    assert many["exact_over_ranked"] == seconds["exact"] / seconds["ranked"]

    words = [*NAMES, *WORDS[:3]]
    quality = bench.ranked_quality(model, Noise(), words, top=6, limit=2)
    assert quality["ranked_over_exact"] == pytest.approx(1)  # all of them are drawn

    memory = bench.peak_memory(model, WORDS, image, counts=(8, 32), top=4)
    assert memory["most_over_fewest_words"] < 1.1
    assert memory["exact_mib"][32] > memory["exact_mib"][8]


def test_the_light_decoder_is_light(monkeypatch: pytest.MonkeyPatch) -> None:
    flops = benchmark("text_speed", monkeypatch).decoder_flops(512)
    assert flops["vae_over_light"] >= 10
    assert 1e12 < flops["flops"]["vae"] < 5e12


def test_live_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.zeros(1000)
    with benchmark("text_speed", monkeypatch).LiveBytes() as memory:
        one = before + 1  # 4,000 bytes
        two = one.reshape(10, 100) * 2  # as many again; the view is none of its own
        del one
        assert (memory.live, memory.peak) == (4000, 8000)
        two = two.double()  # 8,000, and the old ones until then
        assert (memory.live, memory.peak) == (8000, 12000)
        before.add_(1)  # made before
        assert memory.live == 8000
        del two
    assert (memory.live, memory.peak) == (0, 12000)


def test_words_of_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = benchmark("text_speed", monkeypatch)
    words = bench.further_words(("Water", "savanna"), 300)
    assert words[:2] == ("Water", "savanna")
    assert len({word.casefold() for word in words}) == 300
    Vocabulary.from_texts(words)  # none that is refused
