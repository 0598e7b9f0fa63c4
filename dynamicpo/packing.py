"""Rows to sequences that hold each prompt once, with the mask that keeps the answers apart.

A row becomes: prompt, then the tokens of every answer but its last one (nothing is predicted from that one). Each
answer starts at the position where the prompt ends, sees the prompt and itself. The first token of every answer is
predicted from the prompt's last position, so an answer of one token adds nothing to the sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dynamicpo.errors import ShapeError
from dynamicpo.records import Row

PROMPT, PADDING = 0, -1


@dataclass(frozen=True)
class Packed:
    """A batch of sequences and where their answers' tokens are predicted.

    Attributes:
        token_ids: Shape (S, T).
        position_ids: Positions that restart at each answer. Shape (S, T).
        segments: 0 in a prompt, n in the n-th answer, -1 in padding. Shape (S, T).
        rows: Which row of a sequence holds a token; rows of one sequence do not see each other. Shape (S, T).
        predicting: Flat places (sequence * T + token) from which a token is predicted, each once. Shape (P,).
        source: For every answer token, its place in `predicting`. Shape (N,).
        targets: For every answer token, its id. Shape (N,).
        answers: For every answer token, its answer (row * A + answer). Shape (N,).
        shape: Rows and answers, (B, A).
    """

    token_ids: Tensor
    position_ids: Tensor
    segments: Tensor
    rows: Tensor
    predicting: Tensor
    source: Tensor
    targets: Tensor
    answers: Tensor
    shape: tuple[int, int]

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in self.__dataclass_fields__ if name != "shape"}
        return Packed(**moved, shape=self.shape)


def packed_length(row: Row) -> int:
    """Tokens that a row takes when its prompt is shared."""
    return len(row.prompt_ids) + sum(map(len, row.answer_ids)) - len(row.answer_ids)


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows that can't be scored together.

    Raises:
        ShapeError: No rows, unequal numbers of answers, an empty prompt or an empty answer.
    """
    if not rows:
        raise ShapeError("rows: need at least one, got none. Give rows to score.")
    number = len(rows[0].answer_ids)
    for place, row in enumerate(rows):
        if len(row.answer_ids) != number or number == 0:
            raise ShapeError(
                f"rows[{place}]: must have {max(number, 1)} answers as the first row has, got {len(row.answer_ids)}. "
                "Score rows with other numbers of answers in calls of their own."
            )
        if not len(row.prompt_ids):
            raise ShapeError(f"rows[{place}]: the prompt must have a token, got none. Start it with one.")
        if not all(map(len, row.answer_ids)):
            raise ShapeError(f"rows[{place}]: every answer must have a token, got an empty one. Leave it out.")


def pack(rows: Sequence[Row], bins: Sequence[Sequence[int]] | None = None) -> Packed:
    """Lay rows into sequences.

    Args:
        rows: Rows with equally many answers.
        bins: Which rows share a sequence, in order; None gives each row a sequence of its own.

    Returns:
        Sequences as long as the longest; shorter ones are padded at the end.
    """
    groups = [[place] for place in range(len(rows))] if bins is None else bins
    num_answers = len(rows[0].answer_ids)
    prompt_sizes = np.array([len(row.prompt_ids) for row in rows])
    sizes = np.array([list(map(len, row.answer_ids)) for row in rows])
    lengths = prompt_sizes + (sizes - 1).sum(1)
    width = max(int(lengths[list(group)].sum()) for group in groups)
    starts = np.zeros(len(rows), dtype=np.int64)
    for number, group in enumerate(groups):
        starts[list(group)] = number * width + np.concatenate([[0], np.cumsum(lengths[list(group)])[:-1]])
    shape = (len(groups), width)
    token_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, owners = np.full(shape, PADDING, np.int64), np.full(shape, PADDING, np.int64)
    flat_ids, flat_positions, flat_segments = token_ids.reshape(-1), positions.reshape(-1), segments.reshape(-1)

    prompt_places = np.repeat(starts, prompt_sizes) + _ranges(prompt_sizes)
    flat_ids[prompt_places] = _flat([row.prompt_ids for row in rows])
    flat_positions[prompt_places] = _ranges(prompt_sizes)
    flat_segments[prompt_places] = PROMPT

    inputs = sizes.reshape(-1) - 1  # an answer's tokens that are fed: all but the last
    before = np.cumsum(sizes - 1, axis=1) - (sizes - 1)
    answer_starts = (starts[:, None] + prompt_sizes[:, None] + before).reshape(-1)
    targets = _flat(list(chain.from_iterable(row.answer_ids for row in rows)))
    within = _ranges(sizes.reshape(-1))
    owner = np.repeat(np.arange(sizes.size), sizes.reshape(-1))
    is_input = within < inputs[owner]
    input_places = answer_starts[owner[is_input]] + within[is_input]
    flat_ids[input_places] = targets[is_input]
    flat_positions[input_places] = np.repeat(prompt_sizes, num_answers)[owner[is_input]] + within[is_input]
    flat_segments[input_places] = owner[is_input] % num_answers + 1
    owners.reshape(-1)[prompt_places] = np.repeat(np.arange(len(rows)), prompt_sizes)
    owners.reshape(-1)[input_places] = owner[is_input] // num_answers

    from_prompt = (starts + prompt_sizes - 1)[owner // num_answers]
    places = np.where(within == 0, from_prompt, answer_starts[owner] + within - 1)
    predicting, source = np.unique(places, return_inverse=True)
    arrays = (token_ids, positions, segments, owners, predicting, source, targets, owner)
    names = tuple(Packed.__dataclass_fields__)
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=False)}
    return Packed(**tensors, shape=(len(rows), num_answers))


def _flat(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)


def _ranges(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """0..n-1 for each size n, one after the other."""
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def attention_mask(packed: Packed) -> Tensor:
    """Who sees whom: earlier tokens of the same row that are in its prompt or in the same answer. (S, 1, T, T) bool.

    Padding sees itself alone, so that no row of the mask is empty.
    """
    segments, owners = packed.segments, packed.rows
    width = segments.shape[1]
    place = torch.arange(width, device=segments.device)
    same_answer = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == PROMPT)
    seen = same_answer & (owners[:, :, None] == owners[:, None, :]) & (place[:, None] >= place[None, :])
    return (seen | (place[:, None] == place[None, :]))[:, None]


def first_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows into sequences of at most `budget` tokens: longest first, each into the first sequence with room."""
    bins: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        for number, free in enumerate(room):
            if lengths[place] <= free:
                bins[number].append(place)
                room[number] -= lengths[place]
                break
        else:
            bins.append([place])
            room.append(budget - lengths[place])
    return bins


def like_lengths(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows into batches of like length: at most `budget` tokens each, padding included; a longer row is alone."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        longest = lengths[batches[-1][0]] if batches else 0
        full = not batches or (len(batches[-1]) + 1) * longest > budget
        if full or lengths[place] < 0.8 * longest:
            batches.append([place])
        else:
            batches[-1].append(place)
    return batches
