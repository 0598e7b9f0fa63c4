"""Rankings by scores of every item, block by block: those finished before a kill are taken."""

from collections.abc import Callable, Container, Iterable
from dataclasses import fields
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from dynamicpo.core.arrays import FloatArray
from dynamicpo.evaluation.baselines.simple import Scorer, score_blocks
from dynamicpo.evaluation.rankings import Ranking, concatenate_rankings
from dynamicpo.evaluation.rows import EvaluationData
from dynamicpo.scoring.shards import ScoredRows, Shards, concatenated

# Row numbers to scores of all rows but the blocks that begin with these, (n, I) each.
BlocksWithout: TypeAlias = Callable[[Container[int]], Iterable[FloatArray]]
# Of a model's or baseline's name, and of what it ranks, to what is kept of that.
ShardsOf: TypeAlias = Callable[[str, str], Shards | None]
_NAMES = [column.name for column in fields(Ranking)]


def nothing_kept(_name: str, _work: str) -> None:
    """Shards of an evaluation that keeps none."""


def rank_with_scorer(scorer: Scorer, data: EvaluationData, shards: Shards | None) -> Ranking:
    """Rank all rows with a baseline; `shards` as of `rank_blocks`."""
    num_items = len(data.items)
    blocks_without = partial(score_blocks, scorer, data.table, num_items)
    return rank_blocks(data, blocks_without, shards)


def rank_blocks(
    data: EvaluationData, blocks_without: BlocksWithout, shards: Shards | None = None
) -> Ranking:
    """Rank all rows.

    Args:
        data: The rows.
        blocks_without: Scores every item.
        shards: What an earlier attempt has ranked is taken from them, and new blocks are added.
    """
    if shards is None:
        score_blocks_of_all = blocks_without(())
        blocks = data.block_rankings(score_blocks_of_all)
        return concatenate_rankings([ranking for _, ranking in blocks])
    num_rows = len(data.table)
    none = _columns(_no_ranking(data))
    known = shards.finished(num_rows, none)
    numbers = set(known.numbers.tolist())
    score_blocks_left = blocks_without(numbers)
    parts = [known]
    for block, ranking in data.block_rankings(score_blocks_left, numbers):
        row_numbers = torch.arange(block.start, block.stop)
        columns = _columns(ranking)
        ranked = ScoredRows(row_numbers, columns)
        shards.add(ranked)
        parts.append(ranked)
    shards.finish()
    return _in_order(concatenated(parts))


def _in_order(rows: ScoredRows) -> Ranking:
    order = rows.numbers.argsort()
    columns = {}
    for name, column in rows.columns.items():
        ordered = column[order]
        columns[name] = ordered.numpy()
    return Ranking(**columns)


def _columns(ranking: Ranking) -> dict[str, Tensor]:
    columns = {}
    for name in _NAMES:
        array = getattr(ranking, name)
        dense = np.ascontiguousarray(array)
        columns[name] = torch.from_numpy(dense)
    return columns


def _no_ranking(data: EvaluationData) -> Ranking:
    """A ranking of no rows."""
    none = np.zeros(0, dtype=np.int64)
    # Of every item, the scores of two are kept.
    num_scores = 2 if data.codes is None else data.codes.shape[1]
    return Ranking(
        better=none,
        tied=none,
        best=none,
        num_candidates=none,
        scores=np.zeros((0, num_scores)),
        nan_scores=none,
    )
