"""`import crispmask` is quick, loads no extra, and offers what it lists."""

import subprocess
import sys

import crispmask

EXTRAS = "diffusers transformers tensorboard efficientnet_lite_pytorch beartype hypothesis pytest"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_takes_under_two_seconds_on_top_of_torch() -> None:
    out = run(
        "import time, torch; start = time.perf_counter(); import crispmask; "
        "print(time.perf_counter() - start)"
    )
    assert float(out) < 2


def loaded_by(code: str, names: str) -> str:
    return run(f"import sys\n{code}\nprint(*[n for n in {names!r}.split() if n in sys.modules])")


def test_import_loads_no_extra_and_none_of_the_heavy_parts() -> None:
    heavy = f"{EXTRAS} torchmetrics kornia accelerate rich tyro"
    assert loaded_by("import crispmask", heavy).strip() == ""


def test_a_refiner_loads_neither_metrics_nor_training() -> None:
    unwanted = f"{EXTRAS} torchmetrics accelerate crispmask.report crispmask.train"
    assert loaded_by("from crispmask import MaskRefiner", unwanted).strip() == ""


def test_no_public_name_loads_an_extra() -> None:
    code = "import crispmask\nfor name in crispmask.__all__: getattr(crispmask, name)"
    extras = EXTRAS.replace("transformers ", "")  # torchmetrics loads it where it is installed
    assert loaded_by(code, extras).strip() == ""


def test_every_public_name_exists_and_is_listed() -> None:
    assert 12 <= len(crispmask.__all__) <= 30
    for name in crispmask.__all__:
        assert getattr(crispmask, name) is not None
    assert set(crispmask.__all__) <= set(dir(crispmask))


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(crispmask, "no_such_name")
