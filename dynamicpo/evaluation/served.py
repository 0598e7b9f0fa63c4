"""Lists as models would serve them: a generator's proposals, ranked by the model."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dynamicpo.core import random_keys
from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import fingerprint
from dynamicpo.core.records.rows import read_columns, write_columns
from dynamicpo.core.row_numbers import numbered_blocks
from dynamicpo.evaluation.baselines.simple import Scorer, score_blocks
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.evaluation.results import EvaluatedRows
from dynamicpo.evaluation.rows import PROPOSED, EvaluationData, EvaluationProtocol
from dynamicpo.metrics.ranking import row_metrics

SERVED_METRIC = "served_ndcg_at_10"
SERVED_RECALL = "served_recall"
_FILE = "served.parquet"  # in a model's folder
_CUT_OFF = 10
_SCHEMA = pa.schema(
    {
        "example_id": pa.string(),
        "is_listed": pa.bool_(),
        "better": pa.int64(),
        "tied": pa.int64(),
    }
)


class ServedRanks(NamedTuple):
    """The place of each row's next item on the list that is served.

    Attributes:
        is_listed: False where the generator does not propose it. Shape (N,).
        better: Items of the list with a higher score; all where it is not there. Shape (N,).
        tied: Other items with the same score. Shape (N,).
    """

    is_listed: BoolArray
    better: IntArray
    tied: IntArray


def served_values(ranks: ServedRanks) -> dict[str, FloatArray]:
    """NDCG@10 of the served list, and whether the next item was proposed, of each row."""
    values = row_metrics(ranks.better, ranks.tied, num_candidates=_CUT_OFF, ks=[_CUT_OFF])
    gains = values["ndcg_at_10"]
    # What is not proposed is not served, however well the model would have ranked it.
    is_listed = ranks.is_listed.astype(np.float64)
    served_gains = gains * is_listed
    return {SERVED_METRIC: served_gains, SERVED_RECALL: is_listed}


def propose(
    scorer: Scorer, data: EvaluationData, num_proposals: int, generator: str
) -> EvaluationData:
    """The rows with the generator's first items as their candidates; the next item may be missing.

    Args:
        scorer: The generator.
        data: Rows that rank every item; what they exclude is not proposed.
        num_proposals: Items of a list, where there are as many.
        generator: The generator's name.
    """
    blocks = [*_best_codes(scorer, data, num_proposals)]
    # Lists are scored together, and must be of one length.
    lengths = [codes.shape[1] for codes in blocks]
    length = min(lengths)
    best = np.concatenate([codes[:, :length] for codes in blocks])
    codes = _in_random_order(best, data.rows)
    item_ids = data.items["item_id"].to_numpy(object)
    lists = item_ids[codes].tolist()
    proposed = pa.array(lists, pa.list_(pa.string()))
    table = data.table.append_column("candidates", proposed)
    rows = replace(data.rows, target_index=_target_places(codes, data.rows.target_index))
    return EvaluationData(
        table=table,
        rows=rows,
        items=data.items,
        kind=PROPOSED,
        codes=codes,
        excluded=None,
        protocol=_protocol(data.protocol, codes, generator),
    )


def _in_random_order(codes: IntArray, rows: EvaluatedRows) -> IntArray:
    """The same lists in random order: of equals the generator's first is no better. (N, A)."""
    keys = random_keys.keys(0, f"proposals/{rows.split}", rows.example_ids)
    columns = np.arange(codes.shape[1], dtype=np.uint64)
    draws = random_keys.bits(keys[:, None], columns)
    order = draws.argsort(axis=1, kind="stable")
    by_code = np.sort(codes, axis=1)
    return np.take_along_axis(by_code, order, axis=1)


def _protocol(of_all: EvaluationProtocol, codes: IntArray, generator: str) -> EvaluationProtocol:
    """The protocol of lists from that of ranking every item: figures of both differ in meaning."""
    _, length = codes.shape
    protocol = of_all.copy()
    protocol["candidates"] = f"first {length} of {generator}"
    protocol["num_candidates"] = length
    # A list is the same in any order.
    in_order = np.sort(codes, axis=1)
    lists = hashlib.sha256(in_order.tobytes()).hexdigest()
    protocol["rows"] = fingerprint([of_all["rows"], lists])
    return protocol


def _target_places(codes: IntArray, targets: IntArray) -> IntArray:
    """The column of each row's target among its codes; -1 where it is not there. Shape (N,)."""
    is_target = codes == targets[:, None]
    is_listed = is_target.any(axis=1)
    places = is_target.argmax(axis=1)
    return np.where(is_listed, places, -1)


def _best_codes(scorer: Scorer, data: EvaluationData, num_proposals: int) -> Iterator[IntArray]:
    """Codes of the best items of blocks of rows, the best first; popular ones first of equals."""
    popularity = data.items["popularity"].to_numpy()
    by_popularity = np.argsort(-popularity, kind="stable")
    excluded = data.excluded
    assert excluded is not None  # of rows that rank every item
    blocks = score_blocks(scorer, data.table, len(data.items))
    for rows, scores in numbered_blocks(blocks):
        targets = data.rows.target_index[rows]
        is_candidate = excluded.candidate_mask(rows, targets)
        best = _best_places(scores, is_candidate, by_popularity)
        yield best[:, :num_proposals]


def _best_places(scores: FloatArray, is_candidate: BoolArray, by_popularity: IntArray) -> IntArray:
    """Codes of the candidates by score, as many as every row has. Shape (n, A)."""
    has_score = ~np.isnan(scores)
    is_usable = is_candidate & has_score
    costs = np.where(is_usable, -scores, np.inf)
    # A stable sort leaves equals in this order.
    ordered_costs = costs[:, by_popularity]
    order = np.argsort(ordered_costs, axis=1, kind="stable")
    is_finite = costs < np.inf
    fewest = int(is_finite.sum(axis=1).min())
    best = order[:, :fewest]
    return by_popularity[best]


def served_ranks(ranking: Ranking, data: EvaluationData) -> ServedRanks:
    """The places of the next items among what is served.

    Args:
        ranking: Of a generator's proposals, or of every item.
        data: The rows that rank them.
    """
    return ServedRanks(data.rows.is_ranked, ranking.better, ranking.tied)


def write_served(folder: Path, rows: EvaluatedRows, ranks: ServedRanks) -> None:
    """Write the file of a model's folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_columns(folder / _FILE, _SCHEMA, [rows.example_ids, *ranks])


def read_served(folder: Path, num_rows: int) -> ServedRanks | None:
    """Read the file of a model's folder; None where it was not measured.

    Raises:
        DataError: It can't be read, or is of other rows.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    table = read_columns(path, _SCHEMA)
    better = table["better"].to_numpy()
    tied = table["tied"].to_numpy()
    if len(table) != num_rows or (better < 0).any() or (tied < 0).any():
        raise DataError(
            f"{path}: must hold the place of the next item of {num_rows} rows, but it does not. "
            "Evaluate again."
        )
    return ServedRanks(table["is_listed"].to_numpy(), better, tied)
