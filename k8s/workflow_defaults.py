"""What to apply so that Argo's workflow controller has the defaults of a manifest beside its own.

    kubectl get configmap workflow-controller-configmap -o json | python workflow_defaults.py FILE

Prints the ConfigMap with the merged text, or nothing where the controller has these defaults
already. Exit code 2: its ConfigMap is of another form.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

KEY = "workflowDefaults"
Document = dict[str, Any]


class UnknownForm(ValueError):
    """The ConfigMap can't be merged by a program."""


def merged(live: Mapping[str, Any], manifest: Mapping[str, Any]) -> Document | None:
    """The ConfigMap to apply: the manifest, with the controller's own defaults around its retries.

    Args:
        live: The controller's ConfigMap.
        manifest: The one in workflow-controller/.

    Returns:
        The manifest with the merged text; None where the controller has it already.

    Raises:
        UnknownForm: The defaults are not where Kubeflow Pipelines keeps them.
    """
    data = live.get("data", {})
    if "config" in data:
        raise UnknownForm(
            f"the ConfigMap must have the key {KEY}, as that of Kubeflow Pipelines has, but it "
            "keeps everything under the key config. Add by hand, below workflowDefaults:\n"
            f"{manifest['data'][KEY]}"
        )
    defaults = _mapping(yaml.safe_load(data.get(KEY, "")), KEY)
    retries = yaml.safe_load(manifest["data"][KEY])["spec"]["templateDefaults"]["retryStrategy"]
    spec = _mapping(defaults.get("spec"), "spec")
    templates = _mapping(spec.get("templateDefaults"), "templateDefaults")
    if templates.get("retryStrategy") == retries:
        return None
    # As a whole: an expression or a backoff that is left beside it would change what it means.
    templates = {**templates, "retryStrategy": retries}
    content = {**defaults, "spec": {**spec, "templateDefaults": templates}}
    text = yaml.safe_dump(content, sort_keys=False, width=sys.maxsize)
    return {**manifest, "data": {KEY: text}}


def _mapping(value: object, where: str) -> Document:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnknownForm(f"{where}: must be a mapping, got {value!r}. Edit it by hand.")
    return value


def main() -> int:
    """Print the ConfigMap to apply."""
    manifest = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        found = merged(json.load(sys.stdin), manifest)
    except (UnknownForm, json.JSONDecodeError, yaml.YAMLError) as error:
        sys.stderr.write(f"workflow-controller-configmap: {error}\n")
        return 2
    if found:
        yaml.safe_dump(found, sys.stdout, sort_keys=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
