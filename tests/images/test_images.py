"""The images: their sources and locks always; the CPU image where there is one and an engine."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dynamicpo_pipelines.placement import USER
from tests.conftest import IMAGE, ROOT

IMAGES = ROOT / "images"
MOST_BYTES = 1_800_000_000
runtimes = pytest.mark.parametrize("runtime", ["cpu", "gpu"])


def locked(path: Path) -> dict[str, str]:
    """Names to versions of a lock file."""
    return dict(re.findall(r"(?m)^([\w.-]+)==([^\s+]+)", path.read_text()))


def test_the_gpu_lock_is_the_cpu_lock_and_what_cuda_needs():
    cpu, gpu = locked(ROOT / "requirements.lock"), locked(IMAGES / "gpu/requirements.lock")
    assert {name: gpu.get(name) for name in cpu} == cpu, "run images/lock.sh"
    more = set(gpu) - set(cpu)
    assert {
        "bitsandbytes",
        "triton",
        "nvidia-cublas",
        "nvidia-cudnn-cu13",
        "nvidia-nccl-cu13",
    } <= more
    assert all(re.match(r"bitsandbytes|triton|nvidia-|cuda-", name) for name in more)


def test_the_gpu_lock_satisfies_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    gpu = locked(IMAGES / "gpu/requirements.lock")
    for text in [*project["dependencies"], *project["optional-dependencies"]["gpu"]]:
        need = Requirement(text)
        assert need.specifier.contains(gpu[need.name.lower()]), text


@runtimes
def test_dockerfiles_run_as_a_numeric_user_and_carry_labels(runtime: str):
    text = (IMAGES / runtime / "Dockerfile").read_text()
    final = text[text.rindex("FROM ") :]
    assert re.findall(r"(?m)^USER (\S+)", text) == [f"{USER}:0"]
    assert final.startswith("FROM runtime") and "COPY --from=smoke" in final
    for label in ("source", "revision", "version", "licenses"):
        assert f"org.opencontainers.image.{label}=" in final
    assert (
        text.startswith("#") and "ARG BASE_IMAGE=" in text and "PYTHONDONTWRITEBYTECODE=1" in text
    )


@runtimes
def test_an_image_holds_the_wheel_and_tries_all_of_its_packages(runtime: str):
    """It installs the wheel of the sources, so nothing is copied beside it under a generic name."""
    dockerfile = (IMAGES / runtime / "Dockerfile").read_text()
    assert "/package/*.whl" in dockerfile
    assert not re.search(r"COPY.*\b(components|pipelines)\b", dockerfile)
    smoke = (IMAGES / "smoke.py").read_text()
    for package in ("dynamicpo", "dynamicpo_components", "dynamicpo_pipelines"):
        assert f"    import {package}\n" in smoke


def test_the_two_dockerfiles_differ_where_they_must():
    cpu, gpu = (
        (IMAGES / runtime / "Dockerfile").read_text().splitlines() for runtime in ("cpu", "gpu")
    )
    only_cpu = [line for line in cpu if line not in gpu]
    assert [
        line
        for line in only_cpu
        if "CPU" not in line and "smoke.py cpu" not in line and "#" not in line
    ] == ["    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1"]


def build(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, **environment}
    return subprocess.run(
        [IMAGES / "build.sh", *arguments], capture_output=True, text=True, env=given, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the runtime must be 'cpu' or 'gpu', got ''"),
        (("tpu", "x"), "the runtime must be 'cpu' or 'gpu', got 'tpu'"),
        (("cpu",), "the image must have a name"),
    ],
)
def test_a_wrong_call_says_what_is_right(arguments: tuple[str, ...], said: str):
    done = build(*arguments)
    assert done.returncode == 2 and said in done.stderr


def test_without_an_engine_it_says_so():
    done = build("cpu", "x", DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 2
    assert "must" in done.stderr and done.stderr.startswith("images/build.sh: ")


Docker = Callable[..., str]


@pytest.fixture(scope="module")
def docker(image: str) -> Docker:
    """Calls the Docker client."""

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, check=True
        ).stdout

    return run


def inside(docker: Docker, *command: str, user: str = f"{USER}:0") -> str:
    limits = ("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
    return docker("run", *limits, "--user", user, IMAGE, *command)


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_the_image_holds_the_locked_packages_and_nothing_else(docker: Docker):
    """Two builds of a commit hold the same packages: each holds those of its lock files."""
    listed = inside(docker, "cat", "/usr/share/dynamicpo/packages.txt").splitlines()
    found = {
        name: version.partition("+")[0] for name, version in (line.split("==") for line in listed)
    }
    version = found.pop("dynamicpo")
    assert found == {
        **locked(ROOT / "requirements.lock"),
        **locked(ROOT / "requirements-data.lock"),
    }
    assert "torch==2.13.0+cpu" in listed
    assert inside(docker, "dynamicpo", "--version").split()[-1] == version


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_the_bill_of_materials_names_every_package(docker: Docker):
    bill = json.loads(inside(docker, "cat", "/usr/share/dynamicpo/sbom.cdx.json"))
    assert bill["bomFormat"] == "CycloneDX"
    named = {
        f"{re.sub('[-_.]+', '-', item['name'].lower())}=={item['version']}"
        for item in bill["components"]
    }
    listed = set(inside(docker, "cat", "/usr/share/dynamicpo/packages.txt").split())
    assert {line.replace(".", "-").partition("==")[0] for line in listed} == {
        line.replace(".", "-").partition("==")[0] for line in named
    }
    assert {
        line for line in listed if line.partition("==")[0] in ("torch", "kfp", "dynamicpo")
    } <= named


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_the_image_is_small_and_runs_as_nobody_special(docker: Docker):
    (image,) = json.loads(docker("image", "inspect", IMAGE))
    assert image["Size"] < MOST_BYTES
    assert image["Config"]["User"] == f"{USER}:0"
    assert set(image["Config"]["Labels"]) >= {
        f"org.opencontainers.image.{label}" for label in ("version", "revision")
    }
    for user in (f"{USER}:0", "1234:5678"):  # a cluster, or kfp's DockerRunner, may choose any
        said = inside(
            docker,
            "sh",
            "-ec",
            "touch /tmp/x; id -u; touch /opt/x 2>/dev/null || echo refused",
            user=user,
        )
        assert said.split() == [user.partition(":")[0], "refused"]


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_the_image_has_no_compiler_cache_or_bytecode(docker: Docker):
    search = (
        "for p in gcc g++ cc make pip; do command -v $p || true; done; "
        "find /opt/dynamicpo /root -name '*.pyc'"
    )
    assert (
        inside(docker, "sh", "-ec", f"{search} -o -name '.cache' 2>/dev/null || true").split() == []
    )
