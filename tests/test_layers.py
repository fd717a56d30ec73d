"""Imports point down only, neighbours do not know each other, extras stay inside functions."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "crispmask"

LAYERS = [  # top first; neighbours in a layer do not know each other
    ["__main__"],
    ["cli"],
    ["recipes"],
    ["text_recipes", "paper_recipes"],
    ["train", "evaluate"],
    ["report", "provenance", "predict"],
    ["models"],
    ["diffusion", "nn", "data", "metrics"],
    ["shapes", "errors", "atomic"],
]
DEPTH = {module: depth for depth, layer in enumerate(LAYERS) for module in layer}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def name(path: Path) -> str:
    """`predict` of src/crispmask/predict.py, `nn` of src/crispmask/nn/unet.py."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            assert node.module is not None
            if node.module == "crispmask":
                yield from (f"crispmask.{alias.name}" for alias in node.names)
            else:
                yield node.module


def imports_at_load(tree: ast.AST) -> Iterator[str]:
    """Names imported when the module is, so outside functions and `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        else:
            yield from imports_at_load(node)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = name(path)
    assert own in DEPTH, f"{own} has no place in LAYERS: add it there and in docs/concepts.md"
    for target in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if not target.startswith("crispmask."):
            continue
        other = target.split(".")[1]
        assert other in DEPTH, f"{own} imports {target}: import from the module that defines it"
        assert other == own or DEPTH[other] > DEPTH[own], f"{target} is not below {own}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_core_dependencies_are_imported_at_load(path: Path) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        requirements = tomllib.load(file)["project"]["dependencies"]
    core = {re.split(r"[<>=\[ ]", line)[0].replace("-", "_") for line in requirements}
    core = core - {"pillow"} | {"PIL", "crispmask"}
    loaded = {t.split(".")[0] for t in imports_at_load(ast.parse(path.read_text("utf-8")))}
    assert loaded <= core | sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_annotations_stay_visible_to_the_shape_checker(path: Path) -> None:
    assert "from __future__ import annotations" not in path.read_text(encoding="utf-8")
