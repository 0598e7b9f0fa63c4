"""Limits of what compressed inputs unpack to: checked before anything of them is read."""

import gzip
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.movielens import movielens_files
from dynamicpo.data.sources.unpacking import UnpackingLimits, check_members, check_unpacked
from tests.fixtures.tables import write_tables

RATING = b"1\t1\t5\t880000000\n"


def write_zip(path: Path, ratings: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml-100k/u.data", ratings)
        archive.writestr("ml-100k/u.item", "1|A (1990)|||x|1\n")
        archive.writestr("ml-100k/u.genre", "Drama|0\n")
    return path


def prepare(source: str, interactions: Path, output: Path, *flags: str) -> int:
    argv = ["prepare-data", "--source", source, "--interactions", str(interactions)]
    return main([*argv, "--output", str(output), "--k-core", "1", *flags])


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, capsys) -> None:
    """200 MB in a few hundred kilobytes took minutes and gigabytes."""
    path = write_zip(tmp_path / "ml-100k.zip", RATING * (200_000_000 // len(RATING)))
    assert path.stat().st_size < 1_000_000
    started = time.process_time()
    assert prepare("movielens", path, tmp_path / "out") == 2
    assert time.process_time() - started < 1
    message = capsys.readouterr().err
    assert "at most 200 times its size" in message and "max_unpacked_ratio" in message
    assert [file.name for file in tmp_path.iterdir()] == ["ml-100k.zip"]


def test_limits_may_be_raised(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "ml-100k.zip", RATING * (20_000_000 // len(RATING)))
    with pytest.raises(DataError, match="at most 200 times"):
        movielens_files(path, tmp_path / "a")
    with pytest.raises(DataError, match=r"at most 0\.01 GB"):
        movielens_files(path, tmp_path / "b", UnpackingLimits(gigabytes=0.01, ratio=1e4))
    files = movielens_files(path, tmp_path / "c", UnpackingLimits(ratio=1e4))
    assert files["u.data"].stat().st_size == len(RATING) * (20_000_000 // len(RATING))


def test_members_are_limited_in_number(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    path.write_bytes(b"x")
    members = [zipfile.ZipInfo("u.data")] * 10_001
    with pytest.raises(DataError, match=r"at most 10,000 files, got 10,001"):
        check_members(path, members, UnpackingLimits())


def test_members_that_share_their_bytes_count_by_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "shared.zip"
    path.write_bytes(b"x" * 100_000)
    member = zipfile.ZipInfo("u.data")
    member.file_size, member.compress_size = 10 << 20, 99_000
    with pytest.raises(DataError, match="at most 200 times"):
        check_members(path, [member] * 3, UnpackingLimits())


@pytest.mark.parametrize("suffix", [".csv.gz", ".jsonl.gz"])
def test_gzip_files_are_limited_while_they_are_unpacked(
    tmp_path: Path, capsys, suffix: str
) -> None:
    _, items = write_tables(tmp_path)
    path = tmp_path / f"interactions{suffix}"
    path.write_bytes(gzip.compress(b"u1,i1,1000\n" * 4_000_000, mtime=0))
    assert prepare("table", path, tmp_path / "out", "--items", items) == 2
    assert "must unpack to at most 200 times its size" in capsys.readouterr().err
    # 44 MB: past the ratio, so that the size is what is left to refuse it.
    flags = ("--items", items, "--max-unpacked-ratio", "5000", "--max-unpacked-gb", "0.02")
    assert prepare("table", path, tmp_path / "out", *flags) == 2
    assert "must unpack to at most 0.02 GB" in capsys.readouterr().err


def test_parts_count_together(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(b"0" * 15_000_000, mtime=0))
        check_unpacked(tmp_path / f"{name}.csv.gz", UnpackingLimits())
    with pytest.raises(DataError, match="at most 200 times"):
        check_unpacked(tmp_path, UnpackingLimits())


@pytest.mark.parametrize(
    ("texts", "is_dictionary"),
    [(["1"] * 250_000, True), ([f"{row}{'u' * 10_000}" for row in range(1000)], False)],
)
def test_parquet_is_limited_by_what_it_says_before_it_is_read(
    tmp_path: Path, capsys, texts: list[str], is_dictionary: bool
) -> None:
    """Equal values are stored once, so that many rows take no more than long texts."""
    _, items = write_tables(tmp_path)
    path = tmp_path / "interactions.parquet"
    table = pa.table(dict.fromkeys(("user_id", "item_id", "timestamp"), pa.array(texts)))
    with pq.ParquetWriter(
        path, table.schema, compression="zstd", use_dictionary=is_dictionary
    ) as writer:
        for _ in range(4):
            writer.write_table(table)
    assert path.stat().st_size < 100_000
    started = time.process_time()
    flags = ("--items", str(items))
    assert prepare("table", path, tmp_path / "out", *flags) == 2
    assert time.process_time() - started < 1
    assert "must unpack to at most 200 times its size" in capsys.readouterr().err
    flags = (*flags, "--max-unpacked-ratio", "1e5", "--max-unpacked-gb", "0.01")
    assert prepare("table", path, tmp_path / "out", *flags) == 2
    assert "must unpack to at most 0.01 GB" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_published_rows_are_limited_too(tmp_path: Path, capsys) -> None:
    path = tmp_path / "train.json.gz"
    path.write_bytes(gzip.compress(b'{"historyList": ""}\n' * 2_000_000, mtime=0))
    assert prepare("published", path, tmp_path / "out") == 2
    assert "must unpack to at most 200 times" in capsys.readouterr().err
    assert main(["audit-candidates", "--train", str(path), "--test", str(path)]) == 2
    assert "must unpack to at most 200 times" in capsys.readouterr().err


def test_a_short_file_of_equal_rows_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"0" * 10_000_000, mtime=0))
    check_unpacked(path, UnpackingLimits())
