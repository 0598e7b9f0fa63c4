"""Model folders: what is written does not depend on the process that writes it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import PreTrainedModel

from dynamicpo.models.checkpoints import save_model
from dynamicpo.models.lora import add_adapter, has_adapter
from dynamicpo.scoring.transformers_internals import forget_gguf_format
from tests.fixtures.models import write_tiny_llm


@pytest.fixture(scope="module")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llm(tmp_path_factory.mktemp("tiny"))


def load(folder: Path) -> PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder))


def test_a_tokenizer_is_saved_without_how_this_process_was_started(
    tiny_llm: Path, tmp_path: Path
) -> None:
    """transformers writes down whether HF_HUB_OFFLINE was set."""
    model = load(tiny_llm)
    for offline in (True, False):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(tiny_llm), local_files_only=offline
        )
        # Fails when transformers no longer does so, and our correction has nothing to correct.
        assert "local_files_only" in tokenizer.init_kwargs
        save_model(tmp_path / str(offline), model, tokenizer)
    one, other = (tmp_path / name / "tokenizer_config.json" for name in ("True", "False"))
    assert one.read_bytes() == other.read_bytes()


def test_a_model_read_from_gguf_can_be_saved(tiny_llm: Path, tmp_path: Path) -> None:
    model = load(tiny_llm)
    method = SimpleNamespace(quant_method="gguf")
    model.hf_quantizer = SimpleNamespace(quantization_config=method)
    # Fails when transformers no longer refuses, and our correction has nothing to correct.
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(str(tmp_path))
    forget_gguf_format(model)
    model.save_pretrained(str(tmp_path))
    assert (tmp_path / "model.safetensors").is_file()


def test_an_adapter_is_saved_with_sorted_lists_and_without_a_model_card(
    tiny_llm: Path, tmp_path: Path
) -> None:
    model = add_adapter(load(tiny_llm), rank=2, alpha=4, dropout=0.0)
    # Fails when PEFT keeps a list, whose order is the same in every process.
    assert isinstance(model.peft_config["default"].target_modules, set)
    save_model(tmp_path, model, transformers.AutoTokenizer.from_pretrained(str(tiny_llm)))
    modules = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert modules == sorted(modules) and len(modules) == 14  # 7 linear layers in each of 2 blocks
    assert not (tmp_path / "README.md").exists()


def test_an_adapter_trains_new_tokens_themselves_and_the_other_embeddings_not_at_all(
    tiny_llm: Path,
) -> None:
    model = add_adapter(load(tiny_llm), rank=2, alpha=4, dropout=0.0, item_token_ids=[7, 9, 12])
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    rows = [weight for name, weight in trainable.items() if "token" in name]
    # Of the embeddings and of the head, which is a matrix of its own.
    assert [weight.shape for weight in rows] == [(3, model.config.hidden_size)] * 2
    assert has_adapter(model) and not has_adapter(load(tiny_llm))


def test_the_same_seed_gives_the_same_adapter(tiny_llm: Path) -> None:
    first, second = (add_adapter(load(tiny_llm), 2, 4, 0.0, seed=5) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
