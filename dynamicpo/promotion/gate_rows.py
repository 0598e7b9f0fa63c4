"""The rows of a gate, the results of each model on them, and the check that none knew them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dynamicpo.core.arrays import BoolArray, FloatArray
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import read_columns, read_items, read_rows
from dynamicpo.core.storage.addresses import join
from dynamicpo.core.storage.files import read_bytes
from dynamicpo.evaluation.result_files import BESIDE, read_result
from dynamicpo.evaluation.served import read_served, served_values
from dynamicpo.metrics.beyond_accuracy import beyond_accuracy, is_long_tail
from dynamicpo.metrics.ranking import KS, row_metrics

# Of every item, or of a generator's proposals, whatever the evaluation ranked beside its lists.
NDCG_BESIDE = {kind: f"{kind}_ndcg_at_10" for kind in BESIDE}
# Of a preference folder: what training learns from, and what it stops or chooses by.
_SEEN_SPLITS = ("train", "validation")
_ROWS_SCHEMA = pa.schema({name: pa.string() for name in ("example_id", "user_id", "target")})


class GateRows(NamedTuple):
    """The rows on which champion and challenger are compared.

    Attributes:
        example_ids: The rows. Shape (N,).
        users: The user of each row. Shape (N,).
        is_new_user: True for rows of users without a training row. Shape (N,).
        is_tail: True for rows whose next item is long tail. Shape (N,).
        since: Time of the first row, in epoch seconds.
        judged_before: Share of the rows that a version was published with, where there are any.
    """

    example_ids: Sequence[str]
    users: Sequence[str]
    is_new_user: BoolArray
    is_tail: BoolArray
    since: float
    judged_before: Mapping[str, float] = {}


class GateResult(NamedTuple):
    """The results of a model on the rows.

    Attributes:
        metrics: Each metric of each row; `served_ndcg_at_10`, and `catalogue_ndcg_at_10` or
            `proposed_ndcg_at_10`, where they were measured. Shapes (N,).
        valid: 1 where a generated answer named a candidate, else 0; None where none was generated.
        coverage: Share of the catalogue that it recommends.
        is_scored: False where it does not know the next item, and ranks it last. Shape (N,).
    """

    metrics: Mapping[str, FloatArray]
    valid: FloatArray | None
    coverage: float
    is_scored: BoolArray


def seen_until(preferences: Path) -> float:
    """The time of the last row that training on these rows may have looked at, in epoch seconds.

    Raises:
        DataError: The rows can't be read.
    """
    latest = [float("-inf")]
    for split in _SEEN_SPLITS:
        # A data set of two windows has no validation rows.
        if (preferences / split).is_dir():
            times = read_rows(preferences, split)["timestamp"]
            last = pc.max(times).as_py()
            # None of a split without rows.
            latest += [] if last is None else [last]
    return max(latest)


def read_gate_rows(evaluation: Path, preferences: Path, split: str) -> GateRows:
    """The rows of an evaluation.

    Args:
        evaluation: The evaluation's folder.
        preferences: The rows that were evaluated; the others of it were trained on.
        split: The split that was evaluated.

    Raises:
        DataError: They can't be read.
    """
    rows = read_columns(evaluation / "rows.parquet", _ROWS_SCHEMA)
    example_ids, users, targets = (rows[name].to_pylist() for name in _ROWS_SCHEMA.names)
    trained_rows = read_rows(preferences, "train")
    trained_users = set(trained_rows["user_id"].to_pylist())
    tail_items = _tail_items(evaluation)
    is_new_user = [user not in trained_users for user in users]
    is_tail = [item in tail_items for item in targets]
    return GateRows(
        example_ids=example_ids,
        users=users,
        is_new_user=np.array(is_new_user),
        is_tail=np.array(is_tail),
        since=_first_time(preferences, split, example_ids),
    )


def read_gate_result(evaluation: Path, name: str, split: str) -> GateResult:
    """The results of a model of an evaluation on its rows.

    Raises:
        DataError: It can't be read.
    """
    result = read_result(evaluation / name, split)
    fewest = int(result.num_candidates.min())
    cut_offs = [k for k in KS if k <= fewest]
    metrics = row_metrics(result.better, result.tied, fewest, cut_offs)
    served = read_served(evaluation / name, len(result.better))
    if served is not None:
        metrics |= served_values(served)
    for kind, metric in NDCG_BESIDE.items():
        folder = evaluation / name / kind
        if folder.is_dir():
            metrics[metric] = read_result(folder, split).row_values("ndcg_at_10")
    return GateResult(
        metrics=metrics,
        valid=_valid_answers(evaluation / name),
        coverage=_coverage(evaluation, result.best),
        is_scored=result.is_scored,
    )


def share_judged_before(rows: GateRows, version_uri: str) -> float:
    """Share of the rows that a version was published with.

    Raises:
        DataError: The version's rows can't be read.
    """
    uri = join(version_uri, "rows.parquet")
    content = pa.BufferReader(read_bytes(uri))
    try:
        known = {*pq.read_table(content)["example_id"].to_pylist()}
    except (pa.ArrowException, KeyError) as error:
        raise DataError(
            f"{uri}: must be a list of rows, but it can't be read ({error}). "
            "Publish the version again."
        ) from error
    num_known = sum(example_id in known for example_id in rows.example_ids)
    return num_known / len(rows.example_ids)


def check_unseen(rows: GateRows, seen: Mapping[str, float]) -> None:
    """Refuse rows that are not later than all that a model was trained or chosen on.

    Args:
        rows: The rows.
        seen: For each model the time of its last such row, in epoch seconds.

    Raises:
        DataError: A model may know the answers.
    """
    for name, time in seen.items():
        if rows.since <= time:
            raise DataError(
                f"gate: rows must be later than all that {name} was trained or chosen on, but they "
                f"begin at {rows.since:.0f} and that ended at {time:.0f} (epoch seconds). "
                "Prepare the data with split: dates, and cuts after that time."
            )


def _tail_items(evaluation: Path) -> set[str]:
    items = read_items(evaluation)
    popularity = items["popularity"].to_numpy()
    tail = items["item_id"][is_long_tail(popularity)]
    return set(tail)


def _first_time(preferences: Path, split: str, example_ids: Sequence[str]) -> float:
    table = read_rows(preferences, split)
    times = dict(zip(table["example_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
    missing = [example_id for example_id in example_ids if example_id not in times]
    if missing or not example_ids:
        raise DataError(
            f"gate: {preferences / split} must hold the rows of the evaluation, but "
            f"{len(missing)} of {len(example_ids)} are not there. Give the folder that was "
            "evaluated."
        )
    first: float = min(times[example_id] for example_id in example_ids)
    return first


def _valid_answers(result: Path) -> FloatArray | None:
    table = pq.read_table(result / "ranks.parquet", columns=["valid"])
    answers = table["valid"]
    return None if answers.null_count else answers.to_numpy().astype(float)


def _coverage(evaluation: Path, best: Sequence[str]) -> float:
    items = read_items(evaluation)
    popularity = items["popularity"].to_numpy()
    index = {item: number for number, item in enumerate(items["item_id"])}
    recommended = np.array([index[item] for item in best if item in index])
    figures = beyond_accuracy(recommended, popularity)
    return figures["catalogue_coverage"]
