"""Every overlay renders to resources that an API server would take.

None has a right, a secret or a way out too many.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from dynamicpo_pipelines.placement import SERVICE_ACCOUNT, USER
from tests.k8s.conftest import GPU_OVERLAYS, K8S, OVERLAYS, Documents, of_kind

Render = Callable[[str], Documents]
overlays = pytest.mark.parametrize("overlay", OVERLAYS)
GUIDE = (K8S / "README.md").read_text()
CLUSTER_WIDE = {
    "Namespace",
    "PriorityClass",
    "ClusterQueue",
    "ResourceFlavor",
    "WorkloadPriorityClass",
}
OTHERS = {"kueue.x-k8s.io/v1beta2", "trainer.kubeflow.org/v1alpha1"}
GOOGLES = "monitoring.googleapis.com/v1"
# What GKE's definition of a PodMonitoring asks for, as far as we use it
# (GoogleCloudPlatform/prometheus-engine, charts/operator/crds, at 00f28d4).
POD_MONITORING = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": GOOGLES},
        "kind": {"const": "PodMonitoring"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["endpoints", "selector"],
            "additionalProperties": False,
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "matchLabels": {
                            "type": "object",
                            "additionalProperties": {"type": "string"},
                        }
                    },
                },
                "endpoints": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 10,
                    "items": {
                        "type": "object",
                        "required": ["interval", "port"],
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": ["integer", "string"], "minLength": 1},
                            "interval": {"type": "string", "pattern": r"^(\d+(ms|[smhdwy]))+$"},
                            "path": {"type": "string"},
                        },
                    },
                },
            },
        },
    },
}


@overlays
def test_the_api_servers_schemas_accept_every_resource(render: Render, overlay: str):
    for document in render(overlay):
        if document["apiVersion"] not in {*OTHERS, GOOGLES}:
            kubernetes_validate.validate(document, "1.36", strict=True)


def test_an_unknown_field_is_found(render: Render):
    role = of_kind(render("gke"), "Role")["dynamicpo-pipeline"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**role, "rule": []}, "1.36", strict=True)


def test_the_definitions_of_custom_resources_accept_every_one(
    render: Render, shared: Path, tmp_path: Path
):
    """One call for all overlays, with a broken copy of each kind at its end.

    Reading the definitions takes seconds.
    """
    examples = [yaml.safe_load(path.read_text()) for path in (K8S / "examples").glob("*.yaml")]
    documents = [
        item
        for item in [*examples, *(item for overlay in GPU_OVERLAYS for item in render(overlay))]
        if item["apiVersion"] in OTHERS
    ]
    broken = {item["kind"]: {**item, "unheard": 1} for item in documents}
    (tmp_path / "good.yaml").write_text(yaml.safe_dump_all(documents))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump_all(broken.values()))
    definitions = sorted(shared.glob("schemas/*_*.yaml"))
    command = [sys.executable, shared / "tools" / "crdcheck.py", *definitions, "--"]
    command += [tmp_path / "good.yaml", tmp_path / "bad.yaml"]
    said = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    ).stdout
    assert said.splitlines()[-1] == f"{len(documents)} passed, {len(broken)} failed", said
    assert len(broken) == 6 and "SKIP" not in said


@pytest.mark.parametrize("overlay", ["gke", "gke-standalone"])
def test_googles_definition_accepts_the_pod_monitoring(render: Render, overlay: str):
    (found,) = [item for item in render(overlay) if item["apiVersion"] == GOOGLES]
    jsonschema.validate(found, POD_MONITORING)
    endpoints = (
        [],
        [{"interval": "5m"}],
        [{"port": "metrics"}],
        [{"port": "metrics", "interval": "often"}],
    )
    for broken in (
        {"endpoint": [{"port": 1}]},
        {"selector": "app"},
        *({"endpoints": item} for item in endpoints),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**found, "spec": {**found["spec"], **broken}}, POD_MONITORING)


@overlays
def test_cluster_wide_resources_have_no_namespace_and_all_others_the_same(
    render: Render, overlay: str
):
    documents = render(overlay)
    (namespace,) = of_kind(documents, "Namespace")
    for document in documents:
        wanted = None if document["kind"] in CLUSTER_WIDE else namespace
        assert document["metadata"].get("namespace") == wanted, document["metadata"]["name"]
    subjects = [
        subject
        for item in of_kind(documents, "RoleBinding").values()
        for subject in item["subjects"]
    ]
    assert {subject["namespace"] for subject in subjects} == {namespace}
    for queue in of_kind(documents, "ClusterQueue").values():
        assert queue["spec"]["namespaceSelector"]["matchLabels"] == {
            "kubernetes.io/metadata.name": namespace
        }


@overlays
def test_pod_security_is_enforced(render: Render, overlay: str):
    (namespace,) = of_kind(render(overlay), "Namespace").values()
    labels = namespace["metadata"]["labels"]
    levels = {
        mode: labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "warn", "audit")
    }
    assert levels == {"enforce": "baseline", "warn": "restricted", "audit": "restricted"}


@overlays
def test_no_secret_is_in_the_manifests(render: Render, overlay: str):
    assert not of_kind(render(overlay), "Secret")


ALLOWED = {
    ("argoproj.io", "workflowtaskresults"): {"create", "patch"},
    ("argoproj.io", "workflowtasksets"): {"list", "watch"},
    ("argoproj.io", "workflowtasksets/status"): {"patch"},
    ("", "configmaps"): {"get"},
    ("", "secrets"): {"get"},
    ("trainer.kubeflow.org", "trainjobs"): {"create", "get", "delete"},
    ("", "pods"): {"list"},
    ("", "pods/log"): {"get"},
}


@overlays
def test_roles_hold_the_least(render: Render, overlay: str):
    documents = render(overlay)
    assert not of_kind(documents, "ClusterRole") and not of_kind(documents, "ClusterRoleBinding")
    for role in of_kind(documents, "Role").values():
        for rule in role["rules"]:
            (group,), (resource,) = rule["apiGroups"], rule["resources"]
            assert set(rule["verbs"]) <= ALLOWED[group, resource]
            if resource in ("configmaps", "secrets"):
                assert len(rule["resourceNames"]) == 1
    # Trainings on several nodes come with GPUs.
    assert ("dynamicpo-train-jobs" in of_kind(documents, "Role")) == (overlay != "kind")
    subjects = [
        subject["name"]
        for item in of_kind(documents, "RoleBinding").values()
        for subject in item["subjects"]
    ]
    assert set(subjects) == {SERVICE_ACCOUNT}


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(K8S.glob("**/*.yaml"))
        if re.search("(?m)^kind: (Cluster)?Role$", path.read_text())
    ],
    ids=lambda path: path.name,
)
def test_every_rule_gives_its_reason(path: Path):
    lines = path.read_text().splitlines()
    rules = [number for number, line in enumerate(lines) if line.startswith("  - apiGroups:")]
    assert rules and all(lines[number - 1].startswith("  # ") for number in rules)


@overlays
def test_nothing_is_let_in_or_out_but_by_a_policy(render: Render, overlay: str):
    policies = of_kind(render(overlay), "NetworkPolicy")
    deny = policies.pop("default-deny")["spec"]
    workflows = {
        "matchExpressions": [{"key": "workflows.argoproj.io/workflow", "operator": "Exists"}]
    }
    selector = workflows if overlay in ("kind", "gke-standalone", "generic-gpu-standalone") else {}
    assert deny == {"podSelector": selector, "policyTypes": ["Ingress", "Egress"]}
    peers = policies.pop("allow-training-peers", None)
    assert (peers is None) == bool(selector)
    scrape = policies.pop("allow-scrape", None)
    assert (scrape is not None) == (overlay == "gke")
    for name, policy in policies.items():
        spec = policy["spec"]
        assert (spec["policyTypes"], spec["podSelector"]) == (["Egress"], selector), name
        assert all(rule.get("ports") and rule.get("to") for rule in spec["egress"]), name


@pytest.mark.parametrize("overlay", ["gke", "gke-standalone"])
def test_on_gke_no_policy_opens_the_internet(render: Render, overlay: str):
    policies = of_kind(render(overlay), "NetworkPolicy")
    blocks = re.findall(r"'cidr': '([^']*)'", str(policies))
    assert {"199.36.153.8/30", "199.36.153.4/30", "169.254.169.252/32"} < set(blocks)
    assert all(int(block.rpartition("/")[2]) >= 28 for block in blocks)


@overlays
def test_names_are_asked_of_the_clusters_dns_and_of_the_nodes_caches(render: Render, overlay: str):
    policies = of_kind(render(overlay), "NetworkPolicy")
    (rule,) = policies["allow-dns"]["spec"]["egress"]
    (peer,) = rule["to"]
    assert peer["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "kube-system"
    }
    (pods,) = peer["podSelector"]["matchExpressions"]
    assert (pods["key"], pods["operator"], set(pods["values"])) == (
        "k8s-app",
        "In",
        {"kube-dns", "node-local-dns"},
    )
    ports = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
    assert rule["ports"] == ports
    if overlay.startswith("gke"):
        (rule,) = policies["allow-node-local-dns"]["spec"]["egress"]
        assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == [
            "169.254.20.10/32",
            "169.254.169.254/32",
        ]
        assert rule["ports"] == ports


@pytest.mark.parametrize("overlay", GPU_OVERLAYS)
def test_pods_of_ours_meet_restricted(render: Render, overlay: str):
    (runtime,) = of_kind(render(overlay), "TrainingRuntime").values()
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pods = [
        item["spec"]["template"]["spec"] for item in of_kind(render(overlay), "Deployment").values()
    ]
    assert len(pods) == overlay.startswith("gke")
    for pod in [job["template"]["spec"]["template"]["spec"], *pods]:
        check_restricted(pod)


def check_restricted(pod: dict[str, Any]) -> None:
    """Pod Security Standards, restricted, for what we use; and what we ask beyond it."""
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, USER)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all(set(volume) & {"emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"])
    for container in pod["containers"]:
        own = container["securityContext"]
        assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"])
        for amounts in (container["resources"]["requests"], container["resources"]["limits"]):
            assert set(amounts) - {"nvidia.com/gpu"} == {"cpu", "memory", "ephemeral-storage"}


@pytest.mark.parametrize("overlay", GPU_OVERLAYS)
def test_queues_lead_to_flavors_that_exist(render: Render, overlay: str):
    documents = render(overlay)
    queues, flavors = of_kind(documents, "ClusterQueue"), of_kind(documents, "ResourceFlavor")
    assert {
        item["spec"]["clusterQueue"] for item in of_kind(documents, "LocalQueue").values()
    } == set(queues)
    used = [
        flavor["name"]
        for q in queues.values()
        for group in q["spec"]["resourceGroups"]
        for flavor in group["flavors"]
    ]
    assert sorted(used) == sorted(flavors)


@pytest.mark.parametrize("overlay", ["gke", "gke-standalone"])
def test_drift_figures_are_scraped(render: Render, overlay: str):
    documents = render(overlay)
    pod = of_kind(documents, "Deployment")["drift-exporter"]["spec"]["template"]
    (monitoring,) = of_kind(documents, "PodMonitoring").values()
    assert (
        monitoring["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    )
    (container,) = pod["spec"]["containers"]
    (port,) = container["ports"]
    assert [endpoint["port"] for endpoint in monitoring["spec"]["endpoints"]] == [port["name"]]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert importlib.util.find_spec(container["command"][-1]) is not None


DRIFT_SERVER = """\
images:
  - {name: dynamicpo-cpu, newName: registry.invalid/dynamicpo-cpu, digest: "sha256:DIGEST"}
"""


def test_a_drift_server_beside_the_clusters_own_store_gets_its_keys(
    kubectl: str, render: Render, tmp_path: Path
):
    """As the guide says to add it: it asks for the Secret, with the right to that one alone."""
    shutil.copytree(K8S, tmp_path / "k8s", ignore=shutil.ignore_patterns("__pycache__"))
    overlay = tmp_path / "k8s" / "overlays" / "generic-gpu"
    file = overlay / "kustomization.yaml"
    patch = re.search(r"(?ms)^     - target: .kind: Deployment, name: drift.*?(?=^   ```)", GUIDE)
    assert patch
    text = file.read_text()
    text = text.replace("components:\n", "components:\n  - ../../components/drift-metrics\n")
    text = text.replace(
        "patches:\n", "patches:\n" + textwrap.indent(textwrap.dedent(patch[0]), "  ")
    )
    file.write_text(text + DRIFT_SERVER.replace("DIGEST", 64 * "a"))
    said = subprocess.run(
        [kubectl, "kustomize", str(overlay)], check=True, capture_output=True, text=True
    ).stdout
    documents = [item for item in yaml.safe_load_all(said) if item]
    pod = of_kind(documents, "Deployment")["drift-exporter"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is True
    (container,) = pod["containers"]
    assert container["args"] == ["minio://mlpipeline/v2/artifacts"]
    assert container["image"] == "registry.invalid/dynamicpo-cpu@sha256:" + 64 * "a"
    binding = of_kind(documents, "RoleBinding")["dynamicpo-store-keys"]
    assert pod["serviceAccountName"] in [subject["name"] for subject in binding["subjects"]]
    google = of_kind(render("gke"), "Deployment")["drift-exporter"]["spec"]["template"]["spec"]
    assert google["automountServiceAccountToken"] is False
