"""The guide is followed: its commands run in its order, in a shell that stops at a failure.

Programs that need a cloud or a cluster are stubs, which note what they were asked (`stubs.py`).
This project's own scripts and commands are the real ones, but for the build of images: `submit`
sends to a double of the API and asks a double of the registry.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamicpo import __version__
from dynamicpo.runs.images import TITLE_LABEL, VERSION_LABEL
from tests.fixtures.kubeflow import Installation, earlier_run
from tests.fixtures.registry import Registry
from tests.k8s.conftest import ROOT
from tests.k8s.test_guide import BLOCKS, TEXT

PROGRAMS = ("gcloud", "kubectl", "helm", "docker", "gh", "kind", "curl")
# What the reader sets or fills in, beside the names of step 1.
GIVEN = "export POD=a-pod CHARTS=https://charts.invalid\n"


@dataclass(frozen=True)
class Followed:
    """What came of it."""

    calls: list[dict[str, Any]]
    installation: Installation
    folder: Path
    printed: str

    def asked(self, *start: str) -> list[list[str]]:
        """The calls that begin with these words, flags of kubectl apart."""
        return [call["words"] for call in self.calls if call["words"][: len(start)] == [*start]]


def commands_of_symptoms() -> list[str]:
    """The commands in the table of symptoms, without the search in what they print."""
    section = TEXT.partition("## When it doesn't work")[2].replace("\\|", "|")
    spans = re.findall(r"`((?:\.venv/bin/dynamicpo|kubectl|gcloud) [^`]+)`", section)
    return [span.partition(" | ")[0] for span in spans]


def script(host: str) -> str:
    """All commands of the guide, as a reader with these addresses types them."""
    text = "\n".join([GIVEN, *BLOCKS, *commands_of_symptoms()])
    text = text.replace("http://127.0.0.1:8080", host).replace("logs RUN ", "logs run-0 ")
    return f"set -eu\nsleep() {{ :; }}\n{text}"


@pytest.fixture(scope="module")
def followed(kubectl: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    folder = tmp_path_factory.mktemp("guide")
    for name in ("k8s", "images"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(sys.prefix)
    programs, notes = folder / "programs", folder / "notes.jsonl"
    programs.mkdir()
    stub = f"#!{sys.executable}\n{(ROOT / 'tests/k8s/stubs.py').read_text()}"
    for path in (*(programs / name for name in PROGRAMS), folder / "images/build.sh"):
        path.write_text(stub)
        path.chmod(0o755)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.invalid", "-C", str(folder)]
    for words in (["init", "-q"], ["add", "k8s"], ["commit", "-q", "-m", "Manifests"]):
        subprocess.run([*git, *words], check=True)
    labels = {TITLE_LABEL: "dynamicpo", VERSION_LABEL: __version__}
    earlier = [earlier_run(f"run-{number}", "training") for number in range(4)]
    with Registry().serving() as registry, Installation(earlier=earlier).serving() as installation:
        repository = f"{registry.host}/team/dynamicpo"
        given = {"GUIDE_NOTES": str(notes), "GUIDE_REGISTRY": repository, "GUIDE_KUBECTL": kubectl}
        for runtime in ("cpu", "gpu"):
            digest = registry.add({**labels, "runtime": runtime}).partition("@")[2]
            given[f"GUIDE_IMAGE_{runtime.upper()}"] = f"{repository}/dynamicpo-{runtime}@{digest}"
        # a closed port: no object store answers, and none is waited for
        given |= {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9", "HOME": str(folder)}
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", script(installation.host)],
            cwd=folder,
            env={**os.environ, **given, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        calls = [json.loads(line) for line in notes.read_text().splitlines()]
        yield Followed(calls, installation, folder, done.stdout)


def test_nothing_is_left_to_fill_in(followed: Followed):
    assert len(followed.calls) > 100
    words = [word for call in followed.calls for word in call["words"]]
    assert [word for word in words if not word or re.search(r"\$[A-Z{(]|example-", word)] == []
    assert {call["words"][0] for call in followed.calls} == {*PROGRAMS, "build.sh"}


def test_images_are_built_pushed_and_named_by_digest(followed: Followed):
    built = [words[1:] for words in followed.asked("build.sh")]
    assert {runtime for runtime, _ in built} == {"cpu", "gpu"}
    assert {image for _, image in built} >= {words[2] for words in followed.asked("docker", "push")}
    (loaded,) = followed.asked("kind", "load", "docker-image")
    assert ["cpu", loaded[3]] in built
    (base,) = followed.asked("gh", "variable", "set", "BASE_IMAGE")
    assert re.search("@sha256:[0-9a-f]{64}$", base[-1])


def test_the_runs_that_were_sent_have_the_images_and_the_account(followed: Followed):
    sent = followed.installation.runs
    assert len(sent) >= 3  # GKE, other clusters, this machine
    assert {run["service_account"] for run in sent} == {"dynamicpo-pipeline"}
    images = [names_of_images(text) for text in followed.installation.files]
    assert images == [["dynamicpo-cpu", "dynamicpo-gpu"]] * 2 + [["dynamicpo-python"]]


def names_of_images(uploaded: bytes) -> list[str]:
    """The last part of each image's name in a compiled pipeline."""
    names = re.findall(rb"(?m)^ +image: (\S+)", uploaded)
    return sorted({re.split("[@:]", name.decode().rpartition("/")[2])[0] for name in names})


def test_manifests_are_applied_with_the_readers_values(followed: Followed):
    applied = [text for call in followed.calls for text in call["contents"]]
    documents = [item for text in applied for item in yaml.safe_load_all(text) if item]
    kinds = [(item["kind"], item["metadata"].get("namespace")) for item in documents]
    assert ("ServiceAccount", "kubeflow") in kinds and ("TrainJob", "kubeflow") in kinds
    everything = "\n".join(applied)
    assert "dynamicpo-pipeline@my-project.iam.gserviceaccount.com" in everything
    assert "gs://my-project-dynamicpo/pipelines" in everything and "10.0.0.2/32" in everything
    controllers = [
        yaml.safe_load(item["data"]["workflowDefaults"])["spec"]["templateDefaults"]
        for item in documents
        if item["metadata"]["name"] == "workflow-controller-configmap"
    ]
    assert controllers == 3 * [{"retryStrategy": {"limit": "0", "retryPolicy": "Always"}}]


def test_accounts_are_bound_to_what_was_made(followed: Followed):
    made = {words[4] for words in followed.asked("gcloud", "iam", "service-accounts", "create")}
    gone = {words[4] for words in followed.asked("gcloud", "iam", "service-accounts", "delete")}
    assert {f"{name}@my-project.iam.gserviceaccount.com" for name in made} == gone
    bound = [
        words[words.index("--member") + 1]
        for words in followed.asked("gcloud")
        if "--member" in words
    ]
    accounts = {
        member.removeprefix("serviceAccount:")
        for member in bound
        if member.startswith("serviceAccount:") and "svc.id.goog" not in member
    }
    assert accounts and accounts <= gone


def test_node_pools_are_made_and_removed(followed: Followed):
    start = ("gcloud", "container", "node-pools")
    made = [words[4] for words in followed.asked(*start, "create")]
    assert len(made) == 2 and [words[4] for words in followed.asked(*start, "delete")] == made
