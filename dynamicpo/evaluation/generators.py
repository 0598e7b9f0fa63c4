"""Candidate generators on disk: what proposes the items that a model ranks when it serves.

An evaluation trains them, as its baselines, and keeps them in `generators/`; a published version
holds that folder with the items whose codes they use.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.choices import NO_GENERATOR, ServedGenerator
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.rows import read_columns, read_items, write_columns
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.core.records.version_folders import CARD, GENERATORS_FOLDER
from dynamicpo.evaluation.baselines.sasrec import SASRecScorer
from dynamicpo.evaluation.baselines.sasrec_model import SASRec
from dynamicpo.evaluation.baselines.simple import CooccurrenceScorer, Scorer
from dynamicpo.models.execution import device
from dynamicpo.negatives.catalogue import item_id_array
from dynamicpo.negatives.cooccurrence import ItemPairs

TRAINED_GENERATORS = ("cooccurrence", "sasrec")
_SASREC_FILE = "sasrec.safetensors"
_PAIRS_FILE = "cooccurrence.parquet"
_PAIRS_SCHEMA = pa.schema({name: pa.int64() for name in ("item", "neighbour", "count")})


class VersionGenerator(NamedTuple):
    """Generator of the items that a model ranks.

    Attributes:
        kind: Its name, or that the whole catalogue is ranked.
        num_proposals: The items that it proposes to the model.
        version: The published version that holds it; None of an evaluation's own.
    """

    kind: str
    num_proposals: int
    version: Path | None = None


class _CardEntries(TypedDict, total=False):
    generator: ServedGenerator
    proposals: int


def write_generators(folder: Path, scorers: Mapping[str, Scorer]) -> None:
    """Write the trained baselines that can propose items into a folder of an evaluation."""
    target = folder / GENERATORS_FOLDER
    target.mkdir()
    for scorer in scorers.values():
        if isinstance(scorer, SASRecScorer):
            state = scorer.model.state_dict()
            tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
            save_file(tensors, target / _SASREC_FILE)
        elif isinstance(scorer, CooccurrenceScorer):
            write_columns(target / _PAIRS_FILE, _PAIRS_SCHEMA, scorer.pairs)


def read_version_generator(version: Path) -> VersionGenerator | None:
    """The generator that a version's card names; None where it names none, as older cards.

    Raises:
        DataError: The card can't be read.
    """
    path = version / CARD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: must be the card of a version, but it can't be read ({error}). "
            "Publish the version again."
        ) from error
    entries = as_shape(path, content, _CardEntries)
    kind = entries.get("generator", NO_GENERATOR)
    if kind == NO_GENERATOR:
        return None
    return VersionGenerator(kind, entries["proposals"], version)


def read_generator(folder: Path, kind: str, items: pd.DataFrame) -> Scorer:
    """A trained generator of an evaluation or a version, for rows of any catalogue.

    Args:
        folder: The evaluation, or the copy of a version.
        kind: "sasrec" or "cooccurrence".
        items: The items to score; those that the generator does not know are never proposed.

    Raises:
        DataError: It is missing or damaged.
    """
    known = read_items(folder)
    if kind == "sasrec":
        scorer: Scorer = _read_sasrec(folder / GENERATORS_FOLDER / _SASREC_FILE, known)
    else:
        scorer = _read_pairs(folder / GENERATORS_FOLDER / _PAIRS_FILE, known)
    if known["item_id"].tolist() == items["item_id"].tolist():
        return scorer
    return OtherItemsScorer(scorer, known["item_id"], items["item_id"])


class OtherItemsScorer:
    """Scores the items of one catalogue by a scorer of another, older one.

    Args:
        scorer: Of the older catalogue.
        known: Its items, in the order of their codes.
        items: Those to score.
    """

    def __init__(self, scorer: Scorer, known: "pd.Series[str]", items: "pd.Series[str]") -> None:
        """Find the items of both.

        Raises:
            DataError: There are none.
        """
        self._scorer = scorer
        self._known = {*known}
        self._num_items = len(items)
        codes = {item: code for code, item in enumerate(items)}
        both = [(code, codes[item]) for code, item in enumerate(known) if item in codes]
        if not both:
            raise DataError(
                "evaluation: a version must know some items of the rows, but its catalogue has "
                "none of them. Evaluate it on rows of its own catalogue, grown since."
            )
        self._pairs = np.array(both, dtype=np.int64)

    def __call__(self, rows: pa.Table) -> FloatArray:
        """Score all items for rows with a `history`: -inf for those unknown. Shape (N, I)."""
        known = []
        for history in rows["history"].to_pylist():
            known.append([item for item in history if item in self._known])
        histories = pa.array(known, pa.list_(pa.string()))
        known_rows = pa.table({"history": histories})
        known_scores = self._scorer(known_rows)
        num_rows = len(rows)
        scores = np.full((num_rows, self._num_items), -np.inf)
        old_codes, codes = self._pairs.T
        scores[:, codes] = known_scores[:, old_codes]
        return scores


def _read_sasrec(path: Path, items: pd.DataFrame) -> SASRecScorer:
    try:
        tensors = load_file(path)
        num_items, _ = tensors["items.weight"].shape
        max_length, _ = tensors["positions.weight"].shape
        if num_items != len(items):
            raise ValueError(f"it has {num_items} items, items.parquet {len(items)}")
        model = SASRec(num_items, max_length)
        model.load_state_dict(tensors)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _damaged(path, error) from error
    return SASRecScorer(model.to(device()), item_id_array(items))


def _read_pairs(path: Path, items: pd.DataFrame) -> CooccurrenceScorer:
    table = read_columns(path, _PAIRS_SCHEMA)
    columns = [table[name].to_numpy() for name in _PAIRS_SCHEMA.names]
    pairs = ItemPairs(*columns)
    num_items = len(items)
    codes = np.concatenate([pairs.items, pairs.neighbours])
    is_code = (codes >= 0) & (codes < num_items)
    is_sorted = np.diff(pairs.items) >= 0
    is_counted = pairs.counts >= 1
    if not (is_code.all() and is_sorted.all() and is_counted.all()):
        raise _damaged(path, ValueError("its pairs are none of items.parquet"))
    return CooccurrenceScorer(item_id_array(items), pairs)


def _damaged(path: Path, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:300]
    return DataError(
        f"{path}: must be a candidate generator as an evaluation keeps it, but {reason}. "
        "Evaluate again, or publish the version again."
    )
