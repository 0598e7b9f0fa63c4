"""Rows to sequences that hold each prompt once.

A row becomes: prompt, then the tokens of every answer but its last one (nothing is predicted from
that one). Each answer starts at the position where the prompt ends, sees the prompt and itself. The
first token of every answer is predicted from the prompt's last position, so an answer of one token
adds nothing to the sequence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dynamicpo.core.arrays import BoolArray, IntArray
from dynamicpo.core.errors import DataError, ShapeError
from dynamicpo.core.records.rows import Row

PROMPT_SEGMENT = 0
PADDING_ROW = -1


class RowSpan(NamedTuple):
    """Flat positions of a row: where its prompt starts, where its answers start, where it ends."""

    start: int
    prompt_end: int
    end: int


@dataclass(frozen=True)
class Packed:
    """Sequences of token ids, and the positions from which their answers' tokens are predicted.

    Attributes:
        token_ids: Shape (S, T): all rows one after the other (S = 1), or a padded sequence each.
        position_ids: Positions, which restart at each answer and row. Shape (S, T).
        segment_ids: 0 in a prompt, n in a row's n-th answer. Shape (S, T).
        row_index: The row that a token belongs to; -1 in padding. Shape (S, T).
        prediction_positions: Flat positions (sequence * T + token) from which a token is predicted,
            each once. Shape (P,).
        prediction_index: For every answer token, its index in `prediction_positions`. Shape (N,).
        targets: For every answer token, its id. Shape (N,).
        answer_index: For every answer token, its answer (row * A + answer). Shape (N,).
        row_spans: The span of each row.
        answer_starts: Of each row: the flat positions where its answers start.
        shape: Numbers of rows and of answers, (B, A).
    """

    token_ids: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    row_index: Tensor
    prediction_positions: Tensor
    prediction_index: Tensor
    targets: Tensor
    answer_index: Tensor
    row_spans: list[RowSpan]
    answer_starts: list[list[int]]
    shape: tuple[int, int]

    def to(self, device: torch.device) -> "Packed":
        """Copy the tensors to a device."""
        moved: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                moved[name] = value.to(device)
        return replace(self, **moved)


def pad_sequence(packed: Packed, multiple: int) -> Packed:
    """Add padding behind a packed sequence (S = 1), up to a multiple of so many tokens."""
    missing = -packed.token_ids.shape[1] % multiple
    if not missing:
        return packed
    behind = (0, missing)
    return replace(
        packed,
        token_ids=pad(packed.token_ids, behind),
        position_ids=pad(packed.position_ids, behind),
        segment_ids=pad(packed.segment_ids, behind, value=PROMPT_SEGMENT),
        row_index=pad(packed.row_index, behind, value=PADDING_ROW),
    )


@dataclass(frozen=True)
class _Layout:
    """Flat positions of rows in their sequences.

    Attributes:
        prompt_lengths: Shape (B,).
        answer_lengths: Shape (B, A).
        starts: Where each row starts. Shape (B,).
        ends: Where each row ends. Shape (B,).
        answer_starts: Where each answer starts. Shape (B, A).
        shape: Sequences and their tokens, (S, T).
    """

    prompt_lengths: IntArray
    answer_lengths: IntArray
    starts: IntArray
    ends: IntArray
    answer_starts: IntArray
    shape: tuple[int, int]

    @property
    def prompt_ends(self) -> IntArray:
        """Ends of the prompts, where their answers start. Shape (B,)."""
        return self.starts + self.prompt_lengths


@dataclass(frozen=True)
class _AnswerTokens:
    """All tokens of all answers, one after the other.

    Attributes:
        answer_index: The answer of each (row * A + answer). Shape (N,).
        offsets: Tokens of the same answer before it. Shape (N,).
        are_inputs: Which stand in a sequence: all but the last of an answer. Shape (N,), bool.
    """

    answer_index: IntArray
    offsets: IntArray
    are_inputs: BoolArray


def packed_length(row: Row) -> int:
    """Count the tokens that a row takes when its prompt is shared."""
    answer_tokens = sum(map(len, row.answer_ids))
    return len(row.prompt_ids) + answer_tokens - len(row.answer_ids)


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows that can't be scored together.

    Raises:
        DataError: An empty prompt or an empty answer.
        ShapeError: No rows, or unequal numbers of answers.
    """
    if not rows:
        raise ShapeError("rows: need at least one, got none. Give rows to score.")
    num_answers = len(rows[0].answer_ids)
    for index, row in enumerate(rows):
        if len(row.answer_ids) != num_answers or num_answers == 0:
            raise ShapeError(
                f"rows[{index}]: must have {num_answers or 'some'} answers, as the first row, got "
                f"{len(row.answer_ids)}. "
                "Score rows with other numbers of answers in calls of their own."
            )
        if not len(row.prompt_ids):
            raise DataError(
                f"rows[{index}]: the prompt must have a token, got none. Start it with one."
            )
        if not all(map(len, row.answer_ids)):
            raise DataError(
                f"rows[{index}]: every answer must have a token, got an empty one. Leave it out."
            )


def pack(rows: Sequence[Row], *, padded: bool) -> Packed:
    """Lay rows out.

    Args:
        rows: Rows with equally many answers.
        padded: A sequence for each row, as long as the longest; else one sequence of all rows.
    """
    layout = _lay_out(rows, padded)
    tokens = _answer_tokens(layout)
    targets = _concatenate(answer for row in rows for answer in row.answer_ids)
    sequences = _sequences(rows, layout, tokens, targets)
    predicted_from = _predicting_positions(layout, tokens)
    positions, prediction_index = np.unique(predicted_from, return_inverse=True)
    predictions = {
        "prediction_positions": positions,
        "prediction_index": prediction_index,
        "targets": targets,
        "answer_index": tokens.answer_index,
    }
    return Packed(
        **_tensors(sequences),
        **_tensors(predictions),
        row_spans=_row_spans(layout),
        answer_starts=layout.answer_starts.tolist(),
        shape=layout.answer_lengths.shape,
    )


def _tensors(arrays: Mapping[str, IntArray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _lay_out(rows: Sequence[Row], padded: bool) -> _Layout:
    prompt_lengths = np.array([len(row.prompt_ids) for row in rows])
    answer_lengths = np.array([list(map(len, row.answer_ids)) for row in rows])
    input_lengths = answer_lengths - 1  # nothing is predicted from an answer's last token
    lengths = prompt_lengths + input_lengths.sum(1)
    if padded:
        longest = int(lengths.max())
        shape = (len(rows), longest)
        starts = np.arange(len(rows)) * longest
    else:
        shape = (1, int(lengths.sum()))
        starts = _exclusive_sums(lengths)
    prompt_ends = starts + prompt_lengths
    within_answers = _exclusive_sums(input_lengths)
    return _Layout(
        prompt_lengths=prompt_lengths,
        answer_lengths=answer_lengths,
        starts=starts,
        ends=starts + lengths,
        answer_starts=prompt_ends[:, None] + within_answers,
        shape=shape,
    )


def _exclusive_sums(lengths: IntArray) -> IntArray:
    """Sum what stands before each length, along the last axis."""
    sums = np.cumsum(lengths, axis=-1)
    return sums - lengths


def _answer_tokens(layout: _Layout) -> _AnswerTokens:
    lengths = layout.answer_lengths.reshape(-1)
    all_answers = np.arange(len(lengths))
    answer_index = np.repeat(all_answers, lengths)
    offsets = _ranges(lengths)
    last_offsets = lengths[answer_index] - 1
    are_inputs = offsets < last_offsets
    return _AnswerTokens(answer_index, offsets, are_inputs)


def _sequences(
    rows: Sequence[Row], layout: _Layout, tokens: _AnswerTokens, targets: IntArray
) -> dict[str, IntArray]:
    """Fill the arrays of shape (S, T)."""
    prompt_rows = np.repeat(np.arange(len(rows)), layout.prompt_lengths)
    prompt_offsets = _ranges(layout.prompt_lengths)
    prompt_positions = layout.starts[prompt_rows] + prompt_offsets
    prompt_segments = np.full(len(prompt_rows), PROMPT_SEGMENT)
    prompt_ids = _concatenate(row.prompt_ids for row in rows)

    answer_index = tokens.answer_index[tokens.are_inputs]
    answer_offsets = tokens.offsets[tokens.are_inputs]
    answer_starts = layout.answer_starts.reshape(-1)
    answer_positions = answer_starts[answer_index] + answer_offsets
    num_answers = layout.answer_lengths.shape[1]
    answer_rows, answer_of_row = np.divmod(answer_index, num_answers)
    # Every answer goes on where the prompt ends, as if it were the only one.
    answer_position_ids = layout.prompt_lengths[answer_rows] + answer_offsets
    answer_ids = targets[tokens.are_inputs]

    positions = np.concatenate([prompt_positions, answer_positions])

    def fill(padding: int, in_prompts: IntArray, in_answers: IntArray) -> IntArray:
        result = np.full(layout.shape, padding, np.int64)
        flat_result = result.reshape(-1)
        flat_result[positions] = np.concatenate([in_prompts, in_answers])
        return result

    return {
        # Any id does as padding: nobody sees what stands behind a row.
        "token_ids": fill(0, prompt_ids, answer_ids),
        "position_ids": fill(0, prompt_offsets, answer_position_ids),
        "segment_ids": fill(PROMPT_SEGMENT, prompt_segments, answer_of_row + 1),
        "row_index": fill(PADDING_ROW, prompt_rows, answer_rows),
    }


def _predicting_positions(layout: _Layout, tokens: _AnswerTokens) -> IntArray:
    """Flat position from which each answer token is predicted. Shape (N,)."""
    num_answers = layout.answer_lengths.shape[1]
    row_index = tokens.answer_index // num_answers
    last_of_prompt = layout.prompt_ends[row_index] - 1
    answer_starts = layout.answer_starts.reshape(-1)
    own_position = answer_starts[tokens.answer_index] + tokens.offsets
    is_first = tokens.offsets == 0
    return np.where(is_first, last_of_prompt, own_position - 1)


def _row_spans(layout: _Layout) -> list[RowSpan]:
    columns = [layout.starts, layout.prompt_ends, layout.ends]
    spans = np.stack(columns, axis=1)
    return [RowSpan(*span) for span in spans.tolist()]


def _concatenate(lists: Iterable[Sequence[int]]) -> IntArray:
    # From an iterator: no Python list of all tokens stands in between.
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64)


def _ranges(lengths: IntArray) -> IntArray:
    """0..n-1 for each length n, one after the other."""
    total = int(lengths.sum())
    starts = _exclusive_sums(lengths)
    return np.arange(total) - np.repeat(starts, lengths)


def batches(lengths: Sequence[int], budget: int, *, padded: bool) -> list[list[int]]:
    """Group rows into batches of similar length, the longest first.

    Args:
        lengths: Tokens of each row.
        budget: Most tokens of a batch; a longer row is alone.
        padded: Every row of a batch takes as much as its longest.

    Returns:
        Indices of the rows of each batch.
    """
    result: list[list[int]] = []
    used = 0
    longest = 0
    # Sorting is stable: rows of the same length stay in their order.
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    for index in longest_first:
        length = lengths[index]
        cost = longest if padded else length
        if not result or used + cost > budget:
            result.append([])
            used = 0
            longest = length
            cost = length
        result[-1].append(index)
        used += cost
    return result
