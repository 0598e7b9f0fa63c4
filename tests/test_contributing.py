"""The recipes of CONTRIBUTING.md: each is applied to a copy of the code, where its test passes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

# The folders of the sources, and the names that they are installed under.
INSTALLED = {
    "dynamicpo": "dynamicpo",
    "components": "dynamicpo_components",
    "pipelines": "dynamicpo_pipelines",
}
MOST_LINES = 19


class Recipe(NamedTuple):
    """A section of CONTRIBUTING.md: changes of the code, and a test of what they make."""

    changes: str
    test: str


class Hunk(NamedTuple):
    """A change of one file: lines that stand there once, and what stands there afterwards."""

    path: str
    old: str
    new: str


def read_recipes() -> dict[str, Recipe]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = {}
    for section in re.split(r"(?m)^## ", text)[1:]:
        title = section.partition("\n")[0]
        blocks = dict(re.findall(r"```(diff|python)\n(.*?)```", section, re.DOTALL))
        if blocks:
            recipes[title] = Recipe(blocks["diff"], blocks["python"])
    return recipes


RECIPES = read_recipes()
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())


def hunks(changes: str) -> list[Hunk]:
    result = []
    for part in re.split(r"(?m)^--- ", changes)[1:]:
        path, _, body = part.partition("\n")
        lines = body.splitlines()
        assert {line[0] for line in lines} <= {"+", "-", " "}
        old = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
        new = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
        result.append(Hunk(path, old, new))
    return result


def code_lines(block: str) -> int:
    return sum(1 for line in block.splitlines() if line.strip(" +"))


def copied_sources(target: Path) -> None:
    leave_out = shutil.ignore_patterns("__pycache__", "*.png", "*.svg")
    for folder, name in INSTALLED.items():
        shutil.copytree(ROOT / folder, target / name, ignore=leave_out)
    shutil.copytree(ROOT / "tests" / "fixtures", target / "tests" / "fixtures", ignore=leave_out)


def apply(changes: str, target: Path) -> None:
    for hunk in hunks(changes):
        folder, _, rest = hunk.path.partition("/")
        file = target / INSTALLED[folder] / rest
        if hunk.old:
            text = file.read_text(encoding="utf-8")
            assert text.count(hunk.old) == 1, f"{hunk.path} has no such lines: {hunk.old}"
            file.write_text(text.replace(hunk.old, hunk.new), encoding="utf-8")
        else:
            assert not file.exists()
            file.parent.mkdir(exist_ok=True)
            file.write_text(hunk.new, encoding="utf-8")


def test_the_recipes_are_those_that_are_promised():
    assert list(RECIPES) == ["A loss", "A negative strategy", "A data source", "A component"]


@recipes
def test_recipe_is_short(recipe: Recipe):
    changed = [line for line in recipe.changes.splitlines() if line[0] == "+"]
    assert code_lines("\n".join(changed)) <= MOST_LINES
    assert code_lines(recipe.test) <= MOST_LINES


@recipes
def test_recipe_works(recipe: Recipe, tmp_path: Path):
    copied_sources(tmp_path)
    apply(recipe.changes, tmp_path)
    (tmp_path / "test_recipe.py").write_text(recipe.test, encoding="utf-8")
    # The current folder comes first on the path, before the editable install.
    run_pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command = [*run_pytest, "--rootdir", ".", "test_recipe.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@recipes
def test_recipe_is_needed(recipe: Recipe, tmp_path: Path):
    copied_sources(tmp_path)
    (tmp_path / "test_recipe.py").write_text(recipe.test, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", ".", "test_recipe.py"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 1, "the test passes without the recipe's changes"


@recipes
def test_recipe_is_written_as_our_code(recipe: Recipe, tmp_path: Path):
    copied_sources(tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    apply(recipe.changes, tmp_path)
    files = {hunk.path for hunk in hunks(recipe.changes)}
    for path in files:
        folder, _, rest = path.partition("/")
        file = tmp_path / INSTALLED[folder] / rest
        for arguments in (["check"], ["format", "--check"]):
            command = [sys.executable, "-m", "ruff", *arguments, str(file)]
            finished = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert finished.returncode == 0, finished.stdout + finished.stderr
