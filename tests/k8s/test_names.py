"""What manifests and the example name is there."""

import re
from collections.abc import Callable

import pytest
import yaml

from dynamicpo.cli.main import main
from tests.k8s.conftest import GPU_OVERLAYS, K8S, Documents, of_kind

Render = Callable[[str], Documents]


@pytest.mark.parametrize("overlay", GPU_OVERLAYS)
def test_what_pods_and_the_example_name_is_there(render: Render, overlay: str):
    documents = render(overlay)
    text = yaml.safe_dump_all(documents)
    for field, kind in (
        ("serviceAccountName", "ServiceAccount"),
        ("priorityClassName", "PriorityClass"),
    ):
        named = set(re.findall(rf"{field}: (\S+)", text))
        assert named and named <= set(of_kind(documents, kind))
    example = yaml.safe_load((K8S / "examples/train-job.yaml").read_text())
    assert example["spec"]["runtimeRef"]["name"] in of_kind(documents, "TrainingRuntime")
    labels = example["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] in of_kind(documents, "LocalQueue")
    assert labels["kueue.x-k8s.io/priority-class"] in of_kind(documents, "WorkloadPriorityClass")


def test_the_examples_command_and_flags_exist(capsys: pytest.CaptureFixture[str]):
    trainer = yaml.safe_load((K8S / "examples/train-job.yaml").read_text())["spec"]["trainer"]
    command, *flags = trainer["args"][trainer["args"].index("dynamicpo") + 1 :]
    assert main([command, "--help"]) == 0
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert len(flags) == 3 and {flag.partition("=")[0] for flag in flags} <= known
