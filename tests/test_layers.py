"""Imports go one way: a module imports from its own room and from rooms before it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dynamicpo"
ROOMS = [
    "core",
    "objective",
    "metrics",
    "distributed",
    "scoring",
    "prompts",
    "models",
    "reports",
    "data",
    "negatives",
    "training",
    "evaluation",
    "monitoring",
    "promotion",
    "study",
    "runs",
    "cli",
]
# `python -m dynamicpo` stands above all rooms.
ORDER = [*ROOMS, "__main__"]
# Stages meet in files only: these modules hold the stage functions and don't import one another.
STAGES = {
    "data.prepare",
    "negatives.sampling",
    "negatives.audit.audit",
    "training.sft",
    "training.preference_training",
    "evaluation.evaluate",
    "evaluation.comparison",
    "monitoring.drift",
    "study.judge",
}
# What the mathematics may import besides the standard library and `core`.
MATHEMATICS = {"objective": {"torch"}, "metrics": {"numpy", "scipy"}}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.read_text(encoding="utf-8").strip())


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str) -> Iterator[str]:
    """The full names of what a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def violations(module: str, source: str) -> list[str]:
    """The imports of a module that go to a later room, or from a stage to another."""
    own_room = module.partition(".")[0]
    wrong = []
    for name in imported(source):
        top, _, rest = name.partition(".")
        if top in ("dynamicpo_components", "dynamicpo_pipelines", "tests") and own_room != "runs":
            wrong.append(name)
        room = rest.partition(".")[0]
        if top != "dynamicpo" or room == "__version__":
            continue
        other_stage = next(
            (stage for stage in STAGES if f"{rest}.".startswith(f"{stage}.")), module
        )
        if ORDER.index(room) > ORDER.index(own_room) or (
            module in STAGES and other_stage != module
        ):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_modules_import_from_their_room_and_those_before_it(path: Path):
    source = path.read_text(encoding="utf-8")
    if path == PACKAGE / "__init__.py":
        assert not list(imported(source))
        return
    assert violations(module_of(path), source) == []


def test_every_room_stands_in_the_order():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(ROOMS)
    assert {module_of(path) for path in FILES} >= STAGES


def test_a_wrong_import_is_found():
    late = "from dynamicpo.scoring.shared_prefix import score_rows"
    assert violations("objective.boundary", late) == ["dynamicpo.scoring.shared_prefix.score_rows"]
    stage = "def f():\n    from dynamicpo.training import preference_training"
    assert violations("training.sft", stage) == ["dynamicpo.training.preference_training"]
    assert violations("training.sft", "from dynamicpo.models import checkpoints") == []


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if module_of(path).partition(".")[0] in MATHEMATICS],
    ids=module_of,
)
def test_mathematics_imports_little(path: Path):
    allowed = MATHEMATICS[module_of(path).partition(".")[0]]
    for name in imported(path.read_text(encoding="utf-8")):
        top = name.partition(".")[0]
        ours = name.startswith(
            ("dynamicpo.core", f"dynamicpo.{path.relative_to(PACKAGE).parts[0]}")
        )
        assert ours or top in allowed or top in sys.stdlib_module_names, name


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("components/*/*.py"), *ROOT.glob("pipelines/*/*.py")]),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_components_and_pipelines_load_kfp_only(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module_scope = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    source = ast.unparse(ast.Module(module_scope, []))
    allowed = {"kfp", "dynamicpo_components", "dynamicpo_pipelines", *sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in imported(source)} <= allowed
