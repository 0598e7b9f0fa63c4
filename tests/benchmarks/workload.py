"""Workload of the benchmarks: SmolLM2-135M with LoRA on q and v, and real rows.

The rows are LastFM's and MovieLens's, prompted as published.
"""

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from dynamicpo.core.config import DataConfig, NegativesConfig
from dynamicpo.core.records.rows import Row, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.models import backbones
from dynamicpo.models.backbones import BaseModelSpec
from dynamicpo.models.base_models import load_base_model
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.objective.dynamicpo import preference_losses
from dynamicpo.prompts.encoding import Prompts, PromptSettings
from dynamicpo.scoring.packing import packed_length
from tests.conftest import SHARED

LASTFM = SHARED / "data" / "lastfm"
MOST_NEGATIVES = 50
# History and candidates in one line each, joined by "::", as the published code writes them.
TEMPLATE = {
    "name": "published",
    "separator": "::",
    "prompts_with_candidates": [
        "This user has {verb} {{history}} in the past. "
        "Please predict the next {thing} this user will {act}. "
        "The {thing} candidates are {{candidates}}. "
        "Choose only one {thing} from the candidates. Answer:"
    ],
    "prompts": [
        "This user has {verb} {{history}} in the past. "
        "Please predict the next {thing} this user will {act}. Answer:"
    ],
}
WORDS = {
    "lastfm": {"verb": "listened to", "thing": "artist", "act": "listen to"},
    "movielens": {"verb": "watched", "thing": "movie", "act": "watch"},
}


def load() -> tuple[nn.Module, Any]:
    """The model in float32, ready for training, and its tokenizer."""
    model, tokenizer = load_base_model(BaseModelSpec(backbones.SMOLLM2))
    torch.manual_seed(0)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=32, target_modules=["q_proj", "v_proj"]
    )
    return get_peft_model(model, lora).train(), tokenizer


def data_sets() -> list[str]:
    """LastFM's rows lie beside the checkout, where they are to be had; MovieLens is installed."""
    return [*(["lastfm"] if LASTFM.is_dir() else []), "movielens"]


def load_rows(name: str, tokenizer: Any, *, list_candidates: bool = True) -> list[Row]:
    """Training rows in random order: the target, its 19 rejected candidates, other items."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if name == "lastfm":
            prepare_data(str(LASTFM), "", folder / "examples", DataConfig(source="published"))
        else:
            prepare_data("", "", folder / "examples", DataConfig(source="movielens"))
        strategy = "published" if name == "lastfm" else "uniform"
        config = NegativesConfig(
            strategy=strategy, allow_leak=name == "lastfm"
        )  # its published lists leak
        sample_negatives(folder / "examples", folder / "preferences", config)
        table, items = (
            read_rows(folder / "preferences", "train"),
            read_items(folder / "preferences"),
        )
    draw = random.Random(0)
    chosen = table.take(draw.sample(range(len(table)), min(400, len(table)))).to_pylist()
    prompts = Prompts(tokenizer, items, settings(name, list_candidates))
    return [_row(prompts, row, items, draw) for row in chosen]


def settings(name: str, list_candidates: bool) -> PromptSettings:
    texts = {
        key: [TEMPLATE[key][0].format(**WORDS[name])]
        for key in ("prompts", "prompts_with_candidates")
    }
    return PromptSettings("title", {**TEMPLATE, **texts}, list_candidates, 512)


def _row(prompts: Prompts, row: dict[str, Any], items: pd.DataFrame, draw: random.Random) -> Row:
    others = sorted(set(items["item_id"]) - set(row["candidates"]))
    more = draw.sample(others, MOST_NEGATIVES - len(row["rejected"]))
    answers = [row["target"], *row["rejected"], *more]
    return prompts.row(row["example_id"], row["history"], answers, row["candidates"])


def with_negatives(row: Row, num_negatives: int) -> Row:
    """The row with its first K negatives."""
    return Row(row.prompt_ids, row.answer_ids[: num_negatives + 1])


def typical(rows: list[Row], number: int) -> list[Row]:
    """The rows nearest to the median length, so that measures of different rows compare."""
    lengths = [packed_length(row) for row in rows]
    middle = sorted(lengths)[len(lengths) // 2]
    order = sorted(range(len(rows)), key=lambda index: (abs(lengths[index] - middle), index))
    return [rows[index] for index in order[:number]]


def shared_beginnings(rows: list[Row]) -> float:
    """The share of answer tokens that a token trie would save."""
    beginnings = [
        [tuple(ids[:end]) for ids in row.answer_ids for end in range(1, len(ids))] for row in rows
    ]
    return 1 - sum(len(set(tokens)) for tokens in beginnings) / sum(map(len, beginnings))


def step(model: nn.Module, score: Callable[[], Tensor]) -> None:
    """A step of DynamicPO's loss without a reference: a cached one costs nothing in a step."""
    model.zero_grad()
    logps = score()
    preference_losses(logps[:, 0], logps[:, 1:], loss="dmpo").losses.mean().backward()


def predicting(row: Row) -> int:
    """Positions from which a token is predicted: the prompt's end, and all packed answer tokens."""
    return 1 + packed_length(row) - len(row.prompt_ids)
