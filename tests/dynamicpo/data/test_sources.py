"""Titles, text columns and the splits of published files."""

from pathlib import Path

import ibis
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources import published
from dynamicpo.data.sources.engine import open_engine
from dynamicpo.data.sources.reading import read_text
from dynamicpo.data.sources.row_checks import RowCheck, run_row_checks
from dynamicpo.data.sources.text_values import null_if_missing
from dynamicpo.data.sources.titles import TITLE_LIMIT, clean_titles, distinct_titles, natural_title


@pytest.mark.parametrize(
    ("title", "year", "natural"),
    [
        ("Matrix, The (1999)", "", "The Matrix (1999)"),
        ("Matrix, The", "1999", "The Matrix (1999)"),
        ("Toy Story", "1995", "Toy Story (1995)"),
        ("Land Before Time III (1995)", "V", "Land Before Time III (1995)"),
        ("unknown", "unknown", "unknown"),
        ("Seven (Se7en) (1995)", "", "Seven (Se7en) (1995)"),
        (
            "Star Maker, The (Uomo delle stelle, L') (1995)",
            "",
            "The Star Maker (L'Uomo delle stelle) (1995)",
        ),
        (
            "Die xue shuang xiong (Killer, The) (1989)",
            "",
            "Die xue shuang xiong (The Killer) (1989)",
        ),
        (
            "To Wong Foo, Thanks for Everything! Julie Newmar",
            "1995",
            "To Wong Foo, Thanks for Everything! Julie Newmar (1995)",
        ),
        (
            "I, Worst of All (Yo, la peor de todas)",
            "1990",
            "I, Worst of All (Yo, la peor de todas) (1990)",
        ),
        (
            "Maybe, Maybe Not (Bewegte Mann, Der)",
            "1994",
            "Maybe, Maybe Not (Der Bewegte Mann) (1994)",
        ),
        ("2001: A Space Odyssey (1968)", "", "2001: A Space Odyssey (1968)"),
    ],
)
def test_movielens_titles_read_naturally(title: str, year: str, natural: str) -> None:
    assert natural_title(title, year) == natural


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_cleaned_titles_are_one_short_line_and_stay_so(titles: list[str]) -> None:
    clean, counts = clean_titles(pd.Series(titles, dtype=str))
    for title in clean:
        assert len(title) <= TITLE_LIMIT
        assert title == " ".join(title.split())
        assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in title)
    again, changes = clean_titles(clean)
    assert again.tolist() == clean.tolist()
    assert changes == {"titles_cleaned": 0, "titles_cut": 0}
    assert counts["titles_cleaned"] <= len(titles)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "A", "a (2)", "a (1999)", "b"]),
            st.sampled_from(["", "1999", "2005"]),
        )
    )
)
def test_distinct_titles_differ_and_keep_what_was_distinct(rows: list[tuple[str, str]]) -> None:
    items = pd.DataFrame(rows, columns=["title", "year"], dtype=str)
    items["item_id"] = [f"{index:03d}" for index in range(len(items))]
    titles, changed = distinct_titles(items)
    assert titles.str.casefold().is_unique
    assert changed == (titles != items["title"]).sum()
    assert all(
        title.startswith(before) for title, before in zip(titles, items["title"], strict=True)
    )
    shuffled = items.sample(frac=1, random_state=0)
    assert distinct_titles(shuffled)[0].sort_index().tolist() == titles.tolist()


def test_titles_that_read_the_same_get_their_year_then_a_number() -> None:
    rows = [
        ("1", "Sabrina", "1954"),
        ("2", "sabrina", "1995"),
        ("3", "Deceiver", "1997"),
        ("4", "Deceiver", "1997"),
    ]
    titles, changed = distinct_titles(pd.DataFrame(rows, columns=["item_id", "title", "year"]))
    assert titles.tolist() == [
        "Sabrina (1954)",
        "sabrina (1995)",
        "Deceiver (1997)",
        "Deceiver (1997) (2)",
    ]
    assert changed == 4


@pytest.fixture
def connection() -> ibis.BaseBackend:
    return open_engine()


def test_text_columns_keep_what_was_written(connection: ibis.BaseBackend, tmp_path: Path) -> None:
    lines = [
        '{"a": 1, "b": "01"}',
        '{"a": "x\\ny", "b": null}',
        '{"a": 2.5}',
        '{"a": 12345678901234567890, "b": true}',
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    frame = (
        read_text(connection, tmp_path / "t.jsonl", ["a", "b"], ["c"])
        .rows.order_by("row")
        .to_pandas()
    )
    assert frame["a"].tolist() == ["1", "x\ny", "2.5", "12345678901234567890"]
    assert frame["b"].fillna("-").tolist() == ["01", "-", "-", "true"]
    assert frame["c"].isna().all()


def test_csv_with_mark_quotes_and_odd_line_ends(
    connection: ibis.BaseBackend, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_bytes(
        b'\xef\xbb\xbfa, b\r\n007,"say ""hi"", twice"\r\n"two\nlines",\xc3\xa9\r\n\r\n'
    )
    frame = read_text(connection, tmp_path / "t.csv", ["a", "b"]).rows.order_by("row").to_pandas()
    assert frame["a"].tolist() == ["007", "two\nlines"]
    assert frame["b"].tolist() == ['say "hi", twice', "é"]


def test_whole_floats_lose_their_point(connection: ibis.BaseBackend, tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.5, None, 3e15], "b": [1, 2, 3, 4]})
    frame.to_parquet(tmp_path / "t.parquet")
    frame = (
        read_text(connection, tmp_path / "t.parquet", ["a", "b"]).rows.order_by("row").to_pandas()
    )
    assert frame["a"].fillna("-").tolist() == ["1", "2.5", "-", "3000000000000000"]
    assert frame["b"].tolist() == ["1", "2", "3", "4"]


@pytest.mark.parametrize("text", ["", " ", "nan", "NaN", "null", "None", "<NA>"])
def test_ids_that_mean_nothing_are_missing(connection: ibis.BaseBackend, text: str) -> None:
    table = connection.create_table(
        "t", ibis.memtable({"part": [0, 0], "row": [1, 2], "a": [" id ", text]})
    )
    assert table.select(a=null_if_missing(table.a)).to_pandas()["a"].fillna("-").tolist() == [
        "id",
        "-",
    ]
    with pytest.raises(
        DataError,
        match=r"file: a must be given, not so in 1 of 2 rows, first in data row 2 .*\. Add it\.",
    ):
        run_row_checks(
            table,
            [Path("file")],
            [RowCheck(null_if_missing(table.a).isnull(), "a", "a must be given", "Add it.")],
        )


def test_rows_are_numbered_in_the_order_of_a_large_file(
    connection: ibis.BaseBackend, tmp_path: Path
) -> None:
    pd.DataFrame({"a": range(1, 300_001)}).to_csv(tmp_path / "t.csv", index=False)
    table = read_text(connection, tmp_path / "t.csv", ["a"]).rows
    assert (table.row == table.a.cast("int64")).all().execute()


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.json", "val.json", "test.json"], ["train", "validation", "test"]),
        (["lastfm-train.jsonl", "lastfm_valid.jsonl"], ["train", "validation"]),
        (
            ["rows-train.json", "validation_rows.json", "interactions.csv", "README.md"],
            ["train", "validation"],
        ),
        (["Train-01.json", "latest.json", "retraining.json", "contest.json"], ["train"]),
    ],
)
def test_published_files_are_known_by_their_names(
    tmp_path: Path, names: list[str], splits: list[str]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    files = published.published_files(tmp_path)
    assert list(files) == splits
    assert [files[split].name for split in splits] == names[: len(splits)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test.json"], "with 'train' in its name"),
        (["train.csv"], "with 'train' in its name"),
        (
            ["a-train.json", "b-train.json"],
            "must hold one train file, got a-train.json, b-train.json",
        ),
    ],
)
def test_published_folder_must_be_clear(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        published.published_files(tmp_path)
