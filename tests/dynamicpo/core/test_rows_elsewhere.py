"""Rows of ours in other people's code: each split opens with the `datasets` library."""

from pathlib import Path

import datasets

from dynamicpo.core.choices import SPLITS
from tests.fixtures.folders import preference_rows, write_preferences


def test_each_split_opens_as_it_was_written(tmp_path: Path) -> None:
    rows = {split: preference_rows(split, num_users=5) for split in SPLITS}
    write_preferences(tmp_path / "preferences", rows)
    files = {split: str(tmp_path / "preferences" / split / "*.parquet") for split in SPLITS}
    cache = str(tmp_path / "cache")
    opened = datasets.load_dataset("parquet", data_files=files, cache_dir=cache)
    for split in SPLITS:
        read = opened[split].to_list()
        expected = rows[split]
        assert [row["example_id"] for row in read] == [row["example_id"] for row in expected]
        assert [row["rejected"] for row in read] == [row["rejected"] for row in expected]
        assert [row["target"] for row in read] == [row["target"] for row in expected]
