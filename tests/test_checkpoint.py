"""Model folders: what is saved loads to the same model, and what is damaged is refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from crispmask.errors import InputError
from crispmask.models import checkpoint
from crispmask.models.backbone import load_backbone
from crispmask.models.bases import from_transformers, load_base
from crispmask.models.checkpoint import find_model, from_dict
from crispmask.models.prior import MaskPrior
from crispmask.models.refiner import MaskRefiner
from crispmask.models.refiner_config import RefinerConfig, condition_channels
from crispmask.models.segmenters import BaseOutput, FPNSegmenter, SegmenterConfig
from crispmask.models.text_segmenter import TextSegmenter
from crispmask.nn.fpn import FPNConfig
from crispmask.nn.unet import MaskUNetConfig

NAMES = ("land", "water", "cloud")


def segmenter(channels: int = 8) -> FPNSegmenter:
    network = FPNConfig(num_classes=3, channels=channels)
    return FPNSegmenter(SegmenterConfig(class_names=NAMES, network=network, scale=0.5))


def refiner(conditioning: str = "probs") -> MaskRefiner:
    features = 8 if conditioning == "features" else 0
    cond = condition_channels(conditioning, 3, stride=2, feature_channels=features)
    model = MaskRefiner(
        RefinerConfig(
            class_names=NAMES,
            network=MaskUNetConfig(num_classes=3, cond_channels=cond, widths=(8, 16)),
            conditioning=conditioning,  # type: ignore[arg-type]
            feature_channels=features,
            condition_dropout=0.25,
        )
    )
    torch.nn.init.normal_(model.network.classifier.weight)  # an untrained refiner changes nothing
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved refiner."""
    refiner().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# save and load


def test_segmenter_loads_to_the_same_output(tmp_path: Path) -> None:
    model = segmenter()
    image = torch.rand(2, 3, 40, 56)
    model.save_pretrained(tmp_path)
    loaded = FPNSegmenter.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    before, after = model(image), loaded(image)
    assert torch.equal(before.probs, after.probs)
    assert torch.equal(before.features, after.features)


@pytest.mark.parametrize("conditioning", ["probs", "features"])
def test_refiner_loads_to_the_same_output(tmp_path: Path, conditioning: str) -> None:
    model = refiner(conditioning)
    image = torch.rand(2, 3, 40, 56)
    base = BaseOutput(torch.rand(2, 3, 40, 56).softmax(1), torch.rand(2, 8, 10, 14))
    model.save_pretrained(tmp_path)
    loaded = MaskRefiner.from_pretrained(str(tmp_path))
    assert loaded.config == model.config
    before, after = (m(image, base, num_inference_steps=2) for m in (model, loaded))
    assert torch.equal(before.probs, after.probs)
    assert not torch.allclose(before.probs, base.probs, atol=0.1)


def test_a_folder_holds_config_weights_and_card_only(folder: Path) -> None:
    refiner().save_pretrained(folder)  # over the first
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["README.md", "config.json", "model.safetensors"]
    for path in folder.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK"))  # pickles, alone or zipped


def test_config_names_the_model_and_reads_as_json(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    assert data["model"] == "MaskRefiner"
    assert data["network"]["widths"] == [8, 16]


@pytest.mark.parametrize("error", [SafetensorError("I/O error"), OSError("I/O error")], ids=repr)
def test_weights_that_cannot_be_written_leave_no_file(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(state: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise error

    model = MaskRefiner.from_pretrained(folder)
    monkeypatch.setattr("crispmask.models.checkpoint.save_file", fail)
    with pytest.raises((InputError, OSError), match="I/O error"):
        model.save_pretrained(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


# config.json


def test_unknown_field(folder: Path) -> None:
    change(folder, colour="red")
    with pytest.raises(InputError, match=r"config\.json has fields \['colour'\]"):
        MaskRefiner.from_pretrained(folder)


def test_unknown_field_of_the_network(folder: Path) -> None:
    network = json.loads((folder / "config.json").read_text())["network"]
    change(folder, network=network | {"flavour": 1})
    with pytest.raises(InputError, match=r"\['flavour'\] that MaskUNetConfig does not know"):
        MaskRefiner.from_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("class_names", ["land", "water"], "2 names, the network 3 classes"),
        ("stride", 3, "stride must be 1, 2 or 4, got 3"),
        ("stride", 4, "condition has 51 channels, the network cond_channels=15"),
        ("feature_channels", 4, "feature_channels belongs to"),
        ("process", "absorbing", "has 4 states, the network has num_states=3"),
        ("condition_dropout", 1.5, r"condition_dropout must lie in \[0, 1\), got 1.5"),
    ],
)
def test_contradictory_field(folder: Path, field: str, value: object, match: str) -> None:
    change(folder, **{field: value})
    with pytest.raises(InputError, match=match) as caught:
        MaskRefiner.from_pretrained(folder)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stride", "two"),
        ("stride", 2.0),
        ("stride", True),
        ("residual", 1),
        ("process", "melting"),
        ("schedule", "steep"),
        ("conditioning", "hope"),
        ("class_names", None),
        ("class_names", "abc"),
        ("class_names", ["land", "water", 3]),
        ("network", 7),
        ("condition_dropout", "some"),
    ],
)
def test_field_of_another_type(folder: Path, field: str, value: object) -> None:
    change(folder, **{field: value})
    with pytest.raises(InputError, match=rf"config\.json needs {field} to be .* got "):
        MaskRefiner.from_pretrained(folder)


@pytest.mark.parametrize("field", ["class_names", "network"])
def test_missing_field(folder: Path, field: str) -> None:
    data = json.loads((folder / "config.json").read_text())
    del data[field]
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=f"not a valid RefinerConfig.*'{field}'"):
        MaskRefiner.from_pretrained(folder)


def test_left_out_fields_take_their_defaults(folder: Path) -> None:
    data = json.loads((folder / "config.json").read_text())
    del data["condition_dropout"]
    (folder / "config.json").write_text(json.dumps(data))
    assert MaskRefiner.from_pretrained(folder).config.condition_dropout == 0.0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"MaskRefiner"', "\udcff"])
def test_config_that_is_no_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"config\.json"):
        MaskRefiner.from_pretrained(folder)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json cannot be read.*save_pretrained"):
        MaskRefiner.from_pretrained(tmp_path)


def test_folder_of_another_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a MaskRefiner, needed is a FPNSegmenter"):
        FPNSegmenter.from_pretrained(folder)
    segmenter().save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="holds a FPNSegmenter, needed is a MaskRefiner"):
        MaskRefiner.from_pretrained(tmp_path / "base")


def test_folder_of_an_unknown_model(folder: Path) -> None:
    change(folder, model=None)
    with pytest.raises(InputError, match="model of unknown kind"):
        MaskRefiner.from_pretrained(folder)


# model.safetensors


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_weights(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        MaskRefiner.from_pretrained(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        MaskRefiner.from_pretrained(folder)


def test_a_pickle_is_not_loaded(folder: Path) -> None:
    @dataclass
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (Path.touch, (folder / "sprung",))  # type: ignore[return-value]

    torch.save({"weights": Trap()}, folder / "model.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        MaskRefiner.from_pretrained(folder)
    assert not (folder / "sprung").exists()


def missing(state: dict[str, torch.Tensor]) -> None:
    del state["network.stem.bias"]


def extra(state: dict[str, torch.Tensor]) -> None:
    state["network.stem.charm"] = torch.zeros(3)


def wrongly_shaped(state: dict[str, torch.Tensor]) -> None:
    state["network.stem.bias"] = torch.zeros(9)


@pytest.mark.parametrize("spoil", [missing, extra, wrongly_shaped])
def test_weights_that_do_not_fit(
    folder: Path, spoil: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    spoil(state)
    save_file(state, path)
    with pytest.raises(InputError, match=r"does not fit its config\.json: 1 tensors .*network\.st"):
        MaskRefiner.from_pretrained(folder)


# names


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "no such model", ""])
def test_no_such_model(name: str) -> None:
    with pytest.raises(InputError, match=f"no model called {name!r}" if name else "config.json"):
        MaskRefiner.from_pretrained(name)


LOADERS: list[Callable[[str], object]] = [
    MaskRefiner.from_pretrained,
    MaskPrior.from_pretrained,
    load_base,
    from_transformers,
    TextSegmenter.from_pretrained,
    load_backbone,
]


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__qualname__)
def test_a_hub_id_that_is_no_folder_is_told_how_to_become_one(
    load: Callable[[str], object],
) -> None:
    pytest.importorskip("transformers")
    said = r"^no model called 'nobody/no-such-model': it is (no folder|neither a folder nor .*); "
    said += r"models are loaded from folders.*: hf download nobody/no-such-model --local-dir FOLDER"
    with pytest.raises(InputError, match=said):
        load("nobody/no-such-model")
    with pytest.raises(InputError, match="hf download OWNER/NAME --local-dir FOLDER"):
        load("no such model")


def test_a_mistyped_path_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return "."

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    find_model("runs/refner")
    assert asked == ["runs/refner"]  # may be an owner and a name
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="no model called 'runs/refner'"):
        find_model("runs/refner")
    assert len(asked) == 1


def test_a_file_is_no_model(folder: Path) -> None:
    with pytest.raises(InputError, match="no model called"):
        MaskRefiner.from_pretrained(folder / "model.safetensors")


def test_the_current_folder_is_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert find_model(".") == Path()
    assert MaskRefiner.from_pretrained(".").config.class_names == NAMES


def test_parts_of_a_bundle(tiny_models: Path) -> None:
    assert find_model(tiny_models) == tiny_models
    assert find_model(tiny_models, part="refiner") == tiny_models / "refiner"
    assert MaskRefiner.from_pretrained(tiny_models).config.network.state_input
    assert FPNSegmenter.from_pretrained(tiny_models).config.class_names == NAMES
    control = MaskRefiner.from_pretrained(find_model(tiny_models, part="control"))
    assert not control.config.network.state_input


# configs from JSON


@dataclass(frozen=True, kw_only=True)
class Inner:
    sides: tuple[int, int]
    pairs: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    other: Inner | None = None
    name: str | None = None


def test_nested_configs_come_back_as_they_were() -> None:
    data = {"inner": {"sides": [1, 2], "pairs": [[0, 0.5]]}, "other": {"sides": [3, 4]}}
    expected = Outer(inner=Inner(sides=(1, 2), pairs=((0, 0.5),)), other=Inner(sides=(3, 4)))
    assert from_dict(Outer, data, source="here") == expected


@pytest.mark.parametrize(
    "data",
    [
        {"inner": {"sides": [1, 2, 3]}},
        {"inner": {"sides": 1}},
        {"inner": {"sides": [1, 2], "pairs": [[0.5]]}},
        {"inner": {"sides": [1, 2]}, "name": 3},
        {"inner": None},
    ],
)
def test_nested_configs_of_another_type(data: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="here needs"):
        from_dict(Outer, data, source="here")
