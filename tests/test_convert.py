"""Official DDPS checkpoints: the same numbers as the official network, nothing lost in silence."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from crispmask.cli import main
from crispmask.data.catalog import shared_data
from crispmask.errors import InputError
from crispmask.models.convert import convert_ddps
from crispmask.models.ddps_report import ConversionReport
from crispmask.models.refiner import MaskRefiner
from crispmask.models.segformer import SegformerBase
from ddps_layout import Official, with_copies

TINY = Official()
SAVED = TINY.state()


def save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


# agreement with the official network


@pytest.fixture(scope="module")
def oracle() -> Path:
    data = shared_data()
    if data is None or not (data / "ddps-oracle").is_dir():
        pytest.skip("no ddps-oracle here: set CRISPMASK_DATA to the folder that holds it")
    return data / "ddps-oracle"


def test_it_computes_what_the_official_network_computes(oracle: Path, tmp_path: Path) -> None:
    report = convert_ddps(oracle / "checkpoint.pth", tmp_path / "out")
    assert (report.num_classes, report.num_steps) == (20, 20)
    base = SegformerBase.from_pretrained(tmp_path / "out")
    refiner = MaskRefiner.from_pretrained(tmp_path / "out")
    want = load_file(oracle / "io.safetensors")
    image = want["image"]  # normalised

    def same(got: Tensor, name: str) -> None:
        torch.testing.assert_close(got, want[name], atol=1e-4, rtol=0)

    with torch.inference_mode():
        maps = base.maps(image)
        for i in range(4):
            same(maps[i], f"feature_{i}")
        features = base.features(image * base.std + base.mean)
        same(features, "condition")
        stem = refiner.network.condition(features)
        for t_off in (0, 7, 19):
            t = torch.full((2,), 1 - t_off / 19)
            same(refiner.network(want[f"x_t_{t_off}"], stem, t), f"logits_t_{t_off}")


def test_the_generator_of_these_tests_knows_the_official_layout(oracle: Path) -> None:
    lines = (oracle / "keys.txt").read_text().splitlines()
    official = {}
    for line in lines:
        name, shape = line.split(" ", 1)
        official[name] = tuple(int(n) for n in re.findall(r"\d+", shape))
    assert Official(classes=20).shapes() == official


# other sizes


@pytest.mark.parametrize(
    "sizes",
    [
        Official(classes=7, steps=100, width=24),
        Official(mit_widths=(8, 16, 40, 64), depths=(2, 2, 2, 2), neck=24),
        Official(multipliers=(1, 2, 4), width=16),
        Official(multipliers=(2, 2), width=8, embed=4, classes=3, steps=2),
        Official(depths=(3, 4, 6, 3), width=8),
        Official(mit_widths=(8, 16, 32, 64)),
    ],
    ids=str,
)
def test_every_size_loads_and_every_key_is_reported(sizes: Official, tmp_path: Path) -> None:
    state = sizes.state()
    path = save({"meta": {"iter": 1}, "state_dict": state, "optimizer": {}}, tmp_path / "a.pth")
    report = convert_ddps(path, tmp_path / "out")

    names = [key.name for key in report.keys]
    assert sorted(names) == sorted([*state, "meta", "optimizer"])
    assert all(bool(key.targets) != bool(key.ignored) for key in report.keys)
    ignored = {key.name for key in report.keys if key.ignored}
    assert ignored == {"meta", "optimizer"} | {
        k for k in state if "num_batches_tracked" in k or ".log_" in k
    }

    base = SegformerBase.from_pretrained(tmp_path / "out")
    refiner = MaskRefiner.from_pretrained(tmp_path / "out")
    goals = {goal for key in report.keys for goal in key.targets}
    assert goals == {f"base: {k}" for k in base.state_dict() if "num_batches" not in k} | {
        f"refiner: {k}" for k in refiner.state_dict()
    }
    assert refiner.config.network.time_scale == sizes.steps - 1
    assert not refiner.network.embed.weight.requires_grad
    given = sum(v.numel() for k, v in state.items() if k not in ignored)
    taken = sum(
        v.numel()
        for model in (base, refiner)
        for k, v in model.state_dict().items()
        if "num_batches" not in k
    )
    assert taken == given

    image = torch.rand(1, 3, 37, 53)
    out = refiner(image, base(image), num_inference_steps=2)
    assert out.probs.shape == (1, sizes.classes, 37, 53)


def test_the_published_sizes_are_recognised(tmp_path: Path) -> None:
    b0 = Official(mit_widths=(32, 64, 160, 256), depths=(2, 2, 2, 2))
    report = convert_ddps(save(b0.state(), tmp_path / "a.pth"), tmp_path / "out")
    assert report.backbone == "mit-b0"
    assert report.widths == ((16, 16, 16), (16, 16, 16))


# wrappers and copies


def converted(state: object, folder: Path, **options: object) -> dict[str, Tensor]:
    """The tensors of the models that come of a checkpoint."""
    path = save(state, folder / "a.pth")
    convert_ddps(path, folder / "out", **options)  # type: ignore[arg-type]
    return load_file(folder / "out/base/model.safetensors") | load_file(
        folder / "out/refiner/model.safetensors"
    )


def equal(a: dict[str, Tensor], b: dict[str, Tensor], *, times: float = 1) -> bool:
    return a.keys() == b.keys() and all(torch.equal(times * a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return converted(SAVED, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_wrappers_change_nothing(
    plain: dict[str, Tensor], tmp_path: Path, prefix: str, wrapped: bool
) -> None:
    state = {f"{prefix}{k}": v for k, v in SAVED.items()}
    notes = {
        "hook_msgs": {"best_score": np.float64(0.5), "last_iter": np.int64(3)},
        "CLASSES": ("a", "b"),
        "PALETTE": [[1, 2, 3]],
        "config": "model = dict()",
        "seed": None,
    }
    content = {"meta": notes, "state_dict": state} if wrapped else state
    assert equal(plain, converted(content, tmp_path))


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
def test_half_precision_becomes_single(
    plain: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype
) -> None:
    """The tables of the schedule, too, are then known to few digits only."""
    got = converted({k: v.to(dtype) for k, v in SAVED.items()}, tmp_path)
    assert {v.dtype for k, v in got.items() if "num_batches" not in k} == {torch.float32}
    for name, value in got.items():
        torch.testing.assert_close(value, plain[name], atol=1e-3, rtol=torch.finfo(dtype).eps)


def test_heads_are_as_many_as_the_widths_say(tmp_path: Path) -> None:
    state = Official(mit_widths=(8, 16, 32, 64)).state()
    convert_ddps(save(state, tmp_path / "a.pth"), tmp_path / "out")
    assert SegformerBase.from_pretrained(tmp_path / "out").config.heads == (1, 2, 4, 8)
    convert_ddps(save(SAVED, tmp_path / "b.pth"), tmp_path / "official")
    assert SegformerBase.from_pretrained(tmp_path / "official").config.heads == (1, 2, 5, 8)


def test_copies_can_be_left_alone(plain: dict[str, Tensor], tmp_path: Path) -> None:
    content = {"state_dict": with_copies(SAVED)}
    assert equal(plain, converted(content, tmp_path, weights="model"))


def test_copies_take_the_place_of_their_originals(plain: dict[str, Tensor], tmp_path: Path) -> None:
    got = converted({"state_dict": with_copies(SAVED)}, tmp_path)
    assert equal(plain, got, times=2)
    keys = json.loads((tmp_path / "out" / "conversion.json").read_text())["keys"]
    assert sorted(key["name"] for key in keys) == sorted(with_copies(SAVED))
    assert "ema_decode_head_embed_weight" in {key["name"] for key in keys if key["ignored"]}


def test_copies_of_parameters_alone_leave_the_statistics(
    plain: dict[str, Tensor], tmp_path: Path
) -> None:
    buffers = ("running_mean", "running_var", "num_batches_tracked", "_at", "_bt")
    got = converted(with_copies(SAVED, skip=buffers), tmp_path)
    assert torch.equal(got["neck.fuse.1.running_var"], plain["neck.fuse.1.running_var"])
    assert torch.equal(got["neck.fuse.1.weight"], 2 * plain["neck.fuse.1.weight"])


def test_an_unused_classifier_is_left_out(plain: dict[str, Tensor], tmp_path: Path) -> None:
    more = {"decode_head.conv_seg.weight": torch.zeros(7, 16, 1, 1)}
    assert equal(plain, converted(SAVED | more, tmp_path))
    keys = json.loads((tmp_path / "out" / "conversion.json").read_text())["keys"]
    (key,) = (key for key in keys if key["name"] == "decode_head.conv_seg.weight")
    assert "classifier" in key["ignored"]


# from image to mask


def test_from_image_to_mask_in_exactly_n_calls(tmp_path: Path) -> None:
    names = [f"kind {i}" for i in range(1, 7)]
    convert_ddps(save(SAVED, tmp_path / "a.pth"), tmp_path / "out", class_names=names)
    base = SegformerBase.from_pretrained(tmp_path / "out")
    refiner = MaskRefiner.from_pretrained(tmp_path / "out")
    assert refiner.config.class_names == base.config.class_names == ("void", *names)
    with torch.no_grad():
        assert refiner.network.classifier.bias is not None
        refiner.network.classifier.bias[0] += 100  # void wherever it is allowed
    calls: list[Tensor] = []
    refiner.network.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[2]))
    states: list[Tensor] = []
    refiner.network.register_forward_pre_hook(lambda module, inputs: states.append(inputs[0]))
    image = torch.rand(2, 3, 50, 70)
    for n in (1, 2, 5):
        calls.clear()
        out = refiner(image, base(image), num_inference_steps=n, keep_trace=True)
        assert len(calls) == out.num_calls == n
        assert [t[0].item() for t in calls] == pytest.approx([1 - i / n for i in range(n)])
        assert out.labels.min() > 0
        assert (out.probs[:, 0] == 0).all()
        assert all(labels.min() > 0 for labels in out.trace)
    assert (states[0] == 0).any()  # noise may be void


# the command


def test_the_command_prints_a_table_and_writes_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = save(SAVED, tmp_path / "a.pth"), tmp_path / "new" / "out"
    classes = tmp_path / "classes.txt"
    classes.write_text("road\nsky\n\ntree\ncar\nwall\nsign\n")
    words = ["convert", "ddps", str(path), str(out), "--classes", str(classes)]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "decode_head.embed" in shown.out
    assert "refiner: network.embed" in shown.out
    assert MaskRefiner.from_pretrained(out).config.class_names[:3] == ("void", "road", "sky")
    found = {str(p.relative_to(out)) for p in out.rglob("*.*")}
    files = ("README.md", "config.json", "model.safetensors")
    assert found == {f"{part}/{file}" for part in ("base", "refiner") for file in files} | {
        "conversion.json"
    }


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(SAVED, tmp_path / "a.pth")
    assert main(["convert", "ddps", str(path), str(tmp_path / "out"), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    assert report == json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (report["num_classes"], report["num_steps"]) == (7, 20)
    assert len(report["keys"]) == len(SAVED)


def test_the_report_as_text_has_a_line_for_each_key(tmp_path: Path) -> None:
    report: ConversionReport = convert_ddps(save(SAVED, tmp_path / "a.pth"), tmp_path / "out")
    assert len(str(report).splitlines()) == len(SAVED)
    stem = "decode_head.unet.init_conv.weight [16, 32, 7, 7] -> "
    assert f"{stem}refiner: network.stem.weight, refiner: network.stem_state.weight" in str(report)


# what cannot be converted


Refuse = Callable[..., str]


@pytest.fixture
def refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs a conversion that must fail well, and returns its one sentence."""

    def run(content: object, *words: str) -> str:
        path = content if isinstance(content, Path) else save(content, tmp_path / "a.pth")
        before = sorted(tmp_path.rglob("*"))
        assert main(["convert", "ddps", str(path), str(tmp_path / "out"), *words]) == 2
        captured = capsys.readouterr()
        (sentence,) = captured.err.splitlines()
        assert captured.out == ""
        assert sentence.startswith("crispmask: ")
        assert "Traceback" not in sentence
        assert sorted(tmp_path.rglob("*")) == before
        return sentence

    return run


def without(*names: str) -> dict[str, Tensor]:
    return {k: v for k, v in SAVED.items() if k not in names}


def test_missing_file(refuse: Refuse, tmp_path: Path) -> None:
    assert "no.pth" in refuse(tmp_path / "no.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 no zip", bytes(1000)])
def test_no_checkpoint(refuse: Refuse, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.pth"
    path.write_bytes(content)
    sentence = refuse(path)
    assert "b.pth" in sentence
    assert "damaged" in sentence


@pytest.mark.parametrize("share", [0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file(refuse: Refuse, tmp_path: Path, share: float, zipped: bool) -> None:
    path = tmp_path / "b.pth"
    torch.save(SAVED, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "damaged" in refuse(path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_code_is_refused(refuse: Refuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refuse({"meta": Harmful(), "state_dict": SAVED})
    assert "Python code" in sentence
    assert "refused" in sentence
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "content",
    [[], {}, 7, {"state_dict": {}}, {"state_dict": [1]}, {"a": 1}, {3: torch.zeros(1)}],
    ids=str,
)
def test_no_tensors(refuse: Refuse, content: object) -> None:
    assert "dictionary of tensors" in refuse(content)


def test_another_base(refuse: Refuse) -> None:
    state = {k: v for k, v in SAVED.items() if not k.startswith("backbone")}
    assert "DeepLab" in refuse(state | {"backbone.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    "name",
    [
        "decode_head.embed.weight",
        "decode_head.conv_seg_new.weight",
        "decode_head.log_at",
        "decode_head.unet.mid_attn.fn.norm.g",
        "backbone.layers.0.1.0.attn.attn.in_proj_bias",
        "backbone.layers.2.1.0.attn.sr.weight",
        "backbone.layers.3.1.0.ffn.layers.0.weight",
        "decode_head.convs.2.bn.running_var",
    ],
)
def test_missing_keys(refuse: Refuse, name: str) -> None:
    sentence = refuse(without(name))
    assert name.removesuffix(".weight") in sentence


def test_several_missing_and_extra_keys_are_all_listed(refuse: Refuse) -> None:
    gone = ("decode_head.unet.final_conv.bias", "backbone.layers.1.2.bias")
    state = without(*gone) | {"decode_head.unet.extra.weight": torch.zeros(2)}
    sentence = refuse(state)
    assert "3 points" in sentence
    for name in (*gone, "decode_head.unet.extra.weight is unknown"):
        assert name in sentence


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("decode_head.embed.weight", (6, 16)),
        ("decode_head.embed.weight", (7,)),
        ("decode_head.unet.init_conv.weight", (16, 33, 7, 7)),
        ("decode_head.unet.init_conv.weight", (16, 32, 6, 6)),
        ("decode_head.conv_seg_new.weight", (7, 15, 1, 1)),
        ("decode_head.conv_seg_new.weight", (1, 16, 1, 1)),
        ("decode_head.log_at", (21,)),
        ("decode_head.unet.downs.0.0.block1.proj.weight", (12, 16, 3, 3)),
        ("decode_head.unet.ups.1.2.fn.fn.to_qkv.weight", (192, 16, 1, 1)),
        ("backbone.layers.0.1.0.attn.attn.in_proj_weight", (25, 8)),
        ("backbone.layers.0.1.0.attn.attn.in_proj_bias", ()),
        ("backbone.layers.1.0.projection.weight", (15, 8, 3, 3)),
        ("backbone.layers.1.0.projection.weight", (16,)),
        ("backbone.layers.2.1.0.ffn.layers.0.weight", (161, 40, 1, 1)),
        ("backbone.layers.0.1.0.ffn.layers.4.weight", (8, 32, 3, 3)),
    ],
)
def test_wrong_shapes(refuse: Refuse, name: str, shape: tuple[int, ...]) -> None:
    refuse(SAVED | {name: torch.zeros(shape)})


def test_a_wrong_shape_is_named_with_what_is_needed(refuse: Refuse) -> None:
    sentence = refuse(SAVED | {"decode_head.embed.weight": torch.zeros(6, 16)})
    assert "decode_head.embed.weight has shape (6, 16)" in sentence
    assert "needs (7, 16)" in sentence


def test_weights_that_are_not_finite(refuse: Refuse) -> None:
    sentence = refuse(SAVED | {"decode_head.embed.weight": torch.full((7, 16), torch.nan)})
    assert "decode_head.embed.weight is not finite" in sentence


def test_names_of_another_number_of_classes(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    sentence = refuse(SAVED, "--classes", str(tmp_path / "classes.txt"))
    assert "6 classes beside void" in sentence
    assert "got 2" in sentence


def test_names_that_cannot_be_read(refuse: Refuse, tmp_path: Path) -> None:
    assert "no.txt" in refuse(SAVED, "--classes", str(tmp_path / "no.txt"))
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "classes.txt" in refuse(SAVED, "--classes", str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    "content",
    [
        SAVED | {"ema_something": torch.zeros(1)},
        SAVED | {"ema_decode_head_embed_weight": torch.zeros(7, 16)},
        {"state_dict": SAVED, "ema_state_dict": SAVED},
        {"state_dict": SAVED, "state_dict_ema": SAVED},
    ],
    ids=["no original", "some only", "beside", "beside, other name"],
)
def test_unknown_layout_of_copies(refuse: Refuse, content: object) -> None:
    assert "unknown EMA layout" in refuse(content)


def test_a_single_time_step(refuse: Refuse) -> None:
    state = SAVED | {
        "decode_head.log_at": torch.zeros(1),
        "decode_head.log_cumprod_at": torch.zeros(2),
    }
    assert "1 time step" in refuse(state)


def test_another_noise_schedule(refuse: Refuse) -> None:
    n = torch.arange(20) / 20
    cosine = torch.cat([((1 - (n * torch.pi / 2).sin()) ** 2 + 1e-5).log(), torch.zeros(1)])
    assert "noise schedule" in refuse(SAVED | {"decode_head.log_cumprod_at": cosine})


def test_output_that_exists(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert "exists already" in refuse(SAVED)


def test_unknown_kind_of_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "sd", "a", "b"]) == 2
    assert "convert ddps" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    path = save(SAVED, tmp_path / "a.pth")
    monkeypatch.setattr(MaskRefiner, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        convert_ddps(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_errors_of_the_function_are_the_projects(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.pth cannot be read"):
        convert_ddps(tmp_path / "no.pth", tmp_path / "out")
