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
MOST_BYTES = 2_200_000_000
runtimes = pytest.mark.parametrize("runtime", ["cpu", "gpu"])


LOCKS = sorted(
    path
    for path in [*ROOT.glob("*.lock"), *ROOT.glob("*/*.lock"), *ROOT.glob("*/gpu/*.lock")]
    if path.parent.name != "build"
)


def locked(path: Path) -> dict[str, str]:
    """Names to versions of a lock file."""
    return dict(re.findall(r"(?m)^([\w.-]+)==([^\s+]+)", path.read_text()))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_package_but_torch_is_locked_by_its_hashes(path: Path):
    text = path.read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    without = [line for line in lines if not re.search(" --hash=sha256:[0-9a-f]{64}", line)]
    expected = locked(path) if path.name == "requirements-torch.lock" else {}
    assert [line.partition("==")[0].strip() for line in without] == [*expected]
    assert "torch" not in locked(path) or expected


def test_all_lock_files_are_seen():
    names = {str(path.relative_to(ROOT)) for path in LOCKS}
    assert {"requirements.lock", "images/gpu/requirements.lock", "k8s/tools.lock"} <= names
    assert {"tests/gpu/requirements.lock", "images/tools.lock", "requirements-dev.lock"} <= names


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "Makefile",
        ROOT / "k8s/check.sh",
        IMAGES / "build.sh",
        *(IMAGES / runtime / "Dockerfile" for runtime in ("cpu", "gpu")),
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_lock_files_are_installed_by_their_hashes(path: Path):
    """Wherever pip takes a lock file, but for torch's, it demands hashes."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    takes = [
        line for line in re.split(r"\n|&&", text) if re.search(r"(-r|--requirement)[ =]", line)
    ]
    unchecked = [line for line in takes if "--require-hashes" not in line]
    assert len(takes) > len(unchecked)
    assert [line for line in unchecked if "requirements-torch.lock" not in line] == []


def test_the_gpu_lock_is_what_cuda_needs_besides():
    cpu, gpu = locked(ROOT / "requirements.lock"), locked(IMAGES / "gpu/requirements.lock")
    assert set(cpu) & set(gpu) == set()
    assert {
        "bitsandbytes",
        "triton",
        "nvidia-cublas",
        "nvidia-cudnn-cu13",
        "nvidia-nccl-cu13",
    } <= set(gpu)
    assert all(re.match(r"bitsandbytes|triton|nvidia-|cuda-", name) for name in gpu)


def test_the_gpu_image_satisfies_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = ("requirements-torch.lock", "requirements.lock", "images/gpu/requirements.lock")
    gpu = {name: version for path in names for name, version in locked(ROOT / path).items()}
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
    ] == [
        "    && $install /wheels --require-hashes --use-pep517 --no-build-isolation"
        " -r /locks/requirements.lock \\",
        "    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1",
    ]


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


@pytest.mark.parametrize("base", ["", "python:3.11-slim-bookworm", "python@sha256:12"])
def test_the_workflows_refuse_a_base_without_its_digest(base: str):
    done = build("cpu", "x", BY_DIGEST="1", BASE_IMAGE=base, DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 2
    assert f"must name a base by its digest (NAME@sha256:...), got '{base}'" in done.stderr
    named = build(
        "cpu",
        "x",
        BY_DIGEST="1",
        BASE_IMAGE=f"python@sha256:{64 * '0'}",
        DOCKER_HOST="unix:///nowhere.sock",
    )
    assert "BASE_IMAGE" not in named.stderr


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
        **locked(ROOT / "requirements-torch.lock"),
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
def test_the_image_has_no_compiler_or_cache(docker: Docker):
    search = (
        "for p in gcc g++ cc make pip; do command -v $p || true; done; "
        "find /opt/dynamicpo /root -name '.cache' 2>/dev/null || true"
    )
    assert inside(docker, "sh", "-ec", search).split() == []


AGAIN = """
set -e
cd /opt/dynamicpo/lib/python3.11/site-packages
mkdir -p "/tmp/again$PWD"
cp -r yaml dynamicpo "/tmp/again$PWD"
find "/tmp/again$PWD" -name __pycache__ -prune -exec rm -rf {} +
export PYTHONHASHSEED=0
python3 -m compileall -q --invalidation-mode unchecked-hash -s /tmp/again -p / /tmp/again
for folder in yaml dynamicpo; do diff -r "/tmp/again$PWD/$folder" "$folder"; done
python3 -v -c 'import yaml' 2>&1 | grep -c 'matches .*/yaml/'
"""


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
def test_bytecode_is_used_and_the_same_in_every_build(docker: Docker):
    """All modules have it: images/smoke.py, which is a stage of the build, looks at each."""
    assert int(inside(docker, "sh", "-c", AGAIN)) > 10
