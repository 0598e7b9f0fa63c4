"""A tokenizer without an end token, from SFT to HitRatio: a title that begins another."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dynamicpo.core.config import EvaluationConfig, SFTConfig
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.training.sft import fine_tune
from tests.fixtures.folders import write_preferences

TITLES = ["Alien", "Alien 3", "Brazil", "Clue", "Dune", "Eraser", "Fargo", "Gigi", "Hook"]
NUM_REJECTED = 4


def write_base(folder: Path) -> Path:
    """A small Llama that reads bytes, whose tokenizer has no special token at all."""
    names = sorted(ByteLevel.alphabet())
    inner = Tokenizer(BPE({name: index for index, name in enumerate(names)}, []))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert tokenizer.eos_token_id is None
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows(split: str) -> list[dict[str, Any]]:
    """A row for each title, which comes again after it has been watched."""
    item_ids = [str(index) for index in range(len(TITLES))]
    result = []
    for index, item in enumerate(item_ids):
        # Each of the two titles of which one begins the other is among the other's candidates.
        others = [other for other in (*item_ids[:2], *item_ids[index:], *item_ids) if other != item]
        rejected = list(dict.fromkeys(others))[:NUM_REJECTED]
        result.append(
            {
                "example_id": f"{split}{item}:1",
                "user_id": f"{split}{item}",
                "history": [item],
                "target": item,
                "timestamp": 1e9,
                "candidates": [*rejected[:2], item, *rejected[2:]],
                "rejected": rejected,
            }
        )
    return result


def test_titles_that_begin_others_are_ranked_and_generated_right(tmp_path: Path) -> None:
    """Without an end, 'Alien' is above 'Alien 3' (HitRatio@1 8/9), and answers never stop."""
    items = pd.DataFrame(
        {
            "item_id": [str(index) for index in range(len(TITLES))],
            "title": TITLES,
            "popularity": 1,
            "category": "film",
        }
    )
    splits = {split: rows(split) for split in ("train", "validation", "test")}
    protocol = {"num_candidates": 1 + NUM_REJECTED}
    preferences = write_preferences(tmp_path / "preferences", splits, items, protocol)
    template = tmp_path / "template.yaml"
    template.write_text("prompts: ['{history}: ']\nseparator: ''\n")
    config = SFTConfig(
        backbone=str(write_base(tmp_path / "base")),
        template=str(template),
        tuning="full",
        precision="float32",
        learning_rate=0.01,
        batch_size=9,
        max_steps=60,
    )
    fine_tune(preferences, tmp_path / "model", config)
    settings = EvaluationConfig(generate=True, sasrec=False, resamples=100, allow_leak=True)
    evaluated = evaluate(preferences, {"model": tmp_path / "model"}, tmp_path / "out", settings)
    counts = evaluated.counts
    table = pq.read_table(tmp_path / "out" / "model" / "ranks.parquet")
    assert counts["test_hit_ratio_at_1"] == 1
    assert counts["test_generated_hit_ratio_at_1"] == counts["test_valid_ratio"] == 1
    assert table["generated"].to_pylist() == TITLES
