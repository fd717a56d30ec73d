"""Few labels: which runs there are, and that one setting alone parts the two refiners."""

import importlib
from dataclasses import asdict
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_refiners_differ_by_the_other_masks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = importlib.import_module("few_labels").arms(0.1, seeds=2, runs=tmp_path)
    own, more, control = (
        asdict(several[1].config) for several in (found.own, found.more, found.control)
    )
    assert {key for key in own if own[key] != more[key]} == {"other_masks"}
    assert not own["other_masks"]
    assert not control["state_input"]
    assert not control["other_masks"]
    assert {run.config.labelled for run in found.bases} == {own["labelled"]} == {0.1}
    assert tuple(str(run.folder) for run in found.folds) == own["fold_bases"]
    assert len({run.folder for run in (*found.bases, *found.refiners)}) == 6 + 2 * 3
