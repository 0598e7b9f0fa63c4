"""GitHub's workflows: pinned, keyless, least permissions; what they call exists.

`make check-k8s` lints them.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo.cli.flags import make_parser
from tests.conftest import ROOT

FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
WORKFLOWS: dict[str, dict[Any, Any]] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = {
    (name, job): found for name, flow in WORKFLOWS.items() for job, found in flow["jobs"].items()
}
SCRIPTS = {
    f"{name}:{job}:{number}": step["run"]
    for (name, job), found in JOBS.items()
    for number, step in enumerate(found.get("steps", []))
    if "run" in step
}
files = pytest.mark.parametrize("name", TEXTS)
jobs = pytest.mark.parametrize("place", JOBS, ids=":".join)
scripts = pytest.mark.parametrize("place", SCRIPTS)


def events(name: str) -> Any:
    return WORKFLOWS[name][True]  # YAML 1.1 reads `on` as a truth


def test_the_three_kinds_are_there():
    assert set(events("pull-request.yml")) == {"pull_request"}
    assert events("merge.yml") == {"push": {"branches": ["main"]}}
    assert set(events("retrain.yml")) == {"schedule", "workflow_dispatch"}
    assert set(events("train.yml")) == {"workflow_call"}


def test_a_pull_request_is_tested_compiled_and_run():
    said = "\n".join(
        text for place, text in SCRIPTS.items() if place.startswith("pull-request.yml")
    )
    for command in (
        "make check\n",
        "make check-k8s",
        "make images",
        "make test",
        "dynamicpo compile",
        "make quickstart",
    ):
        assert command in said
    assert (
        "id-token" not in TEXTS["pull-request.yml"]
        and "google-github-actions" not in TEXTS["pull-request.yml"]
    )


def test_a_merge_builds_takes_the_digest_and_submits():
    (script,) = (text for place, text in SCRIPTS.items() if place.startswith("merge.yml"))
    order = [
        script.index(words)
        for words in ("images/build.sh", "docker push", ".RepoDigests", "GITHUB_OUTPUT")
    ]
    assert order == sorted(order)
    given = WORKFLOWS["merge.yml"]["jobs"]["train"]
    assert given["needs"] == "images" and given["with"]["cpu"] == "${{ needs.images.outputs.cpu }}"


def test_images_are_built_from_a_base_by_digest():
    """images/build.sh refuses another where BY_DIGEST is set."""
    steps = [
        step
        for job in JOBS.values()
        for step in job.get("steps", [])
        if re.search(r"images/build\.sh|make images", step.get("run", ""))
    ]
    assert len(steps) == 2
    for step in steps:
        assert step["env"]["BASE_IMAGE"] == "${{ vars.BASE_IMAGE }}"
        assert step["env"]["BY_DIGEST"] == "1"


@files
def test_actions_are_pinned_by_commit(name: str):
    used = re.findall(r"uses: (\S+)(.*)", TEXTS[name])
    assert used
    for action, comment in used:
        assert action.startswith("./.github/workflows/") or (
            re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action)
            and re.fullmatch(r" # v\d+\.\d+\.\d+", comment)
        ), action


@files
def test_no_key_is_kept_anywhere(name: str):
    assert "secrets" not in TEXTS[name] and "credentials_json" not in TEXTS[name]
    assert "pull_request_target" not in TEXTS[name]
    assert TEXTS[name].count("actions/checkout@") == TEXTS[name].count("persist-credentials: false")


@files
def test_a_workflow_may_only_read(name: str):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}


@jobs
def test_a_token_is_for_jobs_that_log_in(place: tuple[str, str]):
    job = JOBS[place]
    logs_in = (
        "google-github-actions/auth@" in str(job)
        or job.get("uses") == "./.github/workflows/train.yml"
    )
    wanted = {"contents": "read", "id-token": "write"} if logs_in else None
    assert job.get("permissions") == wanted
    assert "uses" in job or 0 < job["timeout-minutes"] <= 360


@jobs
def test_a_called_workflow_gets_what_it_asks_for(place: tuple[str, str]):
    if "uses" not in JOBS[place]:
        return
    asked = events(Path(JOBS[place]["uses"]).name)["workflow_call"]["inputs"]
    given = set(JOBS[place]["with"])
    assert {name for name, item in asked.items() if item.get("required")} <= given <= set(asked)


@scripts
def test_scripts_parse_and_hold_no_expression(place: str, tmp_path: Path):
    """An expression in a script is text that a title or a parameter could end.

    Values come by the environment.
    """
    assert "${{" not in SCRIPTS[place]
    file = tmp_path / "script.sh"
    file.write_text(SCRIPTS[place])
    assert subprocess.run(["bash", "-n", file], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(
            ["shellcheck", "--shell=bash", file], capture_output=True, text=True, check=False
        )
        assert done.stdout == ""


@scripts
def test_commands_and_flags_exist(place: str):
    script = SCRIPTS[place].replace("\\\n", " ")
    targets = re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text())
    assert set(re.findall(r"\bmake ([a-z0-9-]+)", script)) <= set(targets)
    for program in re.findall(r"(?:images|k8s)/[\w/-]+\.sh", script):
        assert (ROOT / program).is_file()
    for command, words in re.findall(r"bin/dynamicpo ([a-z-]+)(.*)", script):
        known = [
            flag for action in make_parser()[1][command]._actions for flag in action.option_strings
        ]
        flags = re.findall(r"(?<= )--?[a-z][a-z-]*", words)
        assert flags and set(flags) <= set(known)


def test_the_guide_names_every_variable():
    used = {name for text in TEXTS.values() for name in re.findall(r"vars\.(\w+)", text)}
    guide = (ROOT / "k8s" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"gh variable set (\w+) |`([A-Z_]+)`:", guide)
    assert len(used) >= 8 and used <= {name for pair in named for name in pair}
