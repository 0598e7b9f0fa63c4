"""Imports go one way: from higher layers to lower ones."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dynamicpo"
# A module imports from the lines above its own only.
LAYERS = [
    ["errors"],
    ["config", "storage", "keyed", "locks", "progress"],
    ["records", "catalogue", "grid", "templates"],
    ["logps", "losses", "boundary", "metrics", "intervals", "charts", "exclusions", "steps"],
    ["objective", "prompts", "packing", "pages", "rankings"],
    ["attention", "fused", "backbones"],
    ["modeling", "scoring", "generation", "training", "results"],
    ["reference", "importers", "baselines", "trie", "evaluations"],
    ["sasrec"],
    ["audit"],
    ["data", "negatives", "sft", "preference", "evaluation", "comparison", "study", "drift"],
    ["runs"],
    ["commands"],
    ["cli"],
]
LAYER = {module: place for place, modules in enumerate(LAYERS) for module in modules}
MATHEMATICS = ["logps", "losses", "boundary", "metrics", "intervals"]
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of the modules that a source imports, with what is imported from the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "dynamicpo":
                yield from (f"dynamicpo.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def violations(module: str, source: str) -> list[str]:
    found = []
    for name in imported(ast.parse(source)):
        top, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if top in ("components", "pipelines", "tests") and module != "runs":
            found.append(name)
        if top == "dynamicpo" and other not in ("", "__version__", module) and LAYER[other] >= LAYER[module]:
            found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_from_lower_layers_only(path: Path):
    module = module_of(path)
    if module == "__init__":
        assert not list(imported(ast.parse(path.read_text(encoding="utf-8"))))
        return
    assert module in LAYER, f"{module} stands in no layer: add it to LAYERS"
    assert violations(module, path.read_text(encoding="utf-8")) == []


def test_a_wrong_import_is_found():
    assert violations("boundary", "from dynamicpo.scoring import score_rows") == ["dynamicpo.scoring"]
    assert violations("sft", "def f():\n    from dynamicpo import preference") == ["dynamicpo.preference"]
    assert violations("sft", "from dynamicpo import errors, modeling") == []


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path) in MATHEMATICS], ids=lambda path: path.stem)
def test_mathematics_imports_torch_and_numpy_only(path: Path):
    allowed = {"torch", "numpy", "dynamicpo", *sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))} <= allowed


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("components/*/*.py"), *ROOT.glob("pipelines/*/*.py")]),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_components_and_pipelines_load_kfp_only(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module_scope = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
    allowed = {"kfp", "components", "pipelines", *sys.stdlib_module_names}
    assert {name.partition(".")[0] for name in imported(module_scope)} <= allowed
