"""An overlay's parameters: they reach the manifests, and without them nothing is applied."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamicpo_pipelines.placement import SERVICE_ACCOUNT
from tests.k8s.conftest import K8S, Documents, of_kind

Render = Callable[[str], Documents]


@pytest.mark.parametrize("overlay", ["gke", "gke-standalone"])
def test_parameters_reach_the_manifests(render: Render, overlay: str):
    documents = render(overlay)
    account = of_kind(documents, "ServiceAccount")[SERVICE_ACCOUNT]
    given = dict(
        line.split("=", 1) for line in (K8S / "overlays/gke/params.env").read_text().splitlines()
    )
    assert (
        account["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
        == given["googleServiceAccount"]
    )
    launcher = of_kind(documents, "ConfigMap")["kfp-launcher"]
    assert launcher["data"]["defaultPipelineRoot"] == given["pipelineRoot"]
    api = of_kind(documents, "NetworkPolicy")["allow-kubernetes-api"]
    assert api["spec"]["egress"][0]["to"] == [{"ipBlock": {"cidr": given["controlPlane"]}}]
    (exporter,) = of_kind(documents, "Deployment")["drift-exporter"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert (exporter["image"], exporter["args"]) == (given["cpuImage"], [given["pipelineRoot"]])
    assert given["trainingImage"] in str(of_kind(documents, "TrainingRuntime"))
    for flavor in of_kind(documents, "ResourceFlavor").values():
        assert flavor["spec"]["nodeLabels"]["cloud.google.com/gke-accelerator"] == given["gpu"]
    assert set(of_kind(documents, "ConfigMap")) == {"kfp-launcher"}


PARAMETERS = [
    "googleServiceAccount",
    "pipelineRoot",
    "controlPlane",
    "cpuImage",
    "trainingImage",
    "gpu",
]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(K8S, tmp_path / "k8s"))


@pytest.mark.parametrize(
    ("overlay", "name"), [*(("gke", name) for name in PARAMETERS), ("generic-gpu", "trainingImage")]
)
def test_a_missing_parameter_stops_the_rendering(
    kubectl: str, copied: Path, overlay: str, name: str
):
    params = copied / f"overlays/{overlay}/params.env"
    params.write_text("".join(line for line in params.open() if not line.startswith(f"{name}=")))
    done = subprocess.run(
        [kubectl, "kustomize", params.parent], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0 and name in done.stderr


def apply(copied: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [copied / "apply.sh", *arguments], capture_output=True, text=True, check=False
    )


def test_examples_and_empty_values_are_not_applied(copied: Path):
    params = copied / "overlays/gke/params.env"
    params.write_text(params.read_text().replace("gs://example-bucket/pipelines", ""))
    done = apply(copied, "gke-standalone", "--dry-run")
    assert done.returncode == 2 and done.stdout == ""
    assert (
        "pipelineRoot: has no value" in done.stderr
        and "trainingImage: is still the example" in done.stderr
    )


def test_an_overlay_with_its_own_values_is_rendered(kubectl: str, copied: Path):
    params = copied / "overlays/gke/params.env"
    params.write_text(params.read_text().replace("example-", "my-"))
    done = apply(copied, "gke", "--dry-run")
    assert (done.returncode, "gs://my-bucket/pipelines" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("arguments", [(), ("gk",), ("gke", "--force")])
def test_a_wrong_call_of_apply_says_what_is_right(copied: Path, arguments: tuple[str, ...]):
    done = apply(copied, *arguments)
    assert done.returncode == 2 and "k8s/apply.sh:" in done.stderr
