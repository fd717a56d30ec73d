"""Wrong labels come first, whoever judges; reports are complete; bad input is refused."""

import importlib
import json
import math
import re
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from crispmask.cli import main
from crispmask.data.class_names import common_names
from crispmask.data.regions import regions_of, turns
from crispmask.data.sample import Sample, write_mask
from crispmask.errors import InputError
from crispmask.evaluate.moves import POWER, REACH, best_moves, cell_size, share_of_gain
from crispmask.evaluate.suspects import (
    Evidence,
    Judges,
    Trust,
    evidence_of,
    fit_trust,
    picture_of,
    ranked,
    suspects_of,
)
from crispmask.models.prior import MaskPrior
from crispmask.models.prior_config import PriorConfig
from crispmask.models.segmenters import BaseOutput
from crispmask.nn.unet import MaskUNetConfig
from crispmask.report.suspects import OUTLINE, Suspect, SuspectReport, panels
from crispmask.shapes import IGNORE
from crispmask.shapes import Image as Images

NAMES = ("land", "water", "cloud")


def masks_of(*rows: str) -> Tensor:
    """A mask drawn in digits; a dot is unknown."""
    values = [[IGNORE if c == "." else int(c) for c in row] for row in rows]
    return torch.tensor(values)


def scene(seed: int) -> Tensor:
    """Blocks of 10 x 10 pixels of the three classes."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 3, (4, 6)).repeat(10, 0).repeat(10, 1))


def sample(mask: Tensor, name: str = "a") -> Sample:
    return Sample(torch.rand(3, *mask.shape), mask, name)


def seen(truth: Tensor, *, sure: float = 3.0, seed: int = 0) -> Tensor:
    """Log2-probabilities of a judge that is right but for some noise."""
    noise = torch.randn(3, *truth.shape, generator=torch.Generator().manual_seed(seed))
    one_hot = torch.nn.functional.one_hot(truth, 3).movedim(-1, 0)
    return (sure * one_hot + noise).log_softmax(0) / math.log(2)


# regions


def flooded(mask: Tensor) -> set[frozenset[tuple[int, int]]]:
    """Connected regions the slow way."""
    h, w = mask.shape
    left = {(y, x) for y in range(h) for x in range(w) if mask[y, x] != IGNORE}
    found = set()
    while left:
        start = left.pop()
        region, border = {start}, deque([start])
        while border:
            y, x = border.popleft()
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if place in left and mask[place] == mask[start]:
                    left.remove(place)
                    region.add(place)
                    border.append(place)
        found.add(frozenset(region))
    return found


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_regions_are_what_a_flood_fills(h: int, w: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.choice([0, 1, 2, IGNORE], (h, w)))
    found = regions_of(mask)
    sets = [frozenset(map(tuple, (found.index == i).nonzero().tolist())) for i in range(len(found))]
    assert set(sets) == flooded(mask)
    assert torch.equal(found.index == -1, mask == IGNORE)
    values = torch.from_numpy(rng.normal(size=(2, h, w)))
    means = found.means(values)
    for i, pixels in enumerate(sets):
        rows, columns = zip(*pixels, strict=True)
        box = (min(rows), min(columns), max(rows) + 1, max(columns) + 1)
        label = int(mask[rows[0], columns[0]])
        assert (int(found.labels[i]), int(found.areas[i])) == (label, len(pixels))
        assert found.boxes[i] == box
        assert found.find(label, len(pixels), box) >= 0
        torch.testing.assert_close(means[i], values[:, rows, columns].mean(1))


def test_depth_is_the_distance_from_other_regions() -> None:
    mask = torch.zeros(9, 12, dtype=torch.long)
    mask[:, 6:] = 1
    want = torch.tensor([6.0, 5, 4, 3, 2, 1, 1, 2, 3, 4, 5, 6]).expand(9, 12)
    torch.testing.assert_close(regions_of(mask).depth(), want)
    assert (regions_of(mask[:, :6]).depth() == 1).all()  # no border: all alike
    weighted = regions_of(mask).means(torch.arange(12.0).expand(1, 9, 12), want)
    assert weighted[0, 0] == pytest.approx((5 + 2 * 4 + 3 * 3 + 4 * 2 + 5 * 1) / 21)


def test_turns_share_out_whole_regions() -> None:
    mask = masks_of("00112", "00112", "..222")
    turn = turns(mask, 2, torch.Generator().manual_seed(0))
    found = regions_of(mask)
    of_region = [set(turn[found.index == i].tolist()) for i in range(3)]
    assert all(len(values) == 1 for values in of_region)
    assert set.union(*of_region) == {0, 1}
    assert (turn[mask == IGNORE] == 0).all()
    unknown = torch.full((2, 2), IGNORE)
    assert (turns(unknown, 4, torch.Generator()) == 0).all()


# ranking


def spoilt(count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Scenes, and the same with a wrong label in the first one."""
    truths = [scene(seed) for seed in range(count)]
    labels = [truth.clone() for truth in truths]
    labels[0][12:18, 12:18] = (truths[0][12, 12] + 1) % 3
    return truths, labels


@pytest.mark.parametrize("names", [("base",), ("prior",), ("base", "prior")], ids="+".join)
def test_a_wrong_region_comes_first(names: tuple[str, ...]) -> None:
    truths, labels = spoilt(6)
    pairs = [
        (
            sample(mask, str(i)),
            {name: seen(truth, seed=i + 10 * j) for j, name in enumerate(names)},
        )
        for i, (truth, mask) in enumerate(zip(truths, labels, strict=True))
    ]
    trust = fit_trust([evidence_of(item, said, min_area=20) for item, said in pairs])
    found = ranked(s for item, said in pairs for s in suspects_of(item, said, trust, min_area=20))
    first = found[0]
    assert (first.image, first.box, first.area) == ("0", (12, 12, 18, 18), 36)
    assert (first.label, first.suggestion) == (int(labels[0][12, 12]), int(truths[0][12, 12]))
    assert first.move is None
    assert first.score > 2 * found[1].score
    assert (first.base is None, first.prior is None) == ("base" not in names, "prior" not in names)
    assert [s.score for s in found] == sorted((s.score for s in found), reverse=True)
    assert min(s.area for s in found) >= 20


def test_a_score_is_the_sum_of_its_parts() -> None:
    _, labels = spoilt(3)
    item = sample(labels[0])
    opinions = {"base": seen(scene(0)), "prior": seen(scene(1), sure=1.0)}
    offsets = torch.tensor([0.0, 1.0, -2.0])
    maps = {"base": torch.rand(3, 3), "prior": torch.eye(3)}
    trust = Trust(maps=maps, offsets=offsets)
    regions = regions_of(labels[0])
    base = torch.stack(
        [(opinions["base"] * maps["base"][:, k, None, None]).sum(0) for k in (0, 1, 2)]
    )
    bits = base + opinions["prior"] + offsets[:, None, None]
    torch.testing.assert_close(trust.total(opinions), bits)
    means = regions.means(bits, regions.depth() ** 2)
    relabelled = 0
    for suspect in suspects_of(item, opinions, trust, min_area=1):
        assert suspect.base is not None
        assert suspect.prior is not None
        if suspect.suggestion is not None:
            relabelled += 1
            mean = means[regions.find(suspect.label, suspect.area, suspect.box)]
            others = [mean[k] for k in range(3) if k != suspect.label]
            gained = float(max(others) - mean[suspect.label]) * suspect.area**POWER
            assert suspect.score == pytest.approx(gained, abs=1e-3)
            habit = float(offsets[suspect.suggestion] - offsets[suspect.label])
            parts = suspect.base + suspect.prior + habit * suspect.area**POWER
            assert parts == pytest.approx(suspect.score, abs=1e-3)
    assert relabelled


def test_a_class_that_is_always_missed_is_not_doubted_for_that() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    noise = 0.3 * torch.randn(300, 3, generator=generator)
    means = (noise + torch.tensor([3.0, 0.0, 0.0])).log_softmax(1)  # says land of water
    means[labels == 2] = torch.tensor([0.0, 0.0, 6.0]).log_softmax(0)
    means = means / math.log(2)
    trust = fit_trust([Evidence(labels=labels, means={"base": means})])

    def doubted(bits: Tensor) -> int:
        others = bits.scatter(1, labels[:, None], -math.inf).amax(1)
        return int((others - bits.gather(1, labels[:, None])[:, 0] > 3).sum())

    assert doubted(means) > 80
    assert doubted(means @ trust.maps["base"] + trust.offsets) == 0
    says_land = torch.tensor([0.0, -4.0, -4.0])
    read = says_land @ trust.maps["base"] + trust.offsets
    assert (read[0] - read[1]).abs() < 2  # land or water, who knows


def test_trust_goes_to_the_judge_that_knows() -> None:
    truths = [scene(seed) for seed in range(8)]
    evidence = [
        evidence_of(
            sample(truth, str(i)),
            {"base": seen(truth, seed=i), "prior": seen(scene(i + 50), seed=i)},
            min_area=20,
        )
        for i, truth in enumerate(truths)
    ]
    trust = fit_trust(evidence)
    weight = {judge: table.diagonal().mean() for judge, table in trust.maps.items()}
    assert weight["base"] > 2 * abs(weight["prior"])


PLAIN = Trust(maps={"base": torch.eye(3)}, offsets=torch.zeros(3))


def test_no_region_is_large_enough() -> None:
    opinions = {"base": seen(scene(0))}
    assert suspects_of(sample(scene(0)), opinions, PLAIN, min_area=10**6) == []
    trust = fit_trust([evidence_of(sample(scene(0)), opinions, min_area=10**6)])
    torch.testing.assert_close(trust.maps["base"], torch.eye(3))


def island(rows: int, columns: int) -> Tensor:
    """Land in the sea, rows and columns away from the middle, and a cloud."""
    mask = torch.ones(40, 60, dtype=torch.long)
    mask[12 + rows : 24 + rows, 20 + columns : 34 + columns] = 0
    mask[:, 55:] = 2
    return mask


@pytest.mark.parametrize(("rows", "columns"), [(5, 0), (0, -4), (-6, 3)])
def test_a_region_that_was_moved_is_told_the_way_back(rows: int, columns: int) -> None:
    mask, opinions = island(rows, columns), {"base": seen(island(0, 0))}
    mask[0, :10] = IGNORE
    found = ranked(suspects_of(sample(mask), opinions, PLAIN, min_area=20))
    moved = next(s for s in found if s.label == 0)
    assert moved.move == (-rows, -columns)
    assert moved.suggestion is None
    assert moved.base == pytest.approx(moved.score, abs=1e-3)
    right = suspects_of(sample(island(0, 0)), opinions, PLAIN, min_area=20)
    assert moved.score > 5 * max(s.score for s in right)


def test_moves_gain_what_they_say() -> None:
    rng = np.random.default_rng(3)
    mask = torch.from_numpy(rng.integers(0, 3, (3, 4)).repeat(5, 0).repeat(5, 1))
    mask[:6, 12:] = IGNORE
    bits = torch.randn(3, 15, 20, generator=torch.Generator().manual_seed(1))
    own = bits.gather(0, mask.clamp(max=2)[None])[0]
    found = regions_of(mask)
    for number, move in enumerate(best_moves(bits, mask, found, range(len(found)))):
        label, inside = int(found.labels[number]), found.index == number
        win = (bits[label] - own).where(mask != IGNORE, 0)
        lose = torch.stack([bits[k] for k in range(3) if k != label]).amax(0) - bits[label]
        best = {(0, 0): 0.0}
        for rows in range(-REACH, REACH + 1):
            for columns in range(-REACH, REACH + 1):
                wide = torch.zeros(35, 40, dtype=torch.bool)
                wide[REACH + rows :, REACH + columns :][:15, :20] = inside
                there = wide[REACH : REACH + 15, REACH : REACH + 20]
                count = int((inside & ~there).sum())
                if count:
                    less = min(win[there & ~inside].sum(), lose[inside & ~there].sum())
                    best[rows, columns] = float(less) / count * count**POWER
        score = move.gain * move.pixels**POWER
        assert score == pytest.approx(max(best.values()), abs=1e-3)
        assert best[move.rows, move.columns] == pytest.approx(score, abs=1e-3)
        assert share_of_gain(bits, mask, move) == pytest.approx(move.gain, abs=1e-3)


def test_large_maps_are_moved_by_cells() -> None:
    assert cell_size(360, 480) == 2
    assert cell_size(40, 60) == 1
    truth, mask = island(0, 0), island(0, 5)
    truth, mask = (m.repeat_interleave(8, 0).repeat_interleave(8, 1) for m in (truth, mask))
    (move,) = best_moves(seen(truth), mask, regions_of(mask), [0])
    assert (move.rows, move.columns) in {(0, -20), (0, -18)}  # as far as it reaches


# judges


class Painter:
    """A segmenter that reads the class off the image."""

    def __call__(self, image: Images) -> BaseOutput:
        return BaseOutput.from_labels((2 * image[:, 0]).round().long(), num_classes=3)


def tiny_prior(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    network = MaskUNetConfig(num_classes=len(names), cond_channels=1, widths=(8,))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskPrior(
            PriorConfig(class_names=names, network=network, pixels=600, process="uniform")
        )
    model.save_pretrained(folder)
    return folder


def test_judges_give_finite_bits(tmp_path: Path) -> None:
    truth = scene(0)
    prior = MaskPrior.from_pretrained(tiny_prior(tmp_path / "prior"))
    item = Sample((truth / 2).expand(3, -1, -1), truth, "a")
    opinions = Judges(base=Painter(), prior=prior).opinions(item)
    assert set(opinions) == {"base", "prior"}
    for bits in opinions.values():
        assert bits.shape == (3, 40, 60)
        torch.testing.assert_close(bits.exp2().sum(0), torch.ones(40, 60))
        assert bits.min() > -10
    assert torch.equal(opinions["base"].argmax(0), truth)
    with pytest.raises(InputError, match="needed to judge"):
        Judges()


# pictures and pages


def test_pictures_show_the_region_and_stay_inside() -> None:
    mask = scene(0)
    mask[:4, :4] = (mask[5, 5] + 1) % 3
    mask[39, 59] = IGNORE
    opinions = {"base": seen(scene(0), sure=20.0)}
    item = sample(mask)
    for suspect in suspects_of(item, opinions, PLAIN, min_area=1):
        picture = picture_of(suspect, item, opinions, PLAIN)
        h, w = picture.labels.shape
        assert picture.image.shape == (h, w, 3)
        assert picture.region.sum() == suspect.area
        assert (picture.labels[picture.region] == suspect.label).all()
        assert (picture.doubt[picture.labels == IGNORE] == 0).all()
        wrong = suspect.box == (0, 0, 4, 4)
        assert (picture.doubt[picture.region].mean() > 200) == wrong
        (_, first), *_ = panels(picture, ((9, 9, 9),) * 3)
        assert first.startswith("data:image/png;base64,")


def report_of(count: int, pictures: int, names: tuple[str, ...] = NAMES) -> SuspectReport:
    mask, opinions = scene(0), {"base": seen(scene(0))}
    suspects = ranked(suspects_of(sample(mask), opinions, PLAIN, min_area=1))[:count]
    drawn = [picture_of(s, sample(mask), opinions, PLAIN) for s in suspects[:pictures]]
    return SuspectReport(
        title="a <b> title",
        class_names=names,
        palette=((200, 0, 0), (0, 200, 0), (0, 0, 200)),
        suspects=tuple(suspects),
        pictures=tuple(drawn),
        protocol={"data": "drawn"},
    )


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    report = report_of(5, 3, ("<land>", "water", "cloud"))
    paths = report.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["suspects.json", "suspects.html"]
    html = paths[1].read_text()
    assert html.count('<article class="card">') == 3
    assert html.count("data:image/png;base64,") == 9
    assert "<land>" not in html
    assert "a &lt;b&gt; title" in html
    assert not re.search(r'(src|href)="(?!data:)', html)
    rows = json.loads(paths[0].read_text())["suspects"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0]["label_name"] == report.class_names[rows[0]["label"]]
    assert len(OUTLINE) == 3


def test_a_page_without_suspects() -> None:
    assert "0 regions" in report_of(0, 0).html()


# the command


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.jpg")
        write_mask(scene(i), folder / "labels" / f"{i}.png")
    return folder


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    return tiny_prior(tmp_path / "prior")


def run(*words: str | Path) -> int:
    return main(["data", "suspects", *map(str, words)])


@pytest.mark.parametrize("judges", ["base", "prior", "both"])
def test_the_command_writes_both_files(
    data: Path,
    prior: Path,
    tiny_models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    judges: str,
) -> None:
    words: list[str | Path] = [data, "--output", tmp_path / "out", "--min-area", "10", "--json"]
    words += ["--base", tiny_models] if judges != "prior" else []
    words += ["--prior", prior] if judges != "base" else []
    files = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert run(*words) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out)
    written = json.loads((tmp_path / "out" / "suspects.json").read_text())
    assert printed == written
    assert all(row["score"] > 0 for row in written["suspects"])
    for row in written["suspects"]:
        assert (row["base"] is None) == (judges == "prior")
        assert (row["prior"] is None) == (judges == "base")
    assert "look at" in captured.err
    assert (tmp_path / "out" / "suspects.html").exists()
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == files
    assert run(*words) == 0  # again, over the old files
    assert json.loads(capsys.readouterr().out)["suspects"] == written["suspects"]


def test_class_names_must_agree() -> None:
    numbers, others = ("0", "1", "2"), ("land", "water", "ice")
    assert common_names({"base": NAMES, "prior": numbers, "data": None}) == NAMES
    assert common_names({"base": None, "prior": numbers, "data": NAMES}) == NAMES
    assert common_names({"prior": numbers}) == numbers
    for pair in ((NAMES, others), (NAMES, numbers[:2]), (numbers, NAMES[:2])):
        with pytest.raises(InputError, match="the same ones"):
            common_names({"the base": pair[0], "the prior": pair[1]})


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command, which must fail well, and returns its one sentence."""

    def attempt(*words: str | Path) -> str:
        output = tmp_path / "output"
        assert run(*words, "--output", output) == 2
        captured = capsys.readouterr()
        (sentence,) = captured.err.splitlines()
        assert sentence.startswith("crispmask: ")
        assert captured.out == ""
        assert not output.exists()
        return str(sentence)

    return attempt


def test_nobody_judges(refuse: Any, data: Path) -> None:
    assert "--prior, --base or both" in refuse(data)


def test_a_model_of_another_kind(refuse: Any, data: Path, prior: Path) -> None:
    assert "holds a MaskPrior, needed as a base is one of" in refuse(data, "--base", prior)
    assert "no model called" in refuse(data, "--prior", data / "nothing")


def test_an_image_and_a_label_of_two_sizes(refuse: Any, data: Path, prior: Path) -> None:
    write_mask(scene(0)[:-1], data / "labels" / "1.png")
    assert "40x60" in refuse(data, "--prior", prior)


def test_files_that_cannot_be_read(refuse: Any, data: Path, prior: Path) -> None:
    (data / "labels" / "1.png").write_bytes(b"no picture")
    assert "1.png" in refuse(data, "--prior", prior)


def test_ids_beyond_the_classes(refuse: Any, data: Path, prior: Path) -> None:
    write_mask(scene(0) + 1, data / "labels" / "1.png")
    assert "ids from 0 to 2" in refuse(data, "--prior", prior)


def test_folders_that_are_missing_or_empty(refuse: Any, tmp_path: Path, prior: Path) -> None:
    assert "does not exist" in refuse(tmp_path / "nowhere", "--prior", prior)
    for part in ("images", "labels"):
        (tmp_path / "empty" / part).mkdir(parents=True)
    assert "no image" in refuse(tmp_path / "empty", "--prior", prior)


def test_classes_of_other_data(refuse: Any, data: Path, prior: Path) -> None:
    (data / "classes.txt").write_text("sky\nsea\nice\n")
    assert "the same ones" in refuse(data, "--prior", prior)


@pytest.mark.parametrize("words", [("--min-area", "0"), ("--min-area", "x"), ("--seed", "x")])
def test_options_out_of_range(refuse: Any, data: Path, prior: Path, words: tuple[str, str]) -> None:
    assert words[0].strip("-") in refuse(data, "--prior", prior, *words)


# the benchmark


def test_errors_are_planted_where_the_benchmark_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    bench = importlib.import_module("suspects")
    masks = [scene(seed) for seed in range(6)]
    plan = bench.Plan(share=0.2, min_area=50, shift=5)
    planted, kinds = bench.plant(masks, plan)
    again, _ = bench.plant(masks, plan)
    total = sum(int((regions_of(mask).areas >= 50).sum()) for mask in masks)
    assert len(kinds) == round(0.2 * total)
    assert abs(kinds.count("moved") - kinds.count("relabelled")) <= 1
    for mask, one, two in zip(masks, planted, again, strict=True):
        assert torch.equal(one.mask, two.mask)
        assert set(one.errors.unique().tolist()) <= {-1, *range(len(kinds))}
        for number in set(one.errors.unique().tolist()) - {-1}:
            inside = one.errors == number
            assert len(one.mask[inside].unique()) == 1
            if kinds[number] == "relabelled":
                assert (one.mask[inside] != mask[inside]).all()
    perfect = bench.score(list(range(len(kinds))) + [-1] * 9, kinds)
    assert perfect["precision_at_planted"] == 1
    assert perfect["average_precision"] == pytest.approx(1)
    assert bench.score([-1] * 99, kinds)["precision_at_planted"] == 0


def test_a_suspect_is_an_error_if_half_of_it_was_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    bench = importlib.import_module("suspects")
    planted = bench.Planted(masks_of("0011", "0011"), masks_of("....", "....") * 0 - 1)
    planted.errors[0, 2:] = 7

    def suspect(label: int, box: tuple[int, int, int, int]) -> Suspect:
        return Suspect(
            image="a",
            label=label,
            suggestion=0,
            move=None,
            area=4,
            box=box,
            score=1,
            base=None,
            prior=None,
        )

    found = regions_of(planted.mask)
    assert bench.error_of(suspect(1, (0, 2, 2, 4)), planted, found) == 7
    assert bench.error_of(suspect(0, (0, 0, 2, 2)), planted, found) == -1
    assert bench.findable([planted], 8 * ["moved"], 4) == {"moved": 1 / 8}
    planted.errors[0, 2] = -1
    assert bench.error_of(suspect(1, (0, 2, 2, 4)), planted, found) == -1
    assert bench.findable([planted], 8 * ["moved"], 4) == {"moved": 0}


def test_an_error_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    bench = importlib.import_module("suspects")
    found = bench.score([1, 1, -1, 0], ["moved", "relabelled"])
    assert found["precision_at_planted"] == 0.5
    assert found["average_precision"] == pytest.approx((1 + 2 / 4) / 2)
    assert [round(p["precision"], 2) for p in found["curve"]] == [1, 0.5, 0.33, 0.5]
