"""Ids whose text says something else: floats, truth values, marks of missing values."""

from pathlib import Path

import pandas as pd
import pytest

from dynamicpo.core.config import DataConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.data.prepare import prepare_data

FIXTURES = Path(__file__).parents[2] / "fixtures"
FRAME = pd.read_csv(FIXTURES / "interactions.csv")
NUMBERS = FRAME["user_id"].str[1:].astype(int)
ALL = DataConfig(k_core=1)


def prepare(folder: Path, user_ids: object, name: str = "i.csv") -> Manifest:
    frame = FRAME.assign(user_id=user_ids)
    path = folder / name
    if name.endswith("csv"):
        frame.to_csv(path, index=False)
    elif name.endswith("jsonl"):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    return prepare_data(str(path), str(FIXTURES / "items.csv"), folder / "out", ALL)


@pytest.mark.parametrize(
    ("user_ids", "must"),
    [
        # pandas and R write large floats so; users would become one.
        ((NUMBERS + 76_561_197_960_265_728).astype(float), "have all its digits"),
        ((NUMBERS + 1.0) * 1e16, "have all its digits"),
        ([f"{number + 1}e+05" for number in NUMBERS], "have all its digits"),
        ([f"7.65611979602657{number:02d}E16" for number in NUMBERS], "have all its digits"),
        ((NUMBERS + 9_007_199_254_740_993).astype(float), "be exact, not a float"),
    ],
)
def test_floats_that_lost_digits_are_refused_as_text_too(
    tmp_path: Path, user_ids: object, must: str
) -> None:
    with pytest.raises(DataError, match=rf"i\.csv: every user_id must {must}.*first in data row 1"):
        prepare(tmp_path, user_ids)


def test_numbers_with_all_digits_are_ids(tmp_path: Path) -> None:
    manifest = prepare(tmp_path, NUMBERS + 76_561_197_960_265_728)
    assert manifest.counts["users"] == FRAME["user_id"].nunique()


@pytest.mark.parametrize("name", ["i.jsonl", "i.parquet"])
def test_truth_values_are_no_ids(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="every user_id must be text or a whole number"):
        prepare(tmp_path, NUMBERS > 10, name)


@pytest.mark.parametrize(
    "mark",
    ["NONE", "Nil", "N/a", "na", "-NaN", "#N/A N/A", "1.#QNAN", "#REF!", "[null]", "(NULL)", '""'],
)
def test_marks_of_missing_values_are_refused_in_any_case(tmp_path: Path, mark: str) -> None:
    with pytest.raises(DataError, match=r"every user_id must be given, not so in 1 of"):
        prepare(tmp_path, FRAME["user_id"].where(FRAME.index > 0, mark))


@pytest.mark.parametrize("mark", ["\u034f", "\u061c", "\u115f", "\u200c", "\u200d", "\uffa0"])
def test_what_does_not_show_at_an_end_is_taken_off(tmp_path: Path, mark: str) -> None:
    manifest = prepare(
        tmp_path, FRAME["user_id"].where(FRAME.index % 2 == 0, FRAME["user_id"] + mark)
    )
    assert manifest.counts["users"] == FRAME["user_id"].nunique()
    assert manifest.counts["user_ids_trimmed"] == len(FRAME) // 2
