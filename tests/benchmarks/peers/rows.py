"""MovieLens-100k as the project's own stages prepare it, for peers that know none of its files."""

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from dynamicpo.core.config import DataConfig, NegativesConfig
from dynamicpo.core.records.rows import Row, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.metrics.ranking import ranking_metrics, row_metrics, target_ranks
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.prompts.encoding import Prompts, PromptSettings
from dynamicpo.prompts.loader import load_template
from dynamicpo.training.preference_batches import encode_preference_row
from tests.fixtures.models import write_tiny_llm

# Large enough that products of matrices, not the start of a call, take most of a step.
SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
MAX_LENGTH = 512


def prepare(folder: Path) -> Path:
    """Preference rows with the settings of `make quickstart`."""
    examples = folder / "examples"
    preferences = folder / "preferences"
    prepare_data("", "", examples, DataConfig(source="movielens", k_core=1))
    sample_negatives(examples, preferences, NegativesConfig(strategy="popularity"))
    return preferences


def write_llama(folder: Path) -> Path:
    """A Llama of two layers with random weights that reads bytes."""
    write_tiny_llm(folder)
    tiny = LlamaConfig.from_pretrained(str(folder)).to_dict()
    head_size = SIZES["hidden_size"] // SIZES["num_attention_heads"]
    config = LlamaConfig(**{**tiny, **SIZES, "head_dim": head_size})
    set_seed(0)
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


def encoded_rows(preferences: Path, model: Path, number: int, num_negatives: int) -> list[Row]:
    """Training rows drawn at random, as the project gives them to a model that reads titles."""
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    template = load_template("movies")
    settings = PromptSettings("title", template, False, MAX_LENGTH)
    items = read_items(preferences)
    prompts = Prompts(tokenizer, items, settings)
    table = read_rows(preferences, "train")
    draw = random.Random(0)
    numbers = draw.sample(range(len(table)), number)
    rows = table.take(numbers).to_pylist()
    return [encode_preference_row(row, prompts, num_negatives) for row in rows]


class RankedRows(NamedTuple):
    """Rows of the test split as codes of items.

    Attributes:
        targets: Shape (N,).
        candidates: Shape (N, A).
        target_index: The target's column among the candidates. Shape (N,).
        may_rank: The items outside of each row's history. Shape (N, I).
    """

    targets: np.ndarray
    candidates: np.ndarray
    target_index: np.ndarray
    may_rank: np.ndarray


def ranked_rows(rows: pa.Table, items: pd.DataFrame) -> RankedRows:
    """Codes in the order of the items table."""
    codes = {item: code for code, item in enumerate(items["item_id"])}
    num_rows = len(rows)
    may_rank = np.ones((num_rows, len(items)), dtype=bool)
    targets = []
    candidates = []
    for number, row in enumerate(rows.to_pylist()):
        target = codes[row["target"]]
        seen = [codes[item] for item in row["history"]]
        may_rank[number, seen] = False
        may_rank[number, target] = True
        targets.append(target)
        candidates.append([codes[item] for item in row["candidates"]])
    target_codes = np.array(targets)
    candidate_codes = np.array(candidates)
    is_target = candidate_codes == target_codes[:, None]
    return RankedRows(target_codes, candidate_codes, is_target.argmax(1), may_rank)


def quality(scores: np.ndarray, rows: RankedRows) -> dict[str, float]:
    """HitRatio@1 and NDCG@5 in the lists, and NDCG@10 among all items not in the history."""
    listed_scores = np.take_along_axis(scores, rows.candidates, axis=1)
    listed = ranking_metrics(listed_scores, rows.target_index, ks=(1, 5))
    ranks = target_ranks(scores, rows.targets, rows.may_rank)
    everywhere = row_metrics(ranks.better, ranks.tied, scores.shape[1], ks=(10,))
    return {
        "hit_ratio_at_1": listed["hit_ratio_at_1"],
        "ndcg_at_5": listed["ndcg_at_5"],
        "catalogue_ndcg_at_10": float(everywhere["ndcg_at_10"].mean()),
    }
