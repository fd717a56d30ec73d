"""The Python of README and docs runs, their commands parse, and their links lead somewhere."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from crispmask import cli
from crispmask.models.checkpoint import WEIGHTS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    )
]

COMMAND = r"^(?:\| `| {4}|)(?:accelerate launch .* -m )?crispmask (.+?)(?:` \|.*)?$"
"""A command in a block of code or in a table."""

COMMANDS = [
    pytest.param(command, id=f"{source.name}-{command[:40]}")
    for pattern, sources in (
        (COMMAND, [page for page in PAGES if page.name != "log.md"]),  # the log tells of the past
        (r"[Ee]xample:\s+crispmask (.+)", sorted((ROOT / "src/crispmask/cli").glob("*.py"))),
    )
    for source in sources
    for command in re.findall(
        pattern, source.read_text(encoding="utf-8").replace("\\\n", " "), re.MULTILINE
    )
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = cli._call

    def parse(run: Any, *rest: Any) -> int:
        return call(lambda arguments: 0, *rest)

    monkeypatch.setattr(cli, "_call", parse)
    assert cli._run(shlex.split(command.replace("RECIPE", "refiner"))) == 0


@pytest.mark.parametrize("recipe", ["evidence", "earth-base", "prior", "text"])
def test_help_on_a_recipe_has_an_example(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._run(["train", recipe, "--help"]) == 0
    text, _, rest = capsys.readouterr().out.partition("Example: crispmask ")
    assert "\n    " not in text  # the indentation of the code
    example = rest.splitlines()[0]
    assert ("--data DIR" in example) == (recipe != "earth-base")
    test_commands_parse(example, monkeypatch)


def test_every_script_that_is_named_exists() -> None:
    for page in PAGES:
        for script in re.findall(r"python ([\w/]+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / script).exists(), f"{page.name}: {script}"


@pytest.mark.parametrize("code", BLOCKS)
def test_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "earth-small" in code and not (WEIGHTS / "earth-small").is_dir():
        pytest.skip("the weights earth-small are not bundled")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_first_screen_of_the_readme() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    top = "\n".join(lines[:32])
    assert "make demo" in top
    assert "make test" in top
    assert "```python" in top


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
