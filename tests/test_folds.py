"""Folds: whole blocks, all used, and each image answered by the base that has not seen it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from crispmask.data.earth import earth
from crispmask.data.sample import Sample
from crispmask.errors import InputError
from crispmask.models.segmenters import FPNSegmenter, SegmenterConfig
from crispmask.nn.fpn import FPNConfig
from crispmask.recipes import earth_base, earth_refiner
from crispmask.train import train
from crispmask.train.batches import Stored, folds_of, with_base


def test_folds_keep_blocks_whole_and_use_every_image() -> None:
    tiles = earth("train")
    folds = folds_of(tiles, 5)
    assert len(folds) == len(tiles)
    assert set(folds) == set(range(5))
    of_block = {
        block: {f for f, b in zip(folds, tiles.blocks, strict=True) if b == block}
        for block in set(tiles.blocks)
    }
    assert all(len(found) == 1 for found in of_block.values())


def sees_only(answer: int) -> FPNSegmenter:
    """A base that sees one class everywhere."""
    network = FPNConfig(num_classes=3, channels=8)
    base = FPNSegmenter(SegmenterConfig(class_names=("a", "b", "c"), network=network))
    nn.init.zeros_(base.network.classifier.weight)
    with torch.no_grad():
        base.network.classifier.bias.copy_(torch.eye(3)[answer])  # type: ignore[union-attr]
    return base


def test_each_image_is_answered_by_its_own_base() -> None:
    item = Stored(torch.zeros(3, 8, 8).byte(), torch.zeros(8, 8).byte())
    seen, miou = with_base(
        [item, item, item],
        [sees_only(2), sees_only(0), sees_only(1)],
        conditioning="probs",
        stride=2,
    )
    assert [int(s.maps.mean((1, 2)).argmax()) for s in seen if s.maps is not None] == [2, 0, 1]
    assert miou == pytest.approx(1 / 9)  # class 0: 64 of 192 pixels; classes 1 and 2: nothing


def test_folds_of_few_images_are_alike_and_none_is_empty() -> None:
    item = Sample(image=torch.zeros(3, 8, 8), mask=torch.zeros(8, 8).long(), name="0")
    for count in (5, 8, 12, 43):
        folds = folds_of([item] * count, 5)
        sizes = [folds.count(fold) for fold in range(5)]
        assert sum(sizes) == count
        assert min(sizes) > 0
        assert max(sizes) <= 2 * min(sizes)
    with pytest.raises(InputError, match=r"5 folds need at least as many images, .* got 4"):
        folds_of([item] * 4, 5)


def test_too_few_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        replace(earth_refiner(), fold_bases=("a", "b"))
    with pytest.raises(ValueError, match="fold 7 of 5"):
        replace(earth_base(), folds=5, fold=7)


def test_bases_in_another_order_are_refused(tmp_path: Path) -> None:
    folders = []
    for fold in range(5):
        folder = tmp_path / f"fold-{fold}"
        sees_only(0).save_pretrained(folder)
        record = {"settings": {"folds": 5, "fold": fold}}
        (folder / "run.json").write_text(json.dumps(record))
        folders.append(str(folder))
    for part in ("images", "labels"):
        for split in ("train", "val"):
            (tmp_path / split / part).mkdir(parents=True)
            picture = Image.new("RGB" if part == "images" else "L", (16, 16))
            for i in range(5):
                picture.save(tmp_path / split / part / f"{i}.png")
    (tmp_path / "classes.txt").write_text("a\nb\nc")
    config = replace(
        earth_refiner(), data=str(tmp_path), base=folders[0], fold_bases=tuple(folders[::-1])
    )
    with pytest.raises(InputError, match="fold-4 stands in place 0"):
        train(config, tmp_path / "run")
    for text in ("", "{", "[]", "{}", '{"settings": 1}'):
        (tmp_path / "fold-4" / "run.json").write_text(text)
        with pytest.raises(InputError, match=r"fold-4.run\.json .* cannot be read .* train this"):
            train(config, tmp_path / "run")
