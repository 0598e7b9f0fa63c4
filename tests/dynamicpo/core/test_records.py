"""Outputs are complete or absent, and a manifest names what determines them."""

import json
import logging
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import (
    Manifest,
    canonical,
    file_checksum,
    fingerprint,
    keep_mapping,
    read_manifest,
)
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows, write_items, write_rows


def manifest(**config: object) -> Manifest:
    return Manifest("stage", dict(config), {"examples": "abc"})


def rows(count: int) -> pa.Table:
    ids = [f"u:{number}" for number in range(count)]
    columns = [
        ids,
        ["u"] * count,
        [["a", "b"]] * count,
        ["c"] * count,
        [float(number) for number in range(count)],
    ]
    return pa.table(columns, schema=EXAMPLES)


def made(folder: Path, **config: object) -> Manifest:
    made_manifest = manifest(**config)
    with stage_output(folder, made_manifest) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file.txt").write_text("content")
        made_manifest.counts["rows"] = 3
    return made_manifest


def test_output_appears_complete_with_its_manifest(tmp_path: Path) -> None:
    with stage_output(tmp_path / "out", manifest()) as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "file",
        "manifest.json",
        "run.json",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), stage_output(tmp_path / "out", manifest()) as partial:
        (partial / "file").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    written = made(tmp_path / "out", seed=1)
    back = read_manifest(tmp_path / "out", "stage")
    assert back == written
    assert back.counts == {"rows": 3}
    assert set(back.files) == {"deep/file.txt"}
    assert back.files["deep/file.txt"] == file_checksum(tmp_path / "out" / "deep" / "file.txt")


def test_what_differs_from_run_to_run_is_in_run_json_alone(tmp_path: Path) -> None:
    made(tmp_path / "one")
    made(tmp_path / "two")
    names = ("manifest.json", "run.json")
    same = [
        (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
        for name in names
    ]
    assert same == [True, False]
    assert json.loads((tmp_path / "one" / "run.json").read_text())["duration_seconds"] >= 0


def test_equal_request_is_answered_from_what_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert finished(tmp_path / "out", manifest(seed=1)) is None
    written = made(tmp_path / "out", seed=1)
    with caplog.at_level(logging.INFO):
        assert finished(tmp_path / "out", manifest(seed=1)) == written
    assert "used as it is" in caplog.text


def test_other_request_for_the_same_output_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "out", seed=1, name="a")
    with pytest.raises(
        DataError, match=r"out: must be new .* differs in seed \(1, asked for 2\)\. Remove it"
    ):
        finished(tmp_path / "out", manifest(seed=2, name="a"))
    other = Manifest("stage", {"seed": 1, "name": "a"}, {"examples": "abd"})
    with pytest.raises(DataError, match=r"differs in examples \(abc, asked for abd\)"):
        finished(tmp_path / "out", other)
    with pytest.raises(DataError, match=r"differs in stage \(stage, asked for other\)"):
        finished(tmp_path / "out", Manifest("other", {}, {}))


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("c0ntent")])
def test_output_that_has_changed_is_refused(tmp_path: Path, spoil: object) -> None:
    made(tmp_path / "out")
    spoil(tmp_path / "out" / "deep" / "file.txt")  # type: ignore[operator]
    with pytest.raises(
        DataError,
        match="file.txt: .*out must hold the files that its manifest names, .* one (is mis|has ch)",
    ):
        finished(tmp_path / "out", manifest())


def test_folder_with_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with stage_output(tmp_path / "out", manifest()):
        pass  # an empty folder may be filled
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "notes.txt"):
        with pytest.raises(DataError, match="must not exist yet"), stage_output(folder, manifest()):
            pass
        with pytest.raises(DataError, match="must not exist yet"):
            finished(folder, manifest())
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize("parent", ["file", "/proc/none"])
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match="out: must be writable"),
        stage_output(tmp_path / parent / "out", manifest()),
    ):
        pass


def test_input_must_be_a_finished_output_of_the_right_stage(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="must be the finished output of stage, but it does not exist"
    ):
        read_manifest(tmp_path / "absent", "stage")
    with pytest.raises(DataError, match="not finished"):
        read_manifest(tmp_path)
    made(tmp_path / "out")
    with pytest.raises(DataError, match="must be the output of sft, but it comes from stage"):
        read_manifest(tmp_path / "out", "sft")
    for text in ("{", "[]", '{"stage": "x"}'):
        (tmp_path / "out" / "manifest.json").write_text(text)
        with pytest.raises(DataError, match="must be a manifest"):
            read_manifest(tmp_path / "out")


def test_cause_names_the_request_and_fingerprint_the_result() -> None:
    first, second = manifest(seed=1), manifest(seed=1)
    second.counts["rows"] = 1
    assert first.cause == second.cause != manifest(seed=2).cause
    assert first.fingerprint != second.fingerprint
    assert fingerprint({"b": 1, "a": [2]}) == fingerprint({"a": [2], "b": 1})


def test_rows_go_to_parts_and_come_back_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicpo.core.records.rows._ROWS_PER_PART", 4)
    for count, parts in ((10, 3), (4, 1), (0, 1)):
        folder = tmp_path / str(count)
        write_rows(folder, "train", rows(count))
        assert len(list((folder / "train").iterdir())) == parts
        assert read_rows(folder, "train", EXAMPLES).equals(rows(count))


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write_rows(tmp_path / "one", "test", rows(50))
    pieces = pa.concat_tables([rows(50).slice(0, 7), rows(50).slice(7)])
    write_rows(tmp_path / "two", "test", pieces)
    files = [tmp_path / name / "test" / "part-00000.parquet" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_rows_without_a_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold part-.*none is there"):
        read_rows(tmp_path, "train")
    write_rows(tmp_path, "train", rows(2))
    with pytest.raises(DataError, match="but the column candidates is missing"):
        read_rows(tmp_path, "train")


def test_items_come_back_sorted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="items.parquet: must be there"):
        read_items(tmp_path)
    items = pd.DataFrame(
        {"item_id": ["b", "a"], "title": ["B", "A"], "popularity": [1, 2], "category": ["x", ""]}
    )
    write_items(tmp_path, items)
    expected = items.sort_values("item_id").reset_index(drop=True)
    assert read_items(tmp_path).to_dict("list") == expected.to_dict("list")


def test_config_in_a_manifest_is_plain_json() -> None:
    assert keep_mapping({"ks": (1, 3), "name": "ü"}) == {"ks": [1, 3], "name": "ü"}
    assert canonical({"b": "ü", "a": None}) == '{"a":null,"b":"ü"}'
