"""The documents name what exists: files, modules, functions, links, commands, make's targets."""

import dataclasses
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from dynamicpo.cli.commands.stages import STAGE_COMMANDS
from dynamicpo.cli.flags import make_parser
from dynamicpo.core.config_fields import from_mapping
from dynamicpo.runs.signatures import pipeline_names, pipeline_parameters
from tests.conftest import ROOT
from tests.test_layers import ROOMS

GUIDES = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md"]
# All pages that people read, and that no program writes anew.
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("dynamicpo/**/README.md"),
        *ROOT.glob("images/README.md"),
        *ROOT.glob("k8s/README.md"),
    ]
)
FOLDERS = ("dynamicpo", "components", "pipelines", "tests", "docs", "images", "k8s")
SHELL_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
guides = pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    """The text without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def code_spans(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(text))


def named_paths(text: str) -> list[str]:
    """The files and folders of this repository that a text names."""
    start = "|".join(FOLDERS)
    return [span for span in code_spans(text) if re.fullmatch(rf"({start})/[\w./-]*", span)]


def named_objects(text: str) -> list[str]:
    """The modules, classes and functions of ours that a text names in full."""
    return [
        span
        for span in code_spans(text)
        if re.fullmatch(r"dynamicpo(_components|_pipelines)?\.[\w.]+", span)
        and not span.endswith(".py")
    ]


def exists(name: str) -> bool:
    """Tell whether a dotted name is a module, or a name in one."""
    module, _, attribute = name.rpartition(".")
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


@guides
def test_named_paths_exist(guide: Path):
    paths = named_paths(read(guide))
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


@guides
def test_named_modules_and_functions_exist(guide: Path):
    names = named_objects(read(guide))
    assert len(names) > 2
    assert [name for name in names if not exists(name)] == []


def test_what_does_not_exist_is_found():
    assert not exists("dynamicpo.objective.dynamicpo.preference_loses")
    assert not exists("dynamicpo.objectives.dynamicpo")
    assert not exists("dynamicpo.objectives")
    assert exists("dynamicpo.objective.preference_losses")


def test_names_in_the_rows_of_the_parameter_are_in_the_files_beside_them():
    text = read(ROOT / "docs" / "architecture.md")
    section = text.partition("## One parameter's way")[2]
    rows = re.findall(r"(?m)^\| (?!step|-)(.*) \|$", section)
    checked = 0
    for row in rows:
        _, names, files = row.split(" | ") if row.count(" | ") == 2 else (*row.split(" | "), "")
        source = "".join(read(ROOT / path) for path in named_paths(files))
        for span in code_spans(names) if source else []:
            word = re.match(r"\w+", span)
            assert word is not None
            assert re.search(rf"\b{word[0]}\b", source), span
            checked += 1
    assert checked >= 7


def test_the_files_to_start_with_are_in_their_rooms():
    rows = re.findall(r"(?m)^\| `dynamicpo/(\w+)/` \| .* \| (.*) \|$", read(GUIDES[0]))
    assert [room for room, _ in rows] == ROOMS
    for room, files in rows:
        for name in code_spans(files):
            assert (ROOT / "dynamicpo" / room / name).exists(), f"{room}/{name}"


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield importlib.import_module("rooms")
    del sys.modules["rooms"]


def test_the_picture_is_made_by_its_script(drawing):
    assert read(drawing.PICTURE) == drawing.draw(), "run `python docs/rooms.py`"
    assert not re.search(r"(href|src)=|url\(", read(drawing.PICTURE))


def test_the_picture_shows_the_rooms_in_their_order(drawing):
    floors = reversed(drawing.FLOORS)
    names = [name for floor in floors for name in floor.rooms]
    assert names == [*ROOMS, "components/", "pipelines/"]


@pages
def test_relative_links_resolve(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", without_blocks(read(page)))
    broken = []
    for link in links:
        path, _, anchor = unquote(link).partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.+)$", without_blocks(read(page)))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shown_commands(program: str) -> list[str]:
    """The commands of a program in the blocks that README, CONTRIBUTING and docs show."""
    lines = [
        line.split(" #")[0].strip()
        for page in PAGES
        if page.parent in (ROOT, ROOT / "docs")
        for block in SHELL_BLOCK.findall(read(page))
        for line in block.splitlines()
    ]
    return sorted({line for line in lines if line.startswith(f"{program} ")})


@pytest.mark.parametrize("command", shown_commands("dynamicpo"))
def test_shown_commands_are_understood(command: str):
    parser, _ = make_parser()
    arguments, unknown = parser.parse_known_args(shlex.split(command)[1:])
    assert unknown == []
    if arguments.command in STAGE_COMMANDS:
        config_class = STAGE_COMMANDS[arguments.command].config_class
        names = {item.name for item in dataclasses.fields(config_class)}
        values = {name: value for name, value in vars(arguments).items() if name in names}
        from_mapping(config_class, values, arguments.command)


def test_shown_parameters_are_those_of_a_pipeline():
    commands = [*shown_commands("dynamicpo"), *shown_commands("make")]
    shown = re.findall(r"--param (\w+)=", " ".join(commands))
    assert len(shown) >= 3
    known = {key for name in pipeline_names() for key in pipeline_parameters(name)}
    assert {*shown} <= known


def test_shown_targets_are_in_the_makefile():
    targets = re.findall(r"(?m)^([a-z0-9-]+):", read(ROOT / "Makefile"))
    commands = shown_commands("make")
    assert {"make quickstart", "make test"} <= {*commands}
    assert {shlex.split(command)[1] for command in commands} <= {*targets}


def test_readme_is_short_and_shows_one_picture():
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) < 150
    assert text.count("![") == 1
