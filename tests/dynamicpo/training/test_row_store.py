"""Encoded rows on disk: the same values as in memory, little of them resident, no file left."""

import multiprocessing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from dynamicpo.core.records import rows as records
from dynamicpo.core.records.rows import PREFERENCES, Row, read_rows
from dynamicpo.training.preference_batches import PreferenceRows, RowsToScore
from dynamicpo.training.row_store import TOKEN_IDS, store_rows
from dynamicpo.training.selected_rows import SelectedRows
from tests.benchmarks.measure import peak_bytes
from tests.fixtures.folders import write_preferences

SCHEMA = pa.schema([("example_id", pa.string()), ("input_ids", TOKEN_IDS)])
ENCODED = pa.schema(
    [*SCHEMA][:1] + [("prompt_ids", TOKEN_IDS), ("answer_ids", pa.list_(TOKEN_IDS))]
)
LARGE = 2**17  # beyond the vocabulary of any backbone of ours


def rows_of(number: int, length: int = 3) -> list[dict[str, object]]:
    return [
        {"example_id": f"{index}:1", "input_ids": [index % LARGE] * (1 + index % length)}
        for index in range(number)
    ]


@pytest.mark.parametrize("number", [0, 1, 1999, 2000, 4001])
def test_rows_are_read_as_they_were_written(number: int, tmp_path: Path) -> None:
    rows = rows_of(number)
    stored = store_rows(iter(rows), SCHEMA, tmp_path)
    assert len(stored) == number and list(stored) == rows
    # Backwards, and across chunks.
    backwards = [stored[index] for index in reversed(range(number))]
    assert backwards == rows[::-1]
    with pytest.raises(IndexError, match=f"row {number} of {number}"):
        stored[number]


def test_no_file_is_left_nor_seen_meanwhile(tmp_path: Path) -> None:
    stored = store_rows(rows_of(10), SCHEMA, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert stored[9]["example_id"] == "9:1"


def test_values_are_views_of_the_file(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    stored = store_rows(rows_of(20_000, length=50), SCHEMA, tmp_path)
    # Two million bytes and more of token ids.
    assert pa.total_allocated_bytes() - before < 100_000
    assert len(stored) == 20_000


def _read_at_random(folder: Path, number: int) -> int:
    """Peak of resident memory while all of a file's pages are read, one row here, one there."""
    tokens = list(range(1000))
    rows = ({"example_id": str(index), "input_ids": tokens} for index in range(number))
    stored = store_rows(rows, SCHEMA, folder)
    order = np.random.default_rng(0).permutation(number)
    return peak_bytes(lambda: [len(stored[int(index)]) for index in order])


def test_pages_that_were_read_do_not_stay_resident(tmp_path: Path) -> None:
    """Of 160 MB, in a process of its own: this one may free others' memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(_read_at_random, (tmp_path, 40_000))
    assert peak < 100e6


def test_reference_and_rows_meet_in_an_example(tmp_path: Path) -> None:
    encoded = store_rows(
        [
            {"example_id": "a", "prompt_ids": [1, 2], "answer_ids": [[3], [4, 5]]},
            {"example_id": "b", "prompt_ids": [6], "answer_ids": [[7, 8], [9]]},
        ],
        ENCODED,
        tmp_path,
    )
    # No float32 but -0.1's neighbour: it must come back exactly.
    reference = torch.tensor([[-0.1, -2.0], [-3.3, -4.0]])
    examples = PreferenceRows(encoded, reference)
    assert len(examples) == 2 and examples[1]["answer_ids"] == [[7, 8], [9]]
    assert torch.equal(torch.tensor(examples[0]["reference_logps"]), reference[0])
    assert "reference_logps" not in PreferenceRows(encoded, None)[0]
    to_score = RowsToScore(encoded)
    assert list(to_score) == [Row([1, 2], [[3], [4, 5]]), Row([6], [[7, 8], [9]])]
    assert to_score[1:] == [to_score[1]] and len(to_score) == 2


def test_selected_rows_are_those_of_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_ROWS_PER_PART", 7)
    preferences = write_preferences(tmp_path / "preferences")
    whole = read_rows(preferences, "train", PREFERENCES)
    assert len(list((preferences / "train").iterdir())) > 2
    numbers = np.array([0, 6, 7, 20, len(whole) - 1])
    selected = SelectedRows(preferences, "train", numbers)
    assert selected.table().to_pylist() == whole.take(numbers).to_pylist()
    assert len(selected) == 5
