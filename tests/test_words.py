"""Words of the code: a docstring says what something is, and a name stands for one thing."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("dynamicpo", "components", "pipelines")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
QUESTION_WORDS = {"What", "Whether", "How", "Where", "Which", "Who"}
# Public names that more than one module of dynamicpo may define.
SHARED_NAMES = {
    "main": "the start of each program",
    "compile_pipeline": "a command and the function that it calls",
    "submit": "a command and the function that it calls",
}
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def questions(source: str) -> list[str]:
    """The docstrings that begin with a question word instead of a verb or a noun."""
    first_words = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, *DEFINITIONS)):
            docstring = ast.get_docstring(node) or ""
            first_words.append((docstring.partition(" ")[0], docstring))
    return [docstring for word, docstring in first_words if word in QUESTION_WORDS]


def public_names(source: str) -> Iterator[str]:
    """Functions, classes, type aliases and constants that a module defines.

    Variables in lower case, such as a module's `log`, are left out.
    """
    for node in ast.parse(source).body:
        if isinstance(node, DEFINITIONS):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            names = [name for name in names if name[0].isupper()]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def homonyms(package: Path) -> dict[str, list[str]]:
    """The public names that more than one module of a package defines, with these modules."""
    modules = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for name in set(public_names(path.read_text(encoding="utf-8"))):
            modules[name].append(str(path.relative_to(package)))
    return {name: files for name, files in modules.items() if len(files) > 1}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_begin_with_a_verb_or_a_noun(path: Path):
    assert questions(path.read_text(encoding="utf-8")) == []


def test_a_public_name_stands_in_one_module():
    shared = homonyms(ROOT / "dynamicpo")
    assert set(shared) == set(SHARED_NAMES), shared


def test_a_question_is_found():
    source = 'def f():\n    """Where it stands."""\n\n\nclass A:\n    """Wherever it stands."""\n'
    assert questions(source) == ["Where it stands."]


def test_a_homonym_is_found(tmp_path: Path):
    (tmp_path / "a.py").write_text("log = 1\nWIDTH: int = 3\n_LIMIT = 1\ndef read(): ...\n")
    (tmp_path / "b.py").write_text("log = 2\nWIDTH = 4\n_LIMIT = 2\nclass Read: ...\n")
    assert homonyms(tmp_path) == {"WIDTH": ["a.py", "b.py"]}
