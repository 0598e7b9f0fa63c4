"""Every field of a placement is in the compiled YAML, in loops too."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.config_inputs import HASH_KEY_VARIABLE
from dynamicpo.core.errors import ConfigError
from dynamicpo.runs.compile import compile_pipeline
from dynamicpo_pipelines.placement import Placement, on_cpu, placed
from tests.pipelines.conftest import Compile, prepare, sample

GPU_TASKS = ("exec-train", "exec-train-2")
CPU_TASKS = ("exec-prepare", "exec-report")
DIGEST = "registry.invalid/gpu@sha256:" + 64 * "b"


def container(spec: dict[str, Any], name: str) -> dict[str, Any]:
    return dict(spec["deploymentSpec"]["executors"][name]["container"])


def tasks(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    dags = [spec["root"], *spec["components"].values()]
    return {
        name: task for dag in dags for name, task in dag.get("dag", {}).get("tasks", {}).items()
    }


def test_an_unplaced_pipeline_has_no_kubernetes_part(tmp_path: Path):
    compiler.Compiler().compile(sample, str(tmp_path / "sample.yaml"))
    (spec,) = yaml.safe_load_all((tmp_path / "sample.yaml").read_text())
    assert not [name for name in (*CPU_TASKS, *GPU_TASKS) if "resources" in container(spec, name)]
    assert spec["root"]["dag"]["tasks"]["report"]["cachingOptions"]["enableCache"] is True


def test_gpus_with_selector_and_toleration_by_default(compile_placed: Compile):
    spec, executors = compile_placed()
    for name in GPU_TASKS:
        accelerator = container(spec, name)["resources"]["accelerator"]
        assert (accelerator["resourceType"], accelerator["resourceCount"]) == (
            "nvidia.com/gpu",
            "1",
        )
        assert executors[name]["nodeSelector"]["labels"] == {
            "cloud.google.com/gke-accelerator": "nvidia-l4"
        }
        tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert executors[name]["tolerations"] == tolerations


def test_cpu_tasks_keep_off_gpu_nodes(compile_placed: Compile):
    spec, executors = compile_placed(spot=True, queue="gpu-spot")
    for name in CPU_TASKS:
        assert "accelerator" not in container(spec, name)["resources"]
        assert not {"tolerations", "nodeSelector"} & set(executors[name])
        assert "kueue.x-k8s.io/queue-name" not in executors[name]["podMetadata"]["labels"]
        (term,) = executors[name]["nodeAffinity"]
        avoided = {
            item["key"] for item in term["matchExpressions"] if item["operator"] == "DoesNotExist"
        }
        assert avoided == {"cloud.google.com/gke-accelerator", "nvidia.com/gpu.present"}


def test_spot_nodes_are_chosen_and_tolerated(compile_placed: Compile):
    _, executors = compile_placed(spot=True, gpu_node_selector="pool=a, kind=b")
    for name in GPU_TASKS:
        labels = {"pool": "a", "kind": "b", "cloud.google.com/gke-spot": "true"}
        assert executors[name]["nodeSelector"]["labels"] == labels
        spot = {
            "key": "cloud.google.com/gke-spot",
            "operator": "Equal",
            "value": "true",
            "effect": "NoSchedule",
        }
        assert spot in executors[name]["tolerations"]


def test_resources_of_every_task(compile_placed: Compile):
    given = {
        "gpu_count": 2,
        "gpu_cpu": "6",
        "gpu_cpu_limit": "12",
        "gpu_memory": "40Gi",
        "gpu_memory_limit": "80Gi",
    }
    spec, _ = compile_placed(**given, task_cpu="500m", task_memory_limit="5Gi")
    for name in GPU_TASKS:
        resources = container(spec, name)["resources"]
        assert resources["accelerator"]["resourceCount"] == "2"
        assert (resources["resourceCpuRequest"], resources["resourceCpuLimit"]) == ("6", "12")
        assert (resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]) == (
            "40Gi",
            "80Gi",
        )
    for name in CPU_TASKS:
        resources = container(spec, name)["resources"]
        assert (resources["resourceCpuRequest"], resources["resourceCpuLimit"]) == ("500m", "4")
        assert (resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]) == (
            "4Gi",
            "5Gi",
        )


def test_shared_memory_and_scratch(compile_placed: Compile):
    _, executors = compile_placed(shared_memory="3Gi", scratch="7Gi")
    scratch = {"volumeName": "scratch", "mountPath": "/tmp", "sizeLimit": "7Gi"}
    shared = {"volumeName": "dshm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "3Gi"}
    assert all(executors[name]["emptyDirMounts"] == [shared, scratch] for name in GPU_TASKS)
    assert all(executors[name]["emptyDirMounts"] == [scratch] for name in CPU_TASKS)


def test_time_limits(compile_placed: Compile):
    _, executors = compile_placed(gpu_timeout_hours=5, task_timeout_hours=2)
    assert {executors[name]["activeDeadlineSeconds"] for name in GPU_TASKS} == {str(5 * 3600)}
    assert {executors[name]["activeDeadlineSeconds"] for name in CPU_TASKS} == {str(2 * 3600)}


def retry_policies(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The retry policies of a pipeline by the components of their tasks."""
    return {
        task["componentRef"]["name"]: task["retryPolicy"]
        for task in tasks(spec).values()
        if "retryPolicy" in task
    }


def test_every_task_is_tried_again_with_backoff(compile_placed: Compile):
    fields = {"gpu_timeout_hours": 24, "task_timeout_hours": 4, "node_wait_hours": 12}
    spec, _ = compile_placed(retries=3, retry_seconds=10, retry_factor=3, **fields)
    policies = retry_policies(spec)
    assert set(policies) == {"comp-prepare", "comp-train", "comp-train-2", "comp-report"}
    waits = 10 + 30 + 90
    for component, policy in policies.items():
        hours = 24 if component.startswith("comp-train") else 4
        assert policy == {
            "maxRetryCount": 3,
            "backoffDuration": "10s",
            "backoffFactor": 3.0,
            "backoffMaxDuration": f"{4 * (hours + 12) * 3600 + waits}s",
        }
    assert not retry_policies(compile_placed(retries=0)[0])


def test_a_task_that_only_checks_is_not_tried_again(tmp_path: Path):
    @dsl.pipeline(name="checking")
    def checking():
        on_cpu(prepare(x=on_cpu(prepare(x=1), is_retried=False).output))

    compiler.Compiler().compile(placed(checking, Placement()), str(tmp_path / "checking.yaml"))
    spec = next(yaml.safe_load_all((tmp_path / "checking.yaml").read_text()))
    found = {name: "retryPolicy" in task for name, task in spec["root"]["dag"]["tasks"].items()}
    assert found == {"prepare": False, "prepare-2": True}


def test_many_retries_of_long_trainings_have_the_time_that_they_need():
    placement = Placement(retries=10, gpu_timeout_hours=24)
    assert placement.retry_factor == 1
    assert placement.total_seconds(24) == 11 * (24 + 24) * 3600 + 10 * 60


def test_queue_and_priority_are_labels_of_gpu_tasks(compile_placed: Compile):
    _, executors = compile_placed(queue="gpu", priority="high")
    for name in GPU_TASKS:
        labels = executors[name]["podMetadata"]["labels"]
        assert labels["kueue.x-k8s.io/queue-name"] == "gpu"
        assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert "kueue" not in str(compile_placed()[1])


def test_the_token_comes_from_a_secret_that_may_be_absent(compile_placed: Compile):
    _, executors = compile_placed(token_secret="my-token")
    for name in GPU_TASKS:
        (secret,) = executors[name]["secretAsEnv"]
        assert (secret["secretName"], secret["optional"]) == ("my-token", True)
        assert secret["keyToEnv"] == [{"secretKey": "token", "envVar": "HF_TOKEN"}]
    assert not any("secretAsEnv" in executors[name] for name in CPU_TASKS)


@pytest.mark.parametrize("name", ["training", "negative_scaling"])
def test_the_key_of_hashed_ids_reaches_data_preparation_alone(tmp_path: Path, name: str):
    settings = {"hash_key_secret": "ids", "hash_key_entry": "hmac", "cache_claim": "models"}
    image = "registry.invalid/cpu@sha256:" + 64 * "a"
    compile_pipeline(name, tmp_path / "p.yaml", image, placement=settings)
    _, platform = yaml.safe_load_all((tmp_path / "p.yaml").read_text(encoding="utf-8"))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    with_key = [task for task, executor in executors.items() if HASH_KEY_VARIABLE in str(executor)]
    assert with_key == ["exec-prepare-data"]
    key, token = executors["exec-prepare-data"]["secretAsEnv"]
    assert (key["secretName"], key["optional"]) == ("ids", True)
    assert key["keyToEnv"] == [{"secretKey": "hmac", "envVar": HASH_KEY_VARIABLE}]
    # A backbone's tokenizer counts the tokens of titles.
    assert token["secretName"] == "huggingface-token"
    assert executors["exec-prepare-data"]["pvcMount"][0]["constant"] == "models"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 254])
def test_names_of_secrets_are_checked(name: str):
    with pytest.raises(ConfigError, match="hash_key_secret: must be a name in Kubernetes"):
        Placement(hash_key_secret=name)


def test_volumes_for_models_and_data(compile_placed: Compile):
    spec, executors = compile_placed(
        cache_claim="models", data_claim="rows", checkpoint_prefix="/data/checkpoints"
    )
    for name in GPU_TASKS:
        mounts = {mount["mountPath"]: mount["constant"] for mount in executors[name]["pvcMount"]}
        assert mounts == {"/cache": "models", "/data": "rows"}
        given = {item["name"]: item["value"] for item in container(spec, name)["env"]}
        assert given == {
            "HF_HOME": "/cache/huggingface",
            "DYNAMICPO_CHECKPOINT_PREFIX": "/data/checkpoints",
            "DYNAMICPO_CHECKPOINT_MINUTES": "10",
        }
    for name in CPU_TASKS:
        assert [mount["constant"] for mount in executors[name]["pvcMount"]] == ["rows"]
    assert "pvcMount" not in str(compile_placed()[1])


def test_the_checkpoint_prefix_is_a_constant_and_so_the_same_on_a_retry(compile_placed: Compile):
    spec, _ = compile_placed(checkpoint_prefix="gs://bucket/checkpoints")
    for name in GPU_TASKS:
        assert {
            "name": "DYNAMICPO_CHECKPOINT_PREFIX",
            "value": "gs://bucket/checkpoints",
        } in container(spec, name)["env"]


def test_all_tasks_run_as_the_images_user(compile_placed: Compile):
    _, executors = compile_placed()
    wanted = {"runAsUser": "10001", "runAsGroup": "0", "runAsNonRoot": True}
    assert [executor["securityContext"] for executor in executors.values()] == [wanted] * 4


def test_gpu_tasks_may_have_an_image_of_their_own(compile_placed: Compile):
    spec, _ = compile_placed(gpu_image=DIGEST)
    assert {container(spec, name)["image"] for name in GPU_TASKS} == {DIGEST}
    assert {container(spec, name)["image"] for name in CPU_TASKS} == {"python:local"}


def test_without_gpus_gpu_tasks_run_anywhere(compile_placed: Compile):
    spec, executors = compile_placed(gpu_count=0, spot=True, queue="gpu", gpu_image=DIGEST)
    for name in GPU_TASKS:
        assert "accelerator" not in container(spec, name)["resources"]
        assert not {"tolerations", "nodeSelector"} & set(executors[name])
        assert container(spec, name)["image"] == "python:local"


def test_what_tells_of_a_run_comes_from_no_cache(compile_placed: Compile):
    spec, _ = compile_placed()
    # A loop has no such options, and a task that is not cached an empty value.
    found = {name: task.get("cachingOptions") for name, task in tasks(spec).items()}
    cached = {name for name, options in found.items() if options}
    assert cached == {"prepare", "train", "train-2"} and found["report"] == {}


def test_a_placement_is_not_part_of_what_kfp_caches_by(compile_placed: Compile):
    small, large = compile_placed(gpu_memory="8Gi")[0], compile_placed(gpu_memory="9Gi")[0]
    assert {name: task["inputs"] for name, task in tasks(small).items() if "inputs" in task} == {
        name: task["inputs"] for name, task in tasks(large).items() if "inputs" in task
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpu_count", -1),
        ("gpu_memory", "16 GB"),
        ("task_cpu", "0"),
        ("task_cpu", "8"),
        ("gpu_memory", "64Gi"),
        ("gpu_node_selector", "nvidia-l4"),
        ("gpu_tolerations", "nvidia.com/gpu=present"),
        ("spot_tolerations", "a:Never"),
        ("checkpoint_prefix", "hdfs://bucket"),
        ("retry_factor", 0),
        ("node_wait_hours", 0),
        ("gpu_timeout_hours", 0),
    ],
)
def test_a_value_that_can_not_be_used_is_named(field: str, value: Any):
    with pytest.raises(ConfigError, match=rf"^{field}: must .*{value if value != 0.5 else '0.5'}"):
        Placement(**{field: value})


def test_a_fraction_is_no_factor_for_waits():
    with pytest.raises(ConfigError, match="retry_factor"):
        from_mapping(Placement, {"retry_factor": 1.5}, "placement")


def test_a_wait_that_grows_beyond_a_day_is_refused():
    with pytest.raises(ConfigError, match=r"^retry_factor: must .* <= 24 hours, got 2 and so 136"):
        Placement(retries=14, retry_factor=2)
    Placement(retries=11, retry_factor=2)


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as caught:
        Placement(gpu_memory="much", gpu_tolerations="x", checkpoint_prefix="/data/x")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "gpu_memory",
        "gpu_tolerations",
        "data_claim",
    ]
