"""The study: what is trained, by whom, what is compared with what, and its page."""

import importlib
import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from filelock import FileLock
from torch.nn import functional as F

from crispmask.data.catalog import CAMVID_CLASSES
from crispmask.data.sample import Sample, write_mask
from crispmask.data.source import open_split
from crispmask.data.transforms import AugmentConfig
from crispmask.errors import InputError
from crispmask.evaluate import Row, evaluate
from crispmask.models.bases import load_base
from crispmask.models.checkpoint import WEIGHTS
from crispmask.models.segmenters import BaseOutput
from crispmask.recipes import RECIPES, camvid_refiner, earth_refiner
from crispmask.report import Report
from crispmask.shapes import Image, Probs
from crispmask.train import LoopConfig, RefinerTrainConfig, SegmenterTrainConfig, train

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
LOOP = LoopConfig(steps=1, batch_size=2, ema_decay=0.5)
CROP = AugmentConfig(crop=(32, 32))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


# comparisons


class Halves:
    """Left and right halves in two noisy colours."""

    class_names = ("left", "right")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        mask = (torch.arange(16) >= 8).long().expand(12, 16)
        noise = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(index))
        return Sample(image=(mask + 0.5 * noise).clamp(0, 1), mask=mask, name=str(index))


def bright(image: Image) -> BaseOutput:
    """Bright pixels are right."""
    right = image.mean(1, keepdim=True)
    return BaseOutput(probs=torch.cat([1 - right, right], dim=1))


def smooth(image: Image, base: BaseOutput, name: str) -> Probs:
    return F.avg_pool2d(base.probs, 3, stride=1, padding=1, count_include_pad=False)


def halves(compared: dict[str, str], *, calls: tuple[int, ...] = ()) -> Report:
    rows = [
        Row(name="base", predictors=(lambda image, base, name: base.probs,), compared=compared),
        Row(name="control", predictors=(smooth, smooth), compared={"default": "refined"}),
        Row(name="refined", predictors=(smooth,), compared={"control": "control"}),
        *(Row(name=f"refined, {n} calls", predictors=(smooth, smooth), steps=n) for n in calls),
    ]
    return evaluate(Halves(), bright, rows, title="halves", progress=False, pictures=0)


def test_a_gain_is_measured_over_the_rows_that_are_named() -> None:
    report = halves({"control": "control", "default": "refined"})
    base, control = report.row("base"), report.row("control")
    gained = base.gains["control"]
    assert gained.over == "control"
    assert gained.gain.mean == pytest.approx(base.mean("miou") - control.mean("miou"))
    assert gained.gain.low <= gained.gain.mean <= gained.gain.high < 0
    assert report.row("refined").gains["control"].gain.mean == 0
    row = report.to_json()["rows"][0]
    assert row["gains"]["default"]["over"] == "refined"
    assert row["gains"]["control"]["gain"]["mean"] == gained.gain.mean


def test_a_comparison_with_a_row_that_is_not_there() -> None:
    with pytest.raises(InputError, match='row "base" is compared with nothing, which is no row'):
        halves({"control": "nothing"})


# tables


def test_every_table_has_a_question(bench: Any) -> None:
    study = bench("study_runs")
    others, codec = study.other_bases("camvid", Path("runs")), study.codec_run("camvid", Path())
    found = bench("study_tables").tables(camvid_refiner(), others, codec)
    assert list(found) == list(bench("study_page").QUESTIONS)


@pytest.mark.parametrize("data", ["earth", "camvid"])
def test_runs_are_shared_between_tables_and_the_defaults_are_known(bench: Any, data: str) -> None:
    runs, default = Path("runs"), RECIPES[f"{data}-refiner"]()
    assert isinstance(default, RefinerTrainConfig)
    study, tables = bench("study_runs"), bench("study_tables")
    codec = study.codec_run(data, runs)
    every = tables.tables(default, study.other_bases(data, runs), codec)

    def folders(table: str) -> set[str]:
        return {
            study.refiner_run(default, arm.changes, seed=1, runs=runs, data=data).folder.as_posix()
            for arm in every[table]
        }

    known = [f"runs/study/{data}/{name}" for name in ("default-1", "stateinput=False-1")]
    assert folders("calls") == {known[0]}
    assert folders("noise") & folders("reverse") == {f"runs/study/{data}/noisetarget=truth-1"}
    assert set(known) < folders("bases")
    assert len(folders("bases")) == 6  # two defaults, a control and a refiner behind each base
    assert len(folders("condition")) == 6
    learned = f"runs/study/{data}/codec=codec-patchsize={default.patch_size // 2}-stride=4-1"
    assert learned in folders("codec")


def test_rows_are_compared_with_rows_of_their_table(bench: Any) -> None:
    study = bench("study_runs")
    others, codec = study.other_bases("earth", Path("runs")), study.codec_run("earth", Path("runs"))
    for arms in bench("study_tables").tables(camvid_refiner(), others, codec).values():
        names = [arm.name for arm in arms]
        assert len(set(names)) == len(names)
        there = {"base", "control", "refined, 1 call", *names, *(base.name for base in others)}
        assert all(set(arm.compared.values()) <= there for arm in arms)
        assert all(arm.compared.get("control") != arm.name for arm in arms)


# trainings


def camvid_in_small(root: Path) -> None:
    """CamVid's folders with a few pixels in them."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 11), ("val", 2)):  # folds are runs of ten
        for part in ("images", "labels"):
            (root / split / part).mkdir(parents=True)
        for i in range(count):
            mask = torch.randint(11, (4, 4), generator=generator).repeat_interleave(8, 0)
            mask = mask.repeat_interleave(8, 1)
            noise = torch.rand(3, 32, 32, generator=generator)
            pixels = (127 * (mask / 11 + noise)).byte().movedim(0, -1)
            picture = PIL.Image.fromarray(pixels.numpy())
            picture.save(root / split / "images" / f"{i}.png")
            write_mask(mask, root / split / "labels" / f"{i}.png")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Any) -> Path:
    """A folder of runs with the defaults, over a tiny CamVid, and recipes of one step."""
    camvid_in_small(tmp_path / "data" / "camvid")
    monkeypatch.setenv("CRISPMASK_DATA", str(tmp_path / "data"))
    base = SegmenterTrainConfig(
        data="camvid", loop=LOOP, augment=CROP, scale=0.5, channels=8, imagenet=False
    )
    refiner = RefinerTrainConfig(
        data="camvid", base="runs/camvid-base-start", loop=LOOP, augment=CROP, widths=(8, 8)
    )
    monkeypatch.setitem(RECIPES, "camvid-refiner", lambda: refiner)
    study = bench("study_runs")
    monkeypatch.setattr(study, "smaller", lambda config: config)
    monkeypatch.setattr(study, "camvid_base_start", lambda: base)
    monkeypatch.setattr(
        study, "camvid_segformer", lambda: replace(base, network="segformer", scale=1.0)
    )
    runs = tmp_path / "runs"
    for name in ("camvid-base-dice", "camvid-base-start"):
        train(base, runs / name)
    return runs


def study(bench: Any, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["study.py", "camvid", *map(str, words)])
    bench("study").main()


def test_bases_are_trained_folded_refined_and_measured(
    small: Path,
    tmp_path: Path,
    bench: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (small / "study" / "camvid").mkdir(parents=True)
    for name, score in (("weak-fpn", 0.54), ("segformer", 0.56)):
        scores = json.dumps({"train": score, "val": 0.5})
        (small / "study" / "camvid" / f"{name}-gap.json").write_text(scores)
    words = ("bases", "--seeds", "1", "--runs", small, "--output", tmp_path)
    study(bench, monkeypatch, *words)
    said = capsys.readouterr().out
    assert "8 of 8 runs are missing" in said
    assert "segformer: mIoU 0.560 on its training images, 0.500 on validation, a gap of" in said

    def settings(name: str) -> dict[str, Any]:
        record = json.loads((small / "study" / "camvid" / name / "run.json").read_text())
        return dict(record["settings"])

    assert settings("base=weak-fpn-0")["fold_bases"] == []
    folds = settings("base=segformer-stateinput=False-0")["fold_bases"]
    assert [Path(fold).name for fold in folds] == [f"segformer-fold-{i}" for i in range(5)]
    assert settings("segformer-fold-3")["fold"] == 3

    report = json.loads((tmp_path / "study_camvid_bases" / "report.json").read_text())
    rows = {row["name"]: row for row in report["rows"]}
    record = json.loads((small / "study" / "camvid" / "segformer" / "run.json").read_text())
    assert rows["SegFormer"]["miou"]["mean"] == pytest.approx(record["val_miou"])
    own = rows["SegFormer + refiner, 1 call"]["gains"]
    assert own["base"]["over"] == "SegFormer"
    assert own["control"]["over"] == "SegFormer + control"
    assert "stronger FPN + refiner, 1 call" not in rows  # it was never learned from
    assert (
        rows["stronger FPN + refiner, unseen"]["gains"]["control"]["over"]
        == (rows["stronger FPN"]["gains"]["control"]["over"])
    )
    study(bench, monkeypatch, *words, "--train-only")
    assert "0 of 8 runs are missing\n" in capsys.readouterr().out


def test_one_seed_of_two_tables_and_no_table(
    small: Path, tmp_path: Path, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("stages", "start", "--only-seed", "2", "--runs", small, "--output", tmp_path)
    study(bench, monkeypatch, *words)
    trained = {run.parent.name for run in (small / "study" / "camvid").glob("*/run.json")}
    new = {"firststage=0.0-2", "firststage=1.0-2", "default-2", "stateinput=False-2"}
    assert trained == new
    assert not list(tmp_path.glob("study_*"))
    with pytest.raises(SystemExit):
        study(bench, monkeypatch, "start", "ends")


def test_a_run_of_another_shell_is_left_to_it(bench: Any, tmp_path: Path) -> None:
    runs = bench("study_runs")
    config = SegmenterTrainConfig(data="nowhere", loop=LOOP, augment=CROP)
    run = runs.Run(folder=tmp_path / "run", config=config)
    run.folder.mkdir()
    (run.folder / "log.jsonl").write_text("of the other shell")
    with FileLock(f"{run.folder}.lock"):
        assert not runs._train(run)
    assert (run.folder / "log.jsonl").exists()
    with pytest.raises(InputError, match="'nowhere' is no data set"):
        runs._train(run)  # the other shell has stopped: started again
    assert not run.folder.exists()


def test_arms_on_earth_are_calibrated_even_where_they_were_trained_before(
    bench: Any, tmp_path: Path
) -> None:
    study = bench("study_runs")
    config = replace(earth_refiner(), base="earth-small")
    run = study.Run(folder=tmp_path / "arm", config=config)
    shutil.copytree(WEIGHTS / "earth-small" / "refiner", run.folder)
    weights = (run.folder / "model.safetensors").read_bytes()
    before = json.loads((run.folder / "config.json").read_text())["temperature"]
    assert not run.finished
    study.finish([run])
    assert run.finished
    assert (run.folder / "model.safetensors").read_bytes() == weights
    fitted = json.loads((run.folder / "calibration.json").read_text())["settings"]["temperature"]
    assert fitted == pytest.approx(before, rel=0.05)  # it was fitted on these tiles already


def test_camvid_at_half_its_size_and_its_base(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camvid_in_small(tmp_path / "data" / "camvid")
    monkeypatch.setenv("CRISPMASK_DATA", str(tmp_path / "data"))
    base = SegmenterTrainConfig(
        data="camvid", loop=LOOP, augment=CROP, scale=0.5, channels=8, imagenet=False
    )
    runs = tmp_path / "runs"
    for name in ("camvid-base-dice", "camvid-base-start"):
        train(base, runs / name)
    bench("study_runs").prepare("camvid", runs)
    whole = open_split("camvid", "val")[1]
    half = open_split(bench("study_runs").source("camvid", runs), "val")[1]
    assert half.name == whole.name
    assert torch.equal(half.mask, whole.mask[::2, ::2])
    averaged = F.avg_pool2d(whole.image[None], 2)[0]
    assert (half.image - averaged).abs().max() <= 1.5 / 255
    sees_whole = load_base(runs / "camvid-base-start", class_names=CAMVID_CLASSES)
    sees_half = load_base(runs / "study" / "camvid" / "base", class_names=CAMVID_CLASSES)
    wanted = F.avg_pool2d(sees_whole(whole.image[None]).probs, 2)
    torch.testing.assert_close(sees_half(half.image[None]).probs, wanted, atol=0.02, rtol=0)
    with pytest.raises(InputError, match=r"scale 0\.5, got scale 1\.0"):
        bench("half_camvid").half_base(runs / "study" / "camvid" / "base", tmp_path / "again")


# the page


def test_the_page_has_what_was_measured_and_lists_the_rest(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = {"control": "control", "default": "refined"}
    results = tmp_path / "results"
    halves(compared, calls=(1, 3)).write(results / "study_earth_calls")
    halves(compared).write(results / "study_camvid_noise")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "noise.md").write_text("Written by hand.")
    page = tmp_path / "docs" / "study.md"
    words = ["--results", results, "--notes", tmp_path / "notes", "--output", page]
    monkeypatch.setattr(sys, "argv", ["study_page.py", *map(str, words)])
    bench("study_page").main()

    text = page.read_text()
    calls, noise, rest = (
        text.index(f"\n## {title}\n") for title in ("Calls", "Noise", "Not run yet")
    )
    assert calls < text.index("### Earth") < noise < text.index("### CamVid") < rest
    assert noise < text.index("Written by hand.") < rest
    assert "## Stages" not in text
    lines = text[rest:].splitlines()
    assert sum(line.startswith("- ") for line in lines) == 12
    assert "- calls (CamVid): Do more calls" in text[rest:]
    assert "- noise (Earth): Which mask" in text[rest:]
    assert text[rest:].count("(Earth, CamVid)") == 10

    report = json.loads((results / "study_earth_calls" / "report.json").read_text())
    base = report["rows"][0]
    gain = base["gains"]["control"]["gain"]
    shown = f"{100 * gain['mean']:+.2f} ({100 * gain['low']:+.2f} to {100 * gain['high']:+.2f})"
    (line,) = (line for line in text[:noise].splitlines() if line.startswith("| base |"))
    assert line.startswith(f"| base | {100 * base['miou']['mean']:.1f} |")
    assert shown in line
    assert "| over its control | over the default |" in text
    assert f"at {report['protocol']['commit']}" in text

    for name in ("earth_calls", "camvid_noise"):
        drawn = page.parent / "images" / "study" / f"{name}.svg"
        assert f"(images/study/{name}.svg)" in text
        root = ElementTree.parse(drawn).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        style = root.find("{http://www.w3.org/2000/svg}style")
        assert style is not None
        assert "svg line.interval" in str(style.text)
