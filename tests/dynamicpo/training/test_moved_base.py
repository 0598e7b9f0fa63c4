"""A base whose content moves under its name: noticed, and never taken for the old one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dynamicpo.core import storage
from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.models.backbones import Permissions, resolve_version
from dynamicpo.models.checkpoints import load_model
from dynamicpo.training.sft import fine_tune
from tests.fixtures.folders import write_preferences
from tests.fixtures.hub import REPOSITORY, Hub, running
from tests.fixtures.models import write_tiny_llm

OLD, NEW = "a" * 40, "b" * 40
TRAINING = {"max_steps": 1, "batch_size": 4, "lora_rank": 2}

# In a process of its own: the address of the hub is read once, when its library is imported.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from dynamicpo.core.config import SFTConfig
from dynamicpo.core.errors import DynamicPOError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.models.backbones import Permissions
from dynamicpo.models.checkpoints import load_model
from dynamicpo.training.sft import fine_tune

command, preferences, output, *others = sys.argv[1:]
result = {}
try:
    if command == "train":
        config = SFTConfig(backbone="someone/model", **json.loads(others[0]))
        result["inputs"] = fine_tune(Path(preferences), Path(output), config).inputs
        result["base"] = read_manifest(Path(output)).extra["base"]["revision"]
    permissions = Permissions(fetch_base=True)
    model = load_model(Path(output), permissions).model
    result["logits"] = model(torch.tensor([[3, 4, 5]])).logits[0, -1, :5].tolist()
except DynamicPOError as error:
    result["error"] = str(error)
print(json.dumps(result))
"""


def run(folder: Path, address: str, *arguments: str) -> dict:
    environment = {
        **os.environ,
        "HF_ENDPOINT": address,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    result: dict = json.loads(finished.stdout.splitlines()[-1])
    return result


def other_weights(folder: Path) -> Path:
    write_tiny_llm(folder)
    file = folder / "model.safetensors"
    weights = {name: values * 1.5 for name, values in load_file(str(file)).items()}
    save_file(weights, str(file), {"format": "pt"})
    return folder


def test_a_hub_whose_main_moves(tmp_path: Path) -> None:
    """The old model keeps its base and its scores; the same training again is another one."""
    preferences = str(write_preferences(tmp_path / "preferences"))
    settings = json.dumps(TRAINING)
    hub = Hub({OLD: write_tiny_llm(tmp_path / "old"), NEW: other_weights(tmp_path / "new")})
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    with running(hub) as address:
        before = run(tmp_path, address, "train", preferences, first, settings)
        assert before["base"] == before["inputs"]["backbone"] == OLD
        hub.head = NEW
        assert run(tmp_path, address, "load", preferences, first)["logits"] == before["logits"]
        again = run(tmp_path, address, "train", preferences, first, settings)
        assert "differs in backbone" in again["error"]
        moved = run(tmp_path, address, "train", preferences, second, settings)
    assert moved["base"] == NEW and moved["logits"] != before["logits"]
    # Reference log-probabilities are kept under this name.
    names = [read_manifest(Path(folder)).fingerprint for folder in (first, second)]
    assert names[0] != names[1]
    assert REPOSITORY == read_manifest(Path(first)).extra["base"]["backbone"]


def test_a_base_in_an_object_store_is_named_by_its_content(
    object_store: str, tmp_path: Path
) -> None:
    uri = f"{object_store}/moved/base"
    storage.put(write_tiny_llm(tmp_path / "old"), uri)
    preferences = write_preferences(tmp_path / "preferences")
    config = SFTConfig(backbone=uri, **TRAINING)
    manifest = fine_tune(preferences, tmp_path / "model", config)
    assert manifest.inputs["backbone"] == resolve_version(uri, "main").checksum != ""
    adapter = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == uri
    may_fetch = Permissions(fetch_base=True)
    load_model(tmp_path / "model", may_fetch)
    with pytest.raises(ConfigError, match="allow_base_from_manifest"):
        load_model(tmp_path / "model")
    storage.put(other_weights(tmp_path / "new"), uri)
    assert resolve_version(uri, "main").checksum != manifest.inputs["backbone"]
    with pytest.raises(DataError, match="its files have changed"):
        load_model(tmp_path / "model", may_fetch)
    with pytest.raises(DataError, match="differs in backbone"):
        fine_tune(preferences, tmp_path / "model", config)


def test_a_template_in_an_object_store_is_named_by_its_content(
    object_store: str, tmp_path: Path
) -> None:
    uri = f"{object_store}/moved/template.yaml"
    template = tmp_path / "template.yaml"
    preferences = write_preferences(tmp_path / "preferences")
    base = write_tiny_llm(tmp_path / "base")
    config = SFTConfig(backbone=str(base), template=uri, **TRAINING)
    for text in ("Seen: {history}Next: ", "{history}Next: "):
        template.write_text(f"prompts: [{text!r}]")
        storage.put(template, uri)
        if (tmp_path / "model").exists():
            with pytest.raises(DataError, match="differs in template"):
                fine_tune(preferences, tmp_path / "model", config)
        else:
            fine_tune(preferences, tmp_path / "model", config)
