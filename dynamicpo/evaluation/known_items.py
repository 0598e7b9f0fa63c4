"""Rows as a model reads them that knows some of their items alone: an older one, of new rows.

What it does not know it ranks last; a row without a known item in its history tells it nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dynamicpo.core.arrays import BoolArray, FloatArray, IntArray
from dynamicpo.core.errors import DataError
from dynamicpo.evaluation.rows import EvaluationData
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.prompts.plain_text import TokenIds


class KnownRow(NamedTuple):
    """A row in items that the model knows.

    Attributes:
        example_id: The row.
        history: Its known items.
        answers: Its candidates, with some known one in the place of each unknown one.
        listed: Its known candidates.
    """

    example_id: str
    history: Sequence[str]
    answers: Sequence[str]
    listed: Sequence[str]


@dataclass(frozen=True)
class KnownRows:
    """Rows that list candidates, for a model that may not know all.

    Attributes:
        rows: Those that it can score.
        numbers: Their numbers among all rows. Shape (n,).
        is_known: The candidates that it can score. Shape (N, A).
    """

    rows: Sequence[KnownRow]
    numbers: IntArray
    is_known: BoolArray

    def all_scores(self, scores: FloatArray | None) -> FloatArray:
        """Scores of all rows, (N, A), from those of the known ones, (n, A); None of no row."""
        shape = self.is_known.shape
        everywhere = np.full(shape, -np.inf)
        if scores is not None:
            everywhere[self.numbers] = scores
        everywhere[~self.is_known] = -np.inf
        return everywhere

    def all_texts(self, texts: Sequence[str]) -> list[str]:
        """Answers to all rows, from those to the known ones; the others are empty."""
        num_rows = len(self.is_known)
        everywhere = [""] * num_rows
        numbers = self.numbers.tolist()
        for number, text in zip(numbers, texts, strict=True):
            everywhere[number] = text
        return everywhere


def known_rows(data: EvaluationData, prompts: Prompts | None) -> KnownRows:
    """The rows with candidates as a model reads them.

    Args:
        data: The rows.
        prompts: Of a model that may not know all items; None: all are taken for known.

    Raises:
        DataError: The model knows no item of any row.
    """
    known = _known_items(data, prompts)
    histories = data.table["history"].to_pylist()
    lists = data.table["candidates"].to_pylist()
    rows = []
    numbers = []
    is_known = []
    for number, example_id in enumerate(data.rows.example_ids):
        listed = lists[number]
        row = _known_row(example_id, histories[number], listed, known, prompts)
        is_scored = row is not None
        is_known.append([is_scored and item in known for item in listed])
        if row is not None:
            rows.append(row)
            numbers.append(number)
    return KnownRows(rows, np.array(numbers, dtype=np.int64), np.array(is_known))


@dataclass(frozen=True)
class KnownCatalogue:
    """The items of a catalogue that a model knows.

    Attributes:
        item_ids: Their ids.
        codes: Their codes in the catalogue. Shape (A,).
        num_items: Items of the catalogue.
        targets: For each row the place of its target among them; None where it is not.
        histories: The known items of each row's history.
        is_readable: False for rows whose history holds unknown items alone. Shape (N,).
    """

    item_ids: Sequence[str]
    codes: IntArray
    num_items: int
    targets: Sequence[int | None]
    histories: Sequence[Sequence[str]]
    is_readable: BoolArray

    def prompts(self, data: EvaluationData, prompts: Prompts, longest: int) -> list[TokenIds]:
        """A prompt for each row; any for those that can't be read, whose scores are not used."""
        anything = prompts.without_history(self.item_ids[:1]).prompt_ids
        rows = zip(data.rows.example_ids, self.histories, self.is_readable, strict=True)
        prompt_ids = []
        for example_id, history, is_readable in rows:
            if is_readable:
                prompt_ids.append(prompts.prompt(example_id, history, longest))
            else:
                prompt_ids.append([*anything])
        return prompt_ids

    def all_scores(self, scores: FloatArray, rows: slice) -> FloatArray:
        """Scores of every item, (n, I), from those of the known ones, (n, A)."""
        if len(self.item_ids) == self.num_items:
            return scores
        num_rows = len(scores)
        everywhere = np.full((num_rows, self.num_items), -np.inf)
        everywhere[:, self.codes] = scores
        is_unreadable = ~self.is_readable[rows]
        everywhere[is_unreadable] = -np.inf
        return everywhere


def known_catalogue(data: EvaluationData, prompts: Prompts | None) -> KnownCatalogue:
    """The catalogue of some rows as a model knows it; arguments and errors as of `known_rows`."""
    known = _known_items(data, prompts)
    all_ids = data.items["item_id"].tolist()
    codes = [code for code, item in enumerate(all_ids) if item in known]
    places: dict[int, int] = {code: place for place, code in enumerate(codes)}
    targets = data.rows.target_index.tolist()
    histories = []
    is_readable = []
    for history in data.table["history"].to_pylist():
        # To a model that must know all an unknown one is an error, where it is encoded.
        if prompts is not None:
            history = [item for item in history if item in known] or history
        histories.append(history)
        is_readable.append(not history or history[0] in known or prompts is None)
    known_ids = [all_ids[code] for code in codes]
    target_places = [places.get(target) for target in targets]
    return KnownCatalogue(
        item_ids=known_ids,
        codes=np.array(codes, dtype=np.int64),
        num_items=len(all_ids),
        targets=target_places,
        histories=histories,
        is_readable=np.array(is_readable),
    )


class EncodedCatalogue(NamedTuple):
    """The catalogue of some rows in a model's tokens.

    Attributes:
        known: The items that the model knows.
        answers: Token ids of each.
        prompt_ids: Those of each row's prompt, which has room for all answers behind it.
    """

    known: KnownCatalogue
    answers: Sequence[TokenIds]
    prompt_ids: Sequence[TokenIds]


def encode_catalogue(
    data: EvaluationData, prompts: Prompts, *, is_version: bool
) -> EncodedCatalogue:
    """Encode the catalogue of some rows, and their prompts.

    Args:
        data: The rows.
        prompts: Of the model.
        is_version: It may not know all items.

    Raises:
        DataError: It knows none.
    """
    known = known_catalogue(data, prompts if is_version else None)
    answers = prompts.answers(known.item_ids)
    longest = max(len(answer) for answer in answers)
    # All answers must fit behind one prompt, so that their scores can be compared.
    prompt_ids = known.prompts(data, prompts, longest)
    return EncodedCatalogue(known, answers, prompt_ids)


def _known_row(
    example_id: str,
    history: Sequence[str],
    listed: Sequence[str],
    known: frozenset[str],
    prompts: Prompts | None,
) -> KnownRow | None:
    """The row in known items; None where too little is known to score anything."""
    if prompts is None:
        return KnownRow(example_id, history, listed, listed)
    known_history = [item for item in history if item in known]
    known_listed = [item for item in listed if item in known]
    is_unreadable = bool(history) and not known_history
    if is_unreadable or not known_listed:
        return None
    # Rows must have equally many answers: some known item in the place of an unknown one.
    stand_in = known_listed[0]
    answers = [item if item in known else stand_in for item in listed]
    return KnownRow(example_id, known_history, answers, known_listed)


def _known_items(data: EvaluationData, prompts: Prompts | None) -> frozenset[str]:
    items = frozenset(data.items["item_id"])
    if prompts is None:
        return items
    known = items & prompts.item_ids
    if not known:
        raise DataError(
            "evaluation: a version must know some items of the rows, but it knows none of their "
            "catalogue. Evaluate it on rows of its own catalogue, grown since."
        )
    return frozenset(known)
