"""Stands in for the programs of the guide: notes what it was asked, and answers what is used.

It runs under their names: `gcloud`, `kubectl`, `helm`, `docker`, `gh`, `kind`, `curl`, `build.sh`.
The environment names the file of its notes, the registry's answers and the real kubectl.
"""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

CONTROLLER = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "workflow-controller-configmap", "namespace": "kubeflow"},
    "data": {
        "workflowDefaults": "spec:\n  templateDefaults:\n    retryStrategy:\n      limit: '2'\n"
    },
}
# What the guide takes from an answer, by the words that ask for it.
ANSWERS = {
    "gcloud artifacts repositories describe": os.environ["GUIDE_REGISTRY"],
    "gcloud iam workload-identity-pools describe": "projects/1/pools/github",
    "kubectl get endpointslice kubernetes": "10.0.0.2",
    "kubectl -n kueue-system get configmap": '      - "pod"',
    "kubectl -n kubeflow get secret": base64.b64encode(b"key").decode(),
    "kubectl --namespace kubeflow get configmap": json.dumps(CONTROLLER),
}


def contents(words: list[str]) -> list[str]:
    """What is applied: standard input, or the file that a shell made of a command's output."""
    named = zip(words, words[1:], strict=False)
    files = [file for flag, file in named if flag in ("-f", "--filename")]
    readable = [file for file in files if file == "-" or file.startswith("/dev/fd/")]
    return [sys.stdin.read() if file == "-" else Path(file).read_text() for file in readable]


def main() -> int:
    """Note the call, and answer."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    note = {"words": words, "contents": contents(words)}
    with Path(os.environ["GUIDE_NOTES"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")
    if words[:2] == ["kubectl", "kustomize"]:
        return subprocess.run([os.environ["GUIDE_KUBECTL"], *words[1:]], check=False).returncode
    in_background = os.path.samestat(os.fstat(1), os.stat(os.devnull))
    if "port-forward" in words and in_background:
        time.sleep(60)  # until the guide ends it
    if words[:3] == ["docker", "image", "inspect"]:
        runtime = "gpu" if "dynamicpo-gpu" in words[-1] else "cpu"
        sys.stdout.write(f"{os.environ[f'GUIDE_IMAGE_{runtime.upper()}']}\n")
    line = " ".join(words)
    sys.stdout.writelines(f"{text}\n" for asked, text in ANSWERS.items() if line.startswith(asked))
    return 0


if __name__ == "__main__":
    sys.exit(main())
