"""Damaged tokenizers and settings of backbones: found when a model is loaded, not in a training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from transformers import LlamaForCausalLM

from dynamicpo.core.errors import ConfigError, DataError, DynamicPOError
from dynamicpo.models.backbones import COMPACT, BaseModelSpec
from dynamicpo.models.base_models import load_base_model
from dynamicpo.models.causality import check_causal
from dynamicpo.models.checkpoints import load_model
from dynamicpo.models.lora import add_adapter
from tests.fixtures.folders import rewrite_checksums, write_title_model
from tests.fixtures.models import write_tiny_llm


def change(path: Path, act: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    act(content)
    path.write_text(json.dumps(content))


def of_vocabulary(content: Any) -> None:
    content["model"]["vocab"]["\u00a8"] = 2**31


DAMAGES: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "number of a token": ("tokenizer.json", of_vocabulary, "'\u00a8' is number 2147483648"),
    "token with a role": (
        "tokenizer_config.json",
        lambda content: content.update(bos_token="<other>"),
        "'<other>' is number 300",
    ),
    "panic of Rust": (
        "tokenizer.json",
        lambda content: content["model"].update(continuing_subword_prefix="9" * 5000),
        "out of range",
    ),
    "length": (
        "tokenizer_config.json",
        lambda content: content.update(model_max_length=[None]),
        "not supported between instances",
    ),
    "text that cannot be saved": (
        "tokenizer_config.json",
        lambda content: content.update(backend="\ud800"),
        "surrogates not allowed",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tokenizer_is_refused_with_its_base(tmp_path: Path, damage: str) -> None:
    base = write_tiny_llm(tmp_path / "base")
    file, act, message = DAMAGES[damage]
    change(base / file, act)
    with pytest.raises(DynamicPOError, match=message):
        load_base_model(BaseModelSpec(str(base)))


def test_token_without_a_row_is_refused_in_a_model_of_ours(tmp_path: Path) -> None:
    model = write_title_model(tmp_path / "model")
    change(model / "tokenizer.json", of_vocabulary)
    rewrite_checksums(model)
    with pytest.raises(DataError, match=r"has .* rows .* is number 2147483648"):
        load_model(model)


def test_special_token_without_a_role_needs_no_row(tmp_path: Path) -> None:
    """Models of text that keep the tokenizer of a sibling for images: Gemma 3 of 1B is one."""
    base = write_tiny_llm(tmp_path / "base")
    image = {"id": 300, "content": "<image>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = {**image, **flags}
    change(base / "tokenizer.json", lambda content: content["added_tokens"].append(added))
    _, tokenizer = load_base_model(BaseModelSpec(str(base)))
    assert tokenizer.convert_tokens_to_ids("<image>") == 300


def test_model_of_one_item_is_looked_at(tmp_path: Path) -> None:
    """It has three tokens, fewer than the check asked for."""
    model, _ = load_base_model(BaseModelSpec(COMPACT, items=("a",)))
    check_causal(model, COMPACT)


def test_rank_above_that_of_every_matrix_is_refused(tmp_path: Path) -> None:
    model, _ = load_base_model(BaseModelSpec(str(write_tiny_llm(tmp_path / "base"))))
    with pytest.raises(ConfigError, match="lora_rank: must be <= 32, .* got 33"):
        add_adapter(model, rank=33, alpha=32, dropout=0.0)
    assert add_adapter(model, rank=32, alpha=32, dropout=0.0)


@pytest.mark.parametrize(
    "act",
    [
        lambda config: config.pop("hidden_size"),
        lambda config: config.update(num_hidden_layers=2**31),
        lambda config: config.update(vocab_size=2**40),
    ],
)
def test_configuration_of_a_far_larger_model_is_refused_before_it_is_made(
    tmp_path: Path, act: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took gigabytes, and layers without end."""
    base = write_tiny_llm(tmp_path / "base")
    change(base / "config.json", act)
    making = Mock(side_effect=AssertionError("it was made"))
    monkeypatch.setattr(LlamaForCausalLM, "__init__", making)
    with pytest.raises(DataError, match="of a far larger model"):
        load_base_model(BaseModelSpec(str(base)))
