"""Pipelines and manifests name the same things: break one of each, and the check says which."""

import copy
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler

from dynamicpo.core.config_fields import from_mapping
from dynamicpo_pipelines.placement import Placement, placed
from tests.k8s.conftest import K8S, OVERLAYS, Documents, of_kind
from tests.pipelines.conftest import sample

spec = importlib.util.spec_from_file_location("consistency", K8S / "consistency.py")
assert spec and spec.loader
consistency = importlib.util.module_from_spec(spec)
spec.loader.exec_module(consistency)
Render = Callable[[str], Documents]
IMAGE = "registry.invalid/dynamicpo@sha256:" + 64 * "a"
FILES = [
    (o, path.name)
    for o in OVERLAYS
    for path in sorted((K8S / "overlays" / o.removesuffix("-standalone")).glob("placement*.yaml"))
]


def compiled(folder: Path, placement: Placement) -> list[dict[str, Any]]:
    file = folder / "sample.yaml"
    compiler.Compiler().compile(placed(sample, placement), str(file))
    file.write_text(file.read_text().replace("python:local", IMAGE))
    return list(yaml.safe_load_all(file.read_text()))


def placement_of(overlay: str, name: str) -> Placement:
    path = K8S / "overlays" / overlay.removesuffix("-standalone") / name
    return from_mapping(Placement, yaml.safe_load(path.read_text()), str(path))


def pools(*arguments: str) -> str:
    command = [
        K8S / "gke/node-pools.sh",
        "create",
        "--project",
        "p",
        "--cluster",
        "c",
        "--location",
        "l",
        "--dry-run",
    ]
    return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("overlay", "name"), FILES)
def test_each_overlay_fits_its_placements(render: Render, tmp_path: Path, overlay: str, name: str):
    pipeline = compiled(tmp_path, placement_of(overlay, name))
    commands = pools() if overlay.startswith("gke") else ""
    assert list(consistency.problems(pipeline, render(overlay), commands)) == []


def found(documents: Documents, folder: Path, commands: str = "", **fields: Any) -> str:
    given = {"queue": "gpu", "priority": "dynamicpo-experiment", **fields}
    return "\n".join(
        consistency.problems(compiled(folder, Placement(**given)), documents, commands)
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"queue": "gpus"}, "exec-train: queue 'gpus': no LocalQueue of this name"),
        (
            {"priority": "urgent"},
            "exec-train: priority 'urgent': no WorkloadPriorityClass of this name",
        ),
        ({"gpu_count": 5}, "exec-train: 5 GPUs: more than the quota ever admits (4)"),
        (
            {"gpu_node_selector": "cloud.google.com/gke-accelerator=nvidia-a100"},
            "exec-train: node selector cloud.google.com/gke-accelerator=nvidia-a100: "
            "the nodes have cloud.google.com/gke-accelerator=nvidia-l4",
        ),
        (
            {"gpu_node_selector": "pool=gpu"},
            "exec-train: node selector pool=gpu: no nodes have this label",
        ),
        (
            {"gpu_tolerations": "gpu:NoSchedule"},
            "exec-train: taint nvidia.com/gpu=present:NoSchedule: not tolerated",
        ),
        (
            {"spot": True, "queue": "gpu-spot", "spot_tolerations": ""},
            "exec-train: taint cloud.google.com/gke-spot=true:NoSchedule: not tolerated",
        ),
        (
            {"spot": True, "queue": "gpu"},
            "node selector cloud.google.com/gke-spot=true: no nodes have this label",
        ),
    ],
)
def test_a_broken_placement_is_found(
    render: Render, tmp_path: Path, fields: dict[str, Any], said: str
):
    assert found(render("gke"), tmp_path) == ""
    assert said in found(render("gke"), tmp_path, **fields)


def without(documents: Documents, kind: str, name: str) -> Documents:
    assert name in of_kind(documents, kind)
    return [item for item in documents if (item["kind"], item["metadata"]["name"]) != (kind, name)]


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("ServiceAccount", "dynamicpo-pipeline", "service account 'dynamicpo-pipeline'"),
        ("LocalQueue", "gpu", "queue 'gpu': no LocalQueue"),
        ("ClusterQueue", "dynamicpo-gpu", "queue 'gpu': no ClusterQueue behind it"),
        ("WorkloadPriorityClass", "dynamicpo-experiment", "priority 'dynamicpo-experiment'"),
    ],
)
def test_a_resource_that_is_gone_is_found(
    render: Render, tmp_path: Path, kind: str, name: str, said: str
):
    assert said in found(without(render("gke"), kind, name), tmp_path)


def test_a_changed_label_or_taint_of_the_flavor_is_found(render: Render, tmp_path: Path):
    documents = copy.deepcopy(render("gke"))
    node = of_kind(documents, "ResourceFlavor")["dynamicpo-gpu"]["spec"]
    node["nodeLabels"]["cloud.google.com/gke-accelerator"] = "nvidia-tesla-t4"
    node["nodeTaints"].append({"key": "team", "value": "a", "effect": "NoSchedule"})
    text = found(documents, tmp_path)
    assert "the nodes have cloud.google.com/gke-accelerator=nvidia-tesla-t4" in text
    assert "taint team=a:NoSchedule: not tolerated" in text


def test_node_pools_of_another_gpu_or_taint_are_found(render: Render, tmp_path: Path):
    documents = render("gke")
    assert found(documents, tmp_path, pools()) == ""
    other = found(documents, tmp_path, pools("--gpu", "nvidia-tesla-t4"))
    assert "dynamicpo-nvidia-tesla-t4-1-on-demand: node selector" in other
    tainted = pools().replace("nvidia.com/gpu=present:NoSchedule", "team=a:NoSchedule")
    assert "1-on-demand: taint team=a:NoSchedule: not tolerated" in found(
        documents, tmp_path, tainted
    )


def test_another_user_than_the_images_is_found(render: Render, tmp_path: Path):
    pipeline = compiled(tmp_path, Placement())
    executor = pipeline[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-prepare"]
    executor["securityContext"]["runAsUser"] = "0"
    assert "exec-prepare: user 0: must be the images' (10001)" in list(
        consistency.problems(pipeline, render("gke"))
    )


@pytest.mark.parametrize("image", ["dynamicpo-python:local", "registry.invalid/dynamicpo:v1"])
def test_a_pipeline_that_was_compiled_without_an_image_is_found(
    render: Render, tmp_path: Path, image: str
):
    pipeline = compiled(tmp_path, Placement())
    pipeline[0]["deploymentSpec"]["executors"]["exec-prepare"]["container"]["image"] = image
    (said,) = consistency.problems(pipeline, render("gke"))
    assert said.startswith(f"exec-prepare: image '{image}': must be named by digest")


def test_a_task_that_nobody_placed_is_found(render: Render, tmp_path: Path):
    pipeline = compiled(tmp_path, Placement())
    del pipeline[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-prepare"]
    assert "exec-prepare: must be placed, but it has no Kubernetes part" in list(
        consistency.problems(pipeline, render("gke"))
    )
    assert "must be placed" in next(consistency.problems(pipeline[:1], render("gke")))


def test_the_command_ends_with_3_and_names_both_files(render: Render, tmp_path: Path):
    manifests, pipeline = tmp_path / "gke.yaml", tmp_path / "sample.yaml"
    manifests.write_text(yaml.safe_dump_all(render("gke")))
    for queue, code in (("gpu", 0), ("gpus", 3)):
        compiled(tmp_path, Placement(queue=queue))
        command = [
            sys.executable,
            K8S / "consistency.py",
            "--manifests",
            manifests,
            "--pipelines",
            pipeline,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, "sample.yaml, gke.yaml: exec-train: queue" in done.stdout) == (
            code,
            code == 3,
        )
