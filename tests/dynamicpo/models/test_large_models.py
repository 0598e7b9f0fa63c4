"""What makes large models fit: adapters on chosen layers, quantized weights, checkpointing."""

from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.errors import ConfigError
from dynamicpo.models import backbones
from dynamicpo.models.checkpoints import load_model
from dynamicpo.models.lora import add_adapter
from dynamicpo.training.preference_training import train_preferences
from dynamicpo.training.sft import fine_tune
from tests.fixtures.folders import write_preferences
from tests.fixtures.models import write_tiny_llm
from tests.fixtures.scoring import tiny_model

SETTINGS = {"max_steps": 3, "batch_size": 6, "precision": "float32", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama as wide as a block of 64 quantized weights."""
    small = write_tiny_llm(tmp_path_factory.mktemp("small"))
    config = AutoConfig.from_pretrained(small, hidden_size=64, intermediate_size=128, head_dim=16)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("backbone")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(small).save_pretrained(folder)
    return folder


def adapted(modules: str, name: str = "llama") -> set[str]:
    """Ends of the names of the layers that have an adapter."""
    model = add_adapter(tiny_model(name), rank=2, alpha=4, dropout=0.0, modules=modules)
    return {
        layer.rpartition(".")[2]
        for layer, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def test_adapters_are_on_the_layers_that_were_chosen() -> None:
    assert adapted("q_proj, v_proj") == {"q_proj", "v_proj"}
    assert adapted("mlp.down_proj") == {"down_proj"}
    assert adapted("c_attn", "gpt2") == {"c_attn"}
    assert {"q_proj", "o_proj", "gate_proj"} < adapted("all-linear")


@pytest.mark.parametrize("name", ["query", "", "q_proj,,v_proj", "lm_head", "embed_tokens"])
def test_layers_that_are_not_there_are_named_with_those_that_are(name: str) -> None:
    with pytest.raises(ConfigError, match="lora_modules: must name linear layers.*q_proj"):
        adapted(name)


@pytest.mark.parametrize(("quantization", "layer"), [("4bit", "Linear4bit"), ("8bit", "8bit")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_of_quantized_weights_train_and_come_back(
    quantization: str, layer: str, checkpointing: bool, backbone: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="an extra: pip install dynamicpo[gpu]")
    preferences = write_preferences(tmp_path / "preferences")
    settings = {**SETTINGS, "gradient_checkpointing": checkpointing}
    sft = SFTConfig(
        backbone=str(backbone), quantization=quantization, lora_modules="q_proj,v_proj", **settings
    )
    counts = fine_tune(preferences, tmp_path / "sft", sft).counts
    settings = {"gradient_checkpointing": checkpointing, "batch_size": 6, "learning_rate": 0.01}
    config = PreferenceConfig(num_negatives=3, max_steps=2, **settings)
    train_preferences(preferences, tmp_path / "sft", tmp_path / "trained", config)
    loaded = load_model(tmp_path / "trained")
    kinds = {type(module).__name__ for module in loaded.model.modules()}
    assert any(layer in kind for kind in kinds), kinds
    assert counts["trainable_parameters"] < 0.2 * counts["parameters"]
    assert loaded.base.quantization == quantization
    # The adapter has learnt: B starts at 0.
    trained = [w for name, w in loaded.model.named_parameters() if "lora_B" in name]
    assert trained and all(bool(weight.abs().max() > 0) for weight in trained)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_missing_package_of_quantization_is_one_line(
    quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones, "_is_installed", lambda name: name != "bitsandbytes")
    with pytest.raises(ConfigError, match=f"quantization: {quantization} needs bitsandbytes") as e:
        backbones.check_backbone("anyone/any-model", quantization)
    assert "Install the extra 'gpu'" in str(e.value) and "\n" not in str(e.value)
