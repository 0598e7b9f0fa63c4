"""The guide: its shell parses, and the files and options it names are there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dynamicpo_pipelines.placement import Placement
from tests.k8s.conftest import K8S, ROOT

TEXT = (K8S / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    re.sub(r"(?m)^   ", "", block) for block in re.findall(r"(?ms)^ *```sh\n(.*?)^ *```", TEXT)
]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0][:40])
def test_every_block_parses_as_shell(block: str, tmp_path: Path):
    file = tmp_path / "block.sh"
    file.write_text(block)
    done = subprocess.run(["bash", "-n", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if shutil.which("shellcheck"):
        command = [
            "shellcheck",
            "--shell=bash",
            "--severity=warning",
            "--exclude=SC2034,SC2154,SC2155",
            file,
        ]
        assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


def test_files_and_folders_exist():
    assert len(BLOCKS) >= 14
    named = set(re.findall(r"(?:k8s|images|overlays|components|base|examples)/[\w./*-]*\w", TEXT))
    named = {
        name
        for name in named
        if "kustomize/" not in name and not name.startswith("overlays/manager")
    }
    assert "k8s/overlays/gke/placement-spot.yaml" in named
    missing = [name for name in named if not [*ROOT.glob(name), *K8S.glob(name)]]
    assert missing == []


def test_placements_and_parameters_exist():
    assert set(re.findall(r"--place (\w+)=", TEXT)) <= set(Placement.__dataclass_fields__)
    (written,) = re.findall(r"(?s)params.env <<PARAMS\n(.*?)PARAMS", TEXT)
    names = {line.split("=", 1)[0] for line in written.splitlines()}
    kept = (K8S / "overlays/gke/params.env").read_text().splitlines()
    assert names == {line.split("=", 1)[0] for line in kept}


@pytest.mark.parametrize(
    "symptom",
    [
        "`Pending`",
        "Driver missing",
        "OOMKilled",
        "ImagePullBackOff",
        "PermissionDenied",
        "Yesterday's result",
    ],
)
def test_each_symptom_has_a_command_that_shows_it(symptom: str):
    rows = [
        line.replace("\\|", "/").split("|") for line in TEXT.splitlines() if line.startswith("| ")
    ]
    found = [cells for cells in rows if symptom in cells[1] and len(cells) == 5]
    assert found and all(re.search("`(.venv/bin/dynamicpo|kubectl) ", cells[2]) for cells in found)


def test_what_a_section_makes_it_says_how_to_remove():
    made = re.findall(
        r"gcloud ([a-z -]+?) create(?:-oidc)? ", TEXT.replace('service-accounts create "github', "")
    )
    gone = re.findall(r"gcloud ([a-z -]+?) (?:delete|rm) ", TEXT)
    by_their_parent = {"iam workload-identity-pools providers", "compute routers nats"}
    assert set(made) - by_their_parent - {"storage buckets"} <= set(gone) and "storage" in gone


def test_the_account_of_the_ui_may_read_the_bucket_and_nothing_more():
    (binding,) = [block for block in BLOCKS if "sa/ml-pipeline-ui" in block]
    assert re.findall(r"--role (\S+)", binding) == ["roles/storage.objectViewer"]
    assert 'add-iam-policy-binding "gs://$BUCKET"' in binding


def test_how_to_look_up_the_retries_of_the_controller_is_said():
    command = "kubectl -n kubeflow get configmap workflow-controller-configmap"
    assert any(block.startswith(command) for block in BLOCKS)
    assert "k8s/apply.sh gke-standalone --retry-failures" in TEXT
