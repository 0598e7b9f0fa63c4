"""Items as tokens of a pretrained model: their own rows are trained, in both matrices."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoTokenizer

from dynamicpo.models.backbones import BaseModelSpec
from dynamicpo.models.base_models import item_token_ids, load_base_model
from dynamicpo.models.checkpoints import save_model
from dynamicpo.models.lora import add_adapter, load_adapter
from tests.fixtures.architectures import tiny_architecture
from tests.fixtures.models import write_tiny_llm

ITEMS = ("a", "b", "c")


def train_to_name(model: nn.Module, token_ids: list[int]) -> float:
    """The loss of naming an item after some text, after 40 steps."""
    optimizer = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=0.05)
    inputs = torch.tensor([[5, 6, token_ids[0]]])
    for _ in range(40):
        loss = nn.functional.cross_entropy(
            model(inputs).logits[0, 1:2], torch.tensor([token_ids[0]])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_the_head_are_trained_too(tied: bool, tmp_path: Path) -> None:
    """With all else frozen, only they can make an item likely."""
    folder = write_tiny_llm(tmp_path / "base")
    tiny_architecture("llama", vocab_size=300, tie_word_embeddings=tied).save_pretrained(folder)
    base = BaseModelSpec(str(folder), items=ITEMS)
    model, tokenizer = load_base_model(base)
    token_ids = item_token_ids(tokenizer, base)
    before = model.get_output_embeddings().weight.detach().clone()
    adapted = add_adapter(model, 2, 4, 0.0, token_ids).eval()
    for name, weight in adapted.named_parameters():
        weight.requires_grad_(weight.requires_grad and "token" in name)
    assert train_to_name(adapted, token_ids) < 0.1 < math.log(300)
    merged = adapted.merge_and_unload()
    changed = (merged.get_output_embeddings().weight != before).any(dim=1).nonzero().flatten()
    assert set(changed.tolist()) <= set(token_ids) and token_ids[0] in changed.tolist()


def test_items_of_an_older_model_keep_their_rows(tmp_path: Path) -> None:
    """A base that has tokens for b and c: a is new, and c does not stand among the last three."""
    folder = write_tiny_llm(tmp_path / "base")
    older, tokenizer = load_base_model(BaseModelSpec(str(folder), items=("b", "c")))
    tokenizer.add_tokens(["later", "still later"])
    older.resize_token_embeddings(len(tokenizer))
    save_model(tmp_path / "older", older, tokenizer)
    base = BaseModelSpec(str(tmp_path / "older"), items=ITEMS)
    model, tokenizer = load_base_model(base)
    token_ids = item_token_ids(tokenizer, base)
    assert token_ids == [304, 300, 301]
    old_rows = older.get_input_embeddings().weight[[300, 301]]
    torch.testing.assert_close(model.get_input_embeddings().weight[[300, 301]], old_rows)
    adapted = add_adapter(model, 2, 4, 0.0, token_ids)
    rows = adapted.peft_config["default"].trainable_token_indices
    assert rows == {"model.embed_tokens": token_ids, "lm_head": token_ids}


def test_an_adapter_holds_the_rows_of_items_and_no_embeddings(tmp_path: Path) -> None:
    """Else it would depend on whether the hub can be asked for the base's vocabulary."""
    base = BaseModelSpec(str(write_tiny_llm(tmp_path / "base")), items=ITEMS)
    model, tokenizer = load_base_model(base)
    adapted = add_adapter(model, 2, 4, 0.0, item_token_ids(tokenizer, base))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "trainable_tokens" in name:
                weight.add_(1)
    save_model(tmp_path / "adapter", adapted, tokenizer)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert not [name for name in names if "base_layer" in name]
    again = load_adapter(load_base_model(base)[0], tmp_path / "adapter", trainable=False)
    inputs = torch.tensor([[5, *item_token_ids(tokenizer, base)]])
    torch.testing.assert_close(again(inputs).logits, adapted.eval()(inputs).logits)


def test_rows_beyond_the_tokenizer_are_kept(tmp_path: Path) -> None:
    """Many models have more rows than tokens: none is cut off, and none added while they last."""
    folder = write_tiny_llm(tmp_path / "base")
    num_tokens = len(AutoTokenizer.from_pretrained(folder))
    tiny_architecture("llama", vocab_size=num_tokens + 20).save_pretrained(folder)
    base = BaseModelSpec(str(folder), items=ITEMS)
    model, tokenizer = load_base_model(base)
    assert model.get_input_embeddings().num_embeddings == num_tokens + 20
    assert max(item_token_ids(tokenizer, base)) == num_tokens + 2
