"""What is installed: declared dependencies, and a wheel that holds all that the code reads."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSTALLED_NAMES = {
    "dynamicpo": "dynamicpo",
    "components": "dynamicpo_components",
    "pipelines": "dynamicpo_pipelines",
}
# Declared, and used by another library, or by the code that rows are made for.
NOT_IMPORTED = {
    "datasets": "rows open in it for other training code (test_rows_elsewhere)",
    "gguf": "transformers reads GGUF checkpoints with it",
}
DISTRIBUTIONS = metadata.packages_distributions()


def modules(source: str) -> Iterator[str]:
    """The full names of what a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def distribution_of(module: str) -> str:
    """The distribution that a module comes from.

    Several share `google` and `kfp`: there the one that has the file of the longest prefix counts.
    """
    parts = module.split(".")
    candidates = sorted(set(DISTRIBUTIONS.get(parts[0], [])))
    if len(candidates) == 1:
        return canonicalize_name(candidates[0])
    for length in range(len(parts), 1, -1):
        prefix = "/".join(parts[:length])
        sources = {PurePosixPath(f"{prefix}.py"), PurePosixPath(f"{prefix}/__init__.py")}
        for candidate in candidates:
            if sources & set(metadata.files(candidate) or []):
                return canonicalize_name(candidate)
    return canonicalize_name(parts[0])


def imported_distributions() -> set[str]:
    """The distributions that dynamicpo, components and pipelines import."""
    names = {
        module
        for folder in INSTALLED_NAMES
        for path in (ROOT / folder).rglob("*.py")
        for module in modules(path.read_text(encoding="utf-8"))
    }
    ours = {*INSTALLED_NAMES.values(), *sys.stdlib_module_names}
    return {distribution_of(name) for name in names if name.partition(".")[0] not in ours}


def test_what_is_imported_is_declared():
    declared = {
        canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]
    }
    # By a command that says so where it is missing.
    extra = PROJECT["project"]["optional-dependencies"]["registry"]
    optional = {canonicalize_name(Requirement(text).name) for text in extra}
    assert optional <= imported_distributions()
    assert declared - set(NOT_IMPORTED) == imported_distributions() - optional
    assert declared >= set(NOT_IMPORTED)


def test_a_shared_namespace_names_the_right_distribution():
    assert distribution_of("google.cloud.storage") == "google-cloud-storage"
    assert distribution_of("google.auth.exceptions") == "google-auth"
    assert distribution_of("kfp.kubernetes") == "kfp-kubernetes"
    assert distribution_of("kfp.dsl") == "kfp"
    assert distribution_of("yaml") == "pyyaml"


def test_the_locked_versions_satisfy_what_is_declared():
    names = ("requirements-torch.lock", "requirements.lock")
    lock = "".join((ROOT / name).read_text(encoding="utf-8") for name in names)
    versions = dict(re.findall(r"(?m)^([\w.-]+)==([^\s+]+)", lock))
    for text in PROJECT["project"]["dependencies"]:
        requirement = Requirement(text)
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), text


def test_every_package_is_listed():
    packages = {
        ".".join([installed, *path.parent.relative_to(ROOT / folder).parts])
        for folder, installed in INSTALLED_NAMES.items()
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of this tree.

    It is built from a copy: setuptools would also pack what an earlier build left in `build/lib`.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in INSTALLED_NAMES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    built = subprocess.run([*build, source], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    unpacked = folder / "unpacked"
    zipfile.ZipFile(file).extractall(unpacked)
    return unpacked


def run_in(wheel: Path, code: str) -> str:
    """Run code with the wheel's packages and the libraries, and with nothing of this tree.

    -S and -I leave out the hook of an editable install, PYTHONPATH and the working directory.
    """
    libraries = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    start = f"import sys; sys.path[:0] = {[str(wheel)]!r}; sys.path += {libraries!r}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code],
        cwd=wheel.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_our_packages_only(wheel: Path):
    tops = {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"}
    assert tops == set(INSTALLED_NAMES.values())


def test_the_wheel_has_every_module_and_every_file_that_code_reads(wheel: Path):
    def for_readers_of_the_sources(path: Path) -> bool:
        is_picture = path.suffix in (".png", ".svg")
        is_guide = path.name == "README.md" and "dynamicpo" not in path.parts
        return is_picture or is_guide

    expected = {
        Path(installed) / path.relative_to(ROOT / folder)
        for folder, installed in INSTALLED_NAMES.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    expected = {path for path in expected if not for_readers_of_the_sources(path)}
    present = {
        path.relative_to(wheel)
        for installed in INSTALLED_NAMES.values()
        for path in (wheel / installed).rglob("*")
        if path.is_file()
    }
    assert present == expected
    assert Path("dynamicpo/py.typed") in present


def test_prompt_templates_load_from_the_wheel(wheel: Path):
    code = """
from dynamicpo.prompts import loader
for name in NAMES:
    assert loader.load_template(name)["name"] == name
print(loader.__file__)
"""
    names = sorted(path.stem for path in (ROOT / "dynamicpo/prompts/templates").glob("*.yaml"))
    assert len(names) >= 5
    output = run_in(wheel, f"NAMES = {names!r}\n{code}")
    assert Path(output.strip()).is_relative_to(wheel)


def test_page_templates_and_styles_load_from_the_wheel(wheel: Path):
    code = """
from dynamicpo.reports.pages import layout
for name in NAMES:
    layout.template(name)
print(layout.page("Title", ["Headline"], [], {}))
"""
    folder = ROOT / "dynamicpo/reports/templates"
    names = sorted(path.name for path in folder.iterdir())
    page = run_in(wheel, f"NAMES = {names!r}\n{code}")
    first_rule = (folder / "page.css").read_text(encoding="utf-8").splitlines()[0]
    assert "Headline" in page and first_rule in page


def test_components_pipelines_and_presets_load_from_the_wheel(wheel: Path):
    code = """
import importlib, pathlib
import yaml
import dynamicpo_components, dynamicpo_pipelines
from dynamicpo.runs.signatures import pipeline_parameters
for package in (dynamicpo_components, dynamicpo_pipelines):
    root = pathlib.Path(package.__file__).parent
    for file in sorted([*root.glob("*/component.py"), *root.glob("*/pipeline.py")]):
        importlib.import_module(".".join([package.__name__, file.parent.name, file.stem]))
        print(file)
    for file in sorted(root.glob("*/*/*.yaml")):
        preset = yaml.safe_load(file.read_text(encoding="utf-8"))
        unknown = set(preset) - set(pipeline_parameters(file.parents[1].name))
        assert preset and not unknown, (file, unknown)
        print(file)
for name in ("components", "pipelines"):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(name)
"""
    files = [Path(line) for line in run_in(wheel, code).splitlines() if line.startswith("/")]
    assert all(file.is_relative_to(wheel) for file in files)
    sources = [
        *ROOT.glob("components/*/component.py"),
        *ROOT.glob("pipelines/*/pipeline.py"),
        *ROOT.glob("pipelines/*/*/*.yaml"),
    ]
    assert len(files) == len(sources)
