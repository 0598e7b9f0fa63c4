"""Weights of models: all of them, no others, from safetensors, and no code along with them."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import file_checksums
from dynamicpo.models import checkpoints
from dynamicpo.models.backbones import BaseModelSpec, Permissions
from dynamicpo.models.base_models import load_base_model
from dynamicpo.models.lora import add_adapter
from dynamicpo.prompts.encoding import PromptSettings
from dynamicpo.prompts.template import PLAIN_TEMPLATE
from tests.fixtures.architectures import tiny_architecture
from tests.fixtures.folders import write_title_model
from tests.fixtures.models import write_tiny_llm

Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
MARKER = "code of the model has run"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_tiny_llm(tmp_path / "base")


def change_weights(file: Path, *, drop: str = "", add: str = "") -> None:
    weights = load_file(str(file))
    kept = {name: values for name, values in weights.items() if not drop or drop not in name}
    assert add or len(kept) < len(weights)
    if add:
        kept[add] = torch.ones(32, 32)
    save_file(kept, str(file), {"format": "pt"})


def rewrite_manifest(folder: Path, **base: object) -> None:
    """Make a changed folder look finished, as a stranger would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["extra"]["base"].update(base)
    checksums = file_checksums(folder)
    unlisted = ("manifest.json", "run.json")
    manifest["files"] = {name: value for name, value in checksums.items() if name not in unlisted}
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("lost", ["lm_head", "layers.1.mlp.up_proj"])
def test_a_base_without_some_of_its_weights_is_refused(base: Path, lost: str) -> None:
    change_weights(base / "model.safetensors", drop=lost)
    with pytest.raises(DataError, match=rf"1 are missing \(.*{lost}"):
        load_base_model(BaseModelSpec(str(base)))


def test_a_base_whose_weights_have_other_shapes_is_refused(base: Path) -> None:
    path = base / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "intermediate_size": 60}))
    with pytest.raises(DataError, match=r"6 have others .*: \(32, 64\), must be \(32, 60\)"):
        load_base_model(BaseModelSpec(str(base)))


def test_a_base_whose_file_was_cut_off_is_refused(base: Path) -> None:
    file = base / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match="must hold whole weights.*file not fully covered"):
        load_base_model(BaseModelSpec(str(base)))


def test_a_base_that_lacks_an_expert_is_refused(base: Path) -> None:
    """transformers puts experts together when it reads them."""
    tiny_architecture("mixtral", vocab_size=300).save_pretrained(base)
    change_weights(base / "model.safetensors", drop="layers.1.block_sparse_moe.experts.2.w1")
    with pytest.raises(DataError, match="Get the whole model"):
        load_base_model(BaseModelSpec(str(base)))


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    folder = write_tiny_llm(tmp_path / "base")
    model = tiny_architecture("llama", tie_word_embeddings=True, vocab_size=300)
    model.save_pretrained(str(folder))
    assert "lm_head.weight" not in load_file(str(folder / "model.safetensors"))
    loaded, _ = load_base_model(BaseModelSpec(str(folder)))
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-6)


def test_weights_without_a_place_are_named_once_and_left_out(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change_weights(base / "model.safetensors", add="vision_tower.patches")
    with caplog.at_level(logging.WARNING):
        load_base_model(BaseModelSpec(str(base)))
    named = [record for record in caplog.records if "vision_tower.patches" in record.message]
    assert len(named) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"drop": "lm_head"}, "1 are missing .lm_head.weight"),
        ({"add": "another.weight"}, "1 are of another .another.weight"),
    ],
)
def test_a_folder_of_ours_holds_its_weights_and_no_others(
    change: dict[str, str], problem: str, tmp_path: Path
) -> None:
    folder = write_title_model(tmp_path / "model")
    change_weights(folder / "model.safetensors", **change)
    rewrite_manifest(folder)
    with pytest.raises(DataError, match=problem):
        checkpoints.load_model(folder)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter with item tokens, over an untied head."""
    spec = BaseModelSpec(str(base), items=("a", "b"))
    model, tokenizer = load_base_model(spec)
    adapted = add_adapter(model, 2, 4, 0.0, tokenizer.convert_tokens_to_ids(["<item:a>"]))
    folder = tmp_path / "adapter"
    checkpoints.save_model(folder, adapted, tokenizer)
    settings = PromptSettings("token", PLAIN_TEMPLATE, False, 64)
    entries = checkpoints.manifest_entries(spec, adapted, settings)
    manifest = {"stage": "sft", "config": {}, "inputs": {}, "extra": entries}
    manifest["files"] = file_checksums(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"drop": "layers.0.self_attn.q_proj.lora_A"}, "1 are missing"),
        ({"drop": "lm_head.token_adapter.trainable_tokens_delta"}, "1 are missing"),
        ({"add": "base_model.model.other.lora_A.weight"}, "1 are of another"),
        ({"add": f"{Q_PROJ}.base_layer.weight"}, "1 are of another"),
    ],
)
def test_an_adapter_holds_its_weights_and_no_others(
    change: dict[str, str], problem: str, adapter: Path
) -> None:
    checkpoints.load_model(adapter)
    change_weights(adapter / "adapter_model.safetensors", **change)
    rewrite_manifest(adapter)
    with pytest.raises(DataError, match=problem):
        checkpoints.load_model(adapter)


def test_an_adapter_that_waits_for_a_token_is_refused(adapter: Path) -> None:
    """Activated LoRA: its effect on a prompt hangs on tokens in it, which a shared prompt hides."""
    path = adapter / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "alora_invocation_tokens": [5]}))
    rewrite_manifest(adapter)
    with pytest.raises(DataError, match="must be of LoRA that acts on all tokens, got activated"):
        checkpoints.load_model(adapter)


def test_pickled_weights_are_never_read(base: Path, adapter: Path) -> None:
    for folder, name in ((base, "model"), (adapter, "adapter_model")):
        weights = folder / f"{name}.safetensors"
        pickled = folder / ("pytorch_model.bin" if folder == base else "adapter_model.bin")
        torch.save(load_file(str(weights)), pickled)
        weights.unlink()
    with pytest.raises(DataError, match="weights are pickled .pytorch_model.bin.*save_pretrained"):
        load_base_model(BaseModelSpec(str(base)))
    with pytest.raises(DataError):
        checkpoints.load_model(adapter)


def with_code(folder: Path, marker: Path) -> None:
    """Let a folder name code of its own, which leaves a mark when it is imported."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_type"] = "strange"
    config["auto_map"] = {
        "AutoConfig": "strange.StrangeConfig",
        "AutoModelForCausalLM": "strange.StrangeModel",
    }
    path.write_text(json.dumps(config))
    (folder / "strange.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(marker)!r}).write_text({MARKER!r})\n"
        "class StrangeConfig(LlamaConfig):\n    model_type = 'strange'\n"
        "class StrangeModel(LlamaForCausalLM):\n    config_class = StrangeConfig\n"
    )


def test_a_manifest_grants_no_trust(base: Path, adapter: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with_code(base, marker)
    rewrite_manifest(adapter, trust_remote_code=True)
    with pytest.raises(ConfigError, match="comes with code of its own.*trust_remote_code"):
        checkpoints.load_model(adapter)
    assert not marker.exists()
    checkpoints.load_model(adapter, Permissions(trust_remote_code=True))
    assert marker.read_text() == MARKER


def test_a_model_folder_with_code_is_refused_as_well(tmp_path: Path) -> None:
    folder = write_title_model(tmp_path / "model")
    with_code(folder, tmp_path / "marker")
    rewrite_manifest(folder, trust_remote_code=True)
    with pytest.raises(ConfigError, match="comes with code of its own"):
        checkpoints.load_model(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["gs://bucket/model", "someone/model"])
def test_a_base_that_only_a_manifest_names_is_not_fetched(name: str, adapter: Path) -> None:
    rewrite_manifest(adapter, backbone=name)
    with pytest.raises(ConfigError, match=f"was trained on {name}.*allow_base_from_manifest"):
        checkpoints.load_model(adapter)


def test_a_full_model_does_not_fetch_the_base_of_an_adapter(tmp_path: Path) -> None:
    folder = write_title_model(tmp_path / "model")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    rewrite_manifest(folder)
    with pytest.raises(DataError):
        checkpoints.load_model(folder)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "gptj", "bloom", "mpt", "codegen"])
def test_models_without_sdpa_have_their_own_attention(name: str, tmp_path: Path) -> None:
    folder = write_tiny_llm(tmp_path / "base")
    model = tiny_architecture(name, vocab_size=300)
    model.save_pretrained(str(folder))
    loaded, _ = load_base_model(BaseModelSpec(str(folder)))
    assert loaded.config._attn_implementation == "eager"
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
