"""Rows to sequences that hold each prompt once.

A row becomes: prompt, then the tokens of every answer but its last one (nothing is predicted from that one). Each
answer starts at the position where the prompt ends, sees the prompt and itself. The first token of every answer is
predicted from the prompt's last position, so an answer of one token adds nothing to the sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamicpo.core.errors import DataError, ShapeError
from dynamicpo.core.records.rows import Row

PROMPT = 0


@dataclass(frozen=True)
class Packed:
    """Sequences of token ids, and where their answers' tokens are predicted.

    Attributes:
        token_ids: Shape (S, T): all rows one after the other (S = 1), or a padded sequence for each.
        position_ids: Positions, which restart at each answer and row. Shape (S, T).
        segments: 0 in a prompt, n in a row's n-th answer. Shape (S, T).
        owners: Which row a token belongs to; -1 in padding. Shape (S, T).
        predicting: Flat places (sequence * T + token) from which a token is predicted, each once. Shape (P,).
        source: For every answer token, its place in `predicting`. Shape (N,).
        targets: For every answer token, its id. Shape (N,).
        answers: For every answer token, its answer (row * A + answer). Shape (N,).
        spans: Of each row: where its prompt starts, where its answers start, where it ends.
        borders: Of each row: where each of its answers starts.
        shape: Rows and answers, (B, A).
    """

    token_ids: Tensor
    position_ids: Tensor
    segments: Tensor
    owners: Tensor
    predicting: Tensor
    source: Tensor
    targets: Tensor
    answers: Tensor
    spans: list[tuple[int, int, int]]
    borders: list[list[int]]
    shape: tuple[int, int]

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")
        }
        return replace(self, **moved)


def packed_length(row: Row) -> int:
    """Tokens that a row takes when its prompt is shared."""
    return len(row.prompt_ids) + sum(map(len, row.answer_ids)) - len(row.answer_ids)


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows that can't be scored together.

    Raises:
        DataError: An empty prompt or an empty answer.
        ShapeError: No rows, or unequal numbers of answers.
    """
    if not rows:
        raise ShapeError("rows: need at least one, got none. Give rows to score.")
    number = len(rows[0].answer_ids)
    for place, row in enumerate(rows):
        if len(row.answer_ids) != number or number == 0:
            raise ShapeError(
                f"rows[{place}]: must have {number or 'some'} answers, as the first row, got {len(row.answer_ids)}. "
                "Score rows with other numbers of answers in calls of their own."
            )
        if not len(row.prompt_ids):
            raise DataError(
                f"rows[{place}]: the prompt must have a token, got none. Start it with one."
            )
        if not all(map(len, row.answer_ids)):
            raise DataError(
                f"rows[{place}]: every answer must have a token, got an empty one. Leave it out."
            )


def pack(rows: Sequence[Row], *, padded: bool) -> Packed:
    """Lay rows out.

    Args:
        rows: Rows with equally many answers.
        padded: A sequence for each row, as long as the longest; else one sequence of all rows.
    """
    num_answers = len(rows[0].answer_ids)
    prompt_sizes = np.array([len(row.prompt_ids) for row in rows])
    sizes = np.array([list(map(len, row.answer_ids)) for row in rows])
    lengths = prompt_sizes + (sizes - 1).sum(1)
    shape = (len(rows), int(lengths.max())) if padded else (1, int(lengths.sum()))
    starts = np.arange(len(rows)) * shape[1] if padded else np.cumsum(lengths) - lengths
    ends = starts + prompt_sizes  # of the prompts

    targets = _flat(list(chain.from_iterable(row.answer_ids for row in rows)))
    answers = np.repeat(np.arange(sizes.size), sizes.reshape(-1))
    within = _ranges(sizes.reshape(-1))
    answer_starts = (ends[:, None] + np.cumsum(sizes - 1, axis=1) - (sizes - 1)).reshape(-1)
    fed = within < sizes.reshape(-1)[answers] - 1  # all but an answer's last token
    fed_answers, fed_within = answers[fed], within[fed]
    fed_rows = fed_answers // num_answers

    prompt_places = np.repeat(starts, prompt_sizes) + _ranges(prompt_sizes)
    places = np.concatenate([prompt_places, answer_starts[fed_answers] + fed_within])
    values = {
        "token_ids": (0, _flat([row.prompt_ids for row in rows]), targets[fed]),
        "position_ids": (0, _ranges(prompt_sizes), prompt_sizes[fed_rows] + fed_within),
        "segments": (
            PROMPT,
            np.zeros(int(prompt_sizes.sum()), np.int64),
            fed_answers % num_answers + 1,
        ),
        "owners": (-1, np.repeat(np.arange(len(rows)), prompt_sizes), fed_rows),
    }
    predicted_from = np.where(
        within == 0, ends[answers // num_answers] - 1, answer_starts[answers] + within - 1
    )
    predicting, source = np.unique(predicted_from, return_inverse=True)
    return Packed(
        **{name: _filled(shape, places, *value) for name, value in values.items()},
        predicting=torch.from_numpy(predicting),
        source=torch.from_numpy(source),
        targets=torch.from_numpy(targets),
        answers=torch.from_numpy(answers),
        spans=list(zip(starts.tolist(), ends.tolist(), (starts + lengths).tolist(), strict=True)),
        borders=answer_starts.reshape(sizes.shape).tolist(),
        shape=(len(rows), num_answers),
    )


def _filled(
    shape: tuple[int, int],
    places: NDArray[np.int64],
    rest: int,
    prompts: NDArray[np.int64],
    answers: NDArray[np.int64],
) -> Tensor:
    result = np.full(shape, rest, np.int64)
    result.reshape(-1)[places] = np.concatenate([prompts, answers])
    return torch.from_numpy(result)


def _flat(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)


def _ranges(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """0..n-1 for each size n, one after the other."""
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def batches(lengths: Sequence[int], budget: int, *, padded: bool) -> list[list[int]]:
    """Rows into batches of like length, the longest first, of at most `budget` tokens; a longer row is alone.

    Args:
        lengths: Tokens of each row.
        budget: Tokens of a batch.
        padded: Whether every row of a batch takes as much as its longest.
    """
    result: list[list[int]] = []
    used = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        size = lengths[result[-1][0]] if padded and result else lengths[place]
        if not result or used + size > budget:
            result.append([])
            used, size = 0, lengths[place]
        result[-1].append(place)
        used += size
    return result
