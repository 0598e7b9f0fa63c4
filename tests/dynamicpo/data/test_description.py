"""Descriptions of files: what they hold, and settings that work when they are pasted."""

import gzip
import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dynamicpo.cli.main import main
from dynamicpo.core.records.manifest import read_manifest

START = 1_300_000_000


def frame() -> pd.DataFrame:
    rows = [
        (f"u{user}", f"i{(user + play) % 10}", START + 86_400 * play + user, play % 5 + 1)
        for user in range(8)
        for play in range(6)
    ]
    return pd.DataFrame(rows, columns=["user", "item", "time", "stars"])


def as_days(form: str) -> "pd.Series[str]":
    return pd.to_datetime(frame()["time"], unit="s").dt.strftime(form)


def write_csv(folder: Path) -> Path:
    path = folder / "ratings.csv"
    names = {"user": "userId", "item": "movieId", "time": "timestamp", "stars": "rating"}
    frame().rename(columns=names).to_csv(path, index=False)
    return path


def write_index_and_semicolons(folder: Path) -> Path:
    path = folder / "log.csv"
    milliseconds = frame()["time"] * 1000
    table = frame().assign(time=milliseconds).rename(columns={"user": "Customer-ID"})
    table.rename(columns={"item": "SKU", "time": "Purchase Date"}).to_csv(path, sep=";")
    return path


def write_without_header(folder: Path) -> Path:
    path = folder / "u.tsv"
    frame()[["user", "item", "stars", "time"]].to_csv(path, sep="\t", index=False, header=False)
    return path


def write_german_dates(folder: Path) -> Path:
    path = folder / "log.parquet"
    table = frame().assign(time=as_days("%d.%m.%Y %H:%M:%S"))
    table.rename(columns={"time": "date"}).to_parquet(path)
    return path


def write_ruby_dates(folder: Path) -> Path:
    path = folder / "log.jsonl.gz"
    table = frame().assign(date_added=as_days("%a %b %d %H:%M:%S +0000 %Y"))
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        for row in (
            table.rename(columns={"item": "book_id"}).drop(columns="time").to_dict("records")
        ):
            stream.write(json.dumps({**row, "shelves": ["a"]}) + "\n")
    return path


def write_parts(folder: Path) -> Path:
    (folder / "parts").mkdir()
    for number, part in enumerate((frame()[:20], frame()[20:])):
        names = {"user": "user_id:token", "item": "item_id:token", "time": "timestamp:float"}
        part.rename(columns=names).to_csv(folder / "parts" / f"{number}.csv", index=False)
    return folder / "parts"


WRITERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "csv": (write_csv, "CSV, delimiter ',', a header, UTF-8, 48 rows"),
    "semicolons": (write_index_and_semicolons, "CSV, delimiter ';', a header"),
    "no header": (write_without_header, r"TSV, delimiter '\t', no header"),
    "parquet": (write_german_dates, "PARQUET, 48 rows"),
    "json": (write_ruby_dates, "JSONL (gzip), UTF-8, 48 rows"),
    "parts": (write_parts, "48 rows in 2 files"),
}


def write_items(folder: Path) -> Path:
    path = folder / "items.csv"
    path.write_text("item_id,title\n" + "".join(f"i{item},Film {item}\n" for item in range(10)))
    return path


def pasted(lines: list[str]) -> Iterator[list[str]]:
    """The settings as flags, and as the file that the YAML makes."""
    if "settings, as flags:" not in lines:
        yield []
        return
    yield shlex.split(lines[lines.index("settings, as flags:") + 1])
    content = "\n".join(lines[lines.index("and in YAML:") + 1 :])
    assert yaml.safe_load(content)
    Path("settings.yaml").write_text(content, encoding="utf-8")
    yield ["--config", "settings.yaml"]


@pytest.mark.parametrize("name", WRITERS)
def test_settings_work_when_they_are_pasted(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write, first_line = WRITERS[name]
    path = write(tmp_path)
    assert main(["describe-data", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert first_line in lines[0]
    assert "interactions: users 8, items 10, repeats 0" in lines
    assert any(line.startswith("times: 2011-03-13T07:06:40Z to 2011-03-18") for line in lines)
    common = ["prepare-data", "--interactions", str(path), "--items", str(write_items(tmp_path))]
    common += ["--k-core", "1", "--min-history", "1"]
    for number, settings in enumerate(pasted(lines)):
        output = tmp_path / f"examples{number}"
        assert main([*common, "--output", str(output), *settings]) == 0
        counts = read_manifest(output).counts
        assert (counts["users"], counts["interactions"]) == (8, 48)


def described(path: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    capsys.readouterr()
    assert main(["describe-data", str(path), "--json"]) == 0
    content: dict = json.loads(capsys.readouterr().out)
    return content


def test_columns_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = frame().assign(note=["NA", "x"] * 24)
    table.to_csv(tmp_path / "log.csv", index=False)
    content = described(tmp_path / "log.csv", capsys)
    columns = {column["name"]: column for column in content["columns"]}
    assert columns["note"] == {
        "name": "note",
        "type": "text",
        "missing": 24,
        "distinct": 2,
        "examples": ["NA", "x"],
    }
    assert columns["time"]["type"] == "whole numbers"
    assert columns["user"]["examples"] == []
    assert columns["item"]["examples"] == ["i0", "i1", "i2"]
    assert content["settings"] == {
        "columns": "user_id=user,item_id=item,timestamp=time,rating=stars"
    }


def test_units_and_repeats_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = frame().assign(time=frame()["time"] * 1000)
    again = table.assign(time=table["time"] + 500)
    pd.concat([table, again]).to_csv(tmp_path / "log.csv", index=False)
    content = described(tmp_path / "log.csv", capsys)
    assert content["counts"] == {"users": 8, "items": 10, "repeats": 48}
    assert content["times"][2] == "milliseconds"
    assert "96 values converted from milliseconds" in content["problems"][0]


def test_items_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Alien,Horror\n2,Heat,Crime\n")
    content = described(tmp_path / "movies.csv", capsys)
    assert (content["holds"], content["counts"]) == ("items", {"items": 2})
    assert content["settings"] == {"columns": "item_id=movieId,category=genres"}


PROBLEMS = {
    "no time": ("user_id,item_id\nu,i\n", "no column looks like timestamp"),
    "mixed units": (
        "user_id,item_id,timestamp\nu,i,1300000000\nu,j,1300000000000\n",
        "every timestamp must be in one unit",
    ),
    "null user": ("user_id,item_id,timestamp\nNULL,i,1\nu,j,2\n", "every user_id must be given"),
    "two readings": ("user_id,item_id,date\nu,i,03/04/2020\nu,j,05/06/2020\n", "as %m/%d/%Y"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text, problem = PROBLEMS[name]
    (tmp_path / "log.csv").write_text(text)
    assert problem in " ".join(described(tmp_path / "log.csv", capsys)["problems"])


BAD = {
    "empty.csv": b"",
    "binary.parquet": b"PAR1 nothing",
    "cut.csv.gz": gzip.compress(b"user_id,item_id,timestamp\n" * 1000)[:40],
    "latin.csv": b"user_id,item_id,timestamp\nu,caf\xe9,1\n",
    "table.xlsx": b"PK",
    "uneven.csv": b"user_id,item_id,timestamp\nu,i,1,2,3\n",
    "numbers.json": b"[1, 2]",
    "broken.jsonl": b'{"user_id": 1\n',
}


@pytest.mark.parametrize("name", [*BAD, "missing.csv"])
def test_bad_files_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name in BAD:
        (tmp_path / name).write_bytes(BAD[name])
    assert main(["describe-data", str(tmp_path / name)]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len(message) == 1 and name in message[0] and len(message[0]) < 512


def test_our_own_name_comes_before_one_that_differs_in_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"Title": "MR", "item_id": str(item), "title": f"Film {item}"} for item in range(3)]
    (tmp_path / "items.json").write_text(json.dumps(rows))
    content = described(tmp_path / "items.json", capsys)
    assert (content["counts"], content["settings"]) == ({"items": 3}, {})
