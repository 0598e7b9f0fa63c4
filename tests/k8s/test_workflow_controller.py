"""The setting of Argo's workflow controller that lets failed tasks be tried again."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s.conftest import K8S, ROOT

spec = importlib.util.spec_from_file_location("workflow_defaults", K8S / "workflow_defaults.py")
assert spec and spec.loader
workflow_defaults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(workflow_defaults)

MANIFEST = yaml.safe_load((K8S / "workflow-controller/retries.yaml").read_text())
# As a stock Kubeflow Pipelines 2.17 has it.
STOCK = {
    "artifactRepository": "archiveLogs: true\ns3:\n  bucket: mlpipeline\n",
    "executor": "imagePullPolicy: IfNotPresent\n",
    "workflowDefaults": (
        "spec:\n  ttlStrategy:\n    secondsAfterCompletion: 3600\n  templateDefaults:\n"
        "    retryStrategy:\n      limit: '2'\n      retryPolicy: OnError\n"
    ),
}
INT_OR_STRING = {"type": ["integer", "string"], "pattern": r"^\d+$"}
# What Argo takes there (argoproj/argo-workflows, config/config.go and RetryStrategy in
# pkg/apis/workflow/v1alpha1/workflow_types.go); it refuses fields that it does not know.
RETRY_STRATEGY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "affinity": {"type": "object"},
        "backoff": {"type": "object"},
        "expression": {"type": "string"},
        "limit": INT_OR_STRING,
        "retryPolicy": {"enum": ["Always", "OnFailure", "OnError", "OnTransientError"]},
    },
}
WORKFLOW_DEFAULTS = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "properties": {
                "ttlStrategy": {
                    "type": "object",
                    "additionalProperties": {"type": "integer"},
                },
                "templateDefaults": {
                    "type": "object",
                    "properties": {"retryStrategy": RETRY_STRATEGY},
                },
            },
        },
    },
}
RETRIES = {"limit": "0", "retryPolicy": "Always"}


def config_map(data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": "workflow-controller-configmap", "namespace": "kubeflow"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def parsed(data: dict[str, str]) -> dict[str, Any]:
    """The settings as the controller reads them: the values, indented, as one YAML document."""
    text = ""
    for name, value in data.items():
        lines = value.strip("\n").split("\n")
        text += (
            f"{name}:\n  " + "\n  ".join(lines) + "\n" if "\n" in value else f"{name}: {value}\n"
        )
    return dict(yaml.safe_load(text))


def test_the_manifest_is_what_the_controller_takes():
    kubernetes_validate.validate(MANIFEST, "1.36", strict=True)
    assert MANIFEST["metadata"] == config_map({})["metadata"]
    settings = parsed(MANIFEST["data"])
    jsonschema.validate(settings["workflowDefaults"], WORKFLOW_DEFAULTS)
    assert settings == {
        "workflowDefaults": {"spec": {"templateDefaults": {"retryStrategy": RETRIES}}}
    }


@pytest.mark.parametrize(
    "broken",
    [{"limit": "two"}, {"retryPolicy": "Sometimes"}, {"retries": 3}],
)
def test_the_schema_refuses_what_the_controller_refuses(broken: dict[str, str]):
    strategy = {**RETRIES, **broken}
    content = {"spec": {"templateDefaults": {"retryStrategy": strategy}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, WORKFLOW_DEFAULTS)


def test_what_the_controller_has_beside_it_is_kept():
    found = workflow_defaults.merged(config_map(STOCK), MANIFEST)
    assert found and set(found["data"]) == {"workflowDefaults"}
    settings = parsed({**STOCK, **found["data"]})
    jsonschema.validate(settings["workflowDefaults"], WORKFLOW_DEFAULTS)
    assert settings["workflowDefaults"]["spec"] == {
        "ttlStrategy": {"secondsAfterCompletion": 3600},
        "templateDefaults": {"retryStrategy": RETRIES},
    }
    assert settings["artifactRepository"]["archiveLogs"] is True


def test_other_defaults_of_templates_stay_and_an_expression_beside_the_policy_goes():
    text = "spec: {templateDefaults: {timeout: 9h, retryStrategy: {limit: 1, expression: 'false'}}}"
    found = workflow_defaults.merged(config_map({"workflowDefaults": text}), MANIFEST)
    assert yaml.safe_load(found["data"]["workflowDefaults"]) == {
        "spec": {"templateDefaults": {"timeout": "9h", "retryStrategy": RETRIES}}
    }


def test_a_controller_without_defaults_gets_them_and_one_that_has_them_nothing():
    first = workflow_defaults.merged(config_map({"executor": "a: b"}), MANIFEST)
    assert first["data"] == MANIFEST["data"]
    assert workflow_defaults.merged(config_map(first["data"]), MANIFEST) is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"config": "parallelism: 3"}, "must have the key workflowDefaults"),
        ({"workflowDefaults": "spec: [1]"}, "spec: must be a mapping"),
    ],
)
def test_another_form_is_refused(data: dict[str, str], said: str):
    with pytest.raises(workflow_defaults.UnknownForm, match=said):
        workflow_defaults.merged(config_map(data), MANIFEST)


KUBECTL = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
  kustomize*) echo "kind: Rendered" ;;
  *"get configmap"*) cat "$LIVE" ;;
  apply*) cat >>"$CALLS" ;;
esac
"""


def apply(
    folder: Path, live: dict[str, str], *options: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run apply.sh with a kubectl that answers with a ConfigMap and notes what it was asked."""
    shutil.copytree(K8S, folder / "k8s", dirs_exist_ok=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    (folder / "live.json").write_text(json.dumps(config_map(live)))
    (folder / "calls").write_text("")
    environment = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(folder / "calls"),
        "LIVE": str(folder / "live.json"),
    }
    done = subprocess.run(
        [folder / "k8s/apply.sh", "kind", *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return done, (folder / "calls").read_text()


needs_venv = pytest.mark.skipif(
    not (ROOT / ".venv/bin/python").exists(), reason="apply.sh takes Python from .venv"
)


@needs_venv
def test_the_flag_applies_the_setting_and_restarts_the_controller(tmp_path: Path):
    done, calls = apply(tmp_path, STOCK, "--retry-failures")
    assert done.returncode == 0, done.stderr
    assert calls.count("apply --server-side --force-conflicts --field-manager dynamicpo") == 2
    assert "retryPolicy: Always" in calls and "secondsAfterCompletion: 3600" in calls
    assert calls.endswith("--namespace kubeflow rollout restart deployment workflow-controller\n")


def test_without_the_flag_the_controller_is_left_alone(tmp_path: Path):
    done, calls = apply(tmp_path, STOCK)
    assert done.returncode == 0, done.stderr
    assert calls.count("apply --server-side") == 1 and "workflow-controller" not in calls


@needs_venv
def test_a_dry_run_shows_the_setting_and_changes_nothing(tmp_path: Path):
    done, calls = apply(tmp_path, STOCK, "--dry-run", "--retry-failures")
    documents = list(yaml.safe_load_all(done.stdout))
    assert [document["kind"] for document in documents] == ["Rendered", "ConfigMap"]
    assert "apply" not in calls and "rollout" not in calls


@needs_venv
def test_settings_of_another_form_stop_everything(tmp_path: Path):
    done, calls = apply(tmp_path, {"config": "parallelism: 3"}, "--retry-failures")
    assert done.returncode == 2 and "retryPolicy: Always" in done.stderr
    assert "Nothing was applied" in done.stderr and "apply" not in calls


@needs_venv
def test_a_setting_that_is_there_restarts_nothing(tmp_path: Path):
    done, calls = apply(tmp_path, MANIFEST["data"], "--retry-failures")
    assert done.returncode == 0 and "rollout" not in calls and calls.count("apply") == 1
