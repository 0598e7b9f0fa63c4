"""The script that makes GPU node pools: what it would run, and what it refuses."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.k8s.conftest import K8S

PLACE = ("--project", "my-project", "--cluster", "my-cluster", "--location", "europe-west4-a")


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [K8S / "gke/node-pools.sh", *arguments], capture_output=True, text=True, check=False
    )


def test_a_dry_run_prints_each_command_and_needs_no_gcloud():
    done = script(
        "create",
        *PLACE,
        "--gpu",
        "nvidia-l4",
        "--max-nodes",
        "6",
        "--driver",
        "latest",
        "--dry-run",
    )
    on_demand, spot = done.stdout.splitlines()
    for line in (on_demand, spot):
        assert line.startswith("gcloud container node-pools create dynamicpo-nvidia-l4-1-")
        for words in (
            "--project my-project --cluster my-cluster --location europe-west4-a",
            "type=nvidia-l4\\,count=1\\,gpu-driver-version=latest",
            "--machine-type g2-standard-12",
            "--num-nodes 0 --enable-autoscaling --total-min-nodes 0 --total-max-nodes 6",
            "--workload-metadata GKE_METADATA",
        ):
            assert words in line
    assert "--spot" not in on_demand and " --spot " in spot
    assert "dynamicpo/capacity=spot" in spot and "cloud.google.com/gke-spot=true:NoSchedule" in spot


def test_delete_removes_what_create_made():
    made = script("create", *PLACE, "--dry-run").stdout.splitlines()
    removed = script("delete", *PLACE, "--dry-run").stdout.splitlines()
    assert [line.split()[4] for line in made] == [line.split()[4] for line in removed]
    assert all(
        line.startswith("gcloud container node-pools delete") and "--quiet" in line
        for line in removed
    )


def test_without_gcloud_it_says_so(tmp_path: Path):
    (tmp_path / "bash").symlink_to(str(shutil.which("bash")))
    command = [str(tmp_path / "bash"), str(K8S / "gke/node-pools.sh"), "create", *PLACE]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": str(tmp_path)}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr.startswith("node-pools.sh: gcloud must be on PATH")
        and len(done.stderr.splitlines()) == 1
    )


@pytest.mark.parametrize(
    ("gpu", "count", "machine"),
    [
        ("nvidia-tesla-t4", "2", "n1-standard-8"),
        ("nvidia-l4", "8", "g2-standard-96"),
        ("nvidia-tesla-a100", "4", "a2-highgpu-4g"),
        ("nvidia-a100-80gb", "1", "a2-ultragpu-1g"),
        ("nvidia-h100-80gb", "8", "a3-highgpu-8g"),
    ],
)
def test_each_gpu_has_its_machine_and_a_name_that_gke_takes(gpu: str, count: str, machine: str):
    lines = script(
        "create", *PLACE, "--gpu", gpu, "--gpus-per-node", count, "--dry-run"
    ).stdout.splitlines()
    assert all(
        f"--machine-type {machine} --accelerator type={gpu}\\,count={count}\\," in line
        for line in lines
    )
    assert all(len(line.split()[4]) <= 40 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "must be create or delete"),
        (("create", "--project", "p"), "--cluster must be given"),
        (
            ("create", *PLACE, "--gpu", "nvidia-b1"),
            "unknown type 'nvidia-b1'; choose from nvidia-tesla-t4",
        ),
        (("create", *PLACE, "--gpus-per-node", "3"), "must be 1, 2, 4 or 8 to a node, got 3"),
        (("create", *PLACE, "--capacity", "cheap"), "must be on-demand, spot or both, got 'cheap'"),
        (("create", *PLACE, "--max-nodes", "0"), "must be a whole number >= 1, got '0'"),
        (("create", *PLACE, "--driver", "470"), "must be default or latest"),
        (("create", *PLACE, "--colour", "red"), "unknown option '--colour'"),
        (("create", "--project"), "--project needs a value"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments: tuple[str, ...], said: str):
    done = script(*arguments, *(["--dry-run"] if len(arguments) > 2 else []))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
