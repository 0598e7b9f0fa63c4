"""Files of ours with other content than their readers rely on: one line that names the file."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamicpo.cli.commands.values import read_yaml
from dynamicpo.cli.main import main
from dynamicpo.core.config import DriftConfig, SFTConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.messages import reason_of
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.core.records.rows import ITEMS, read_columns
from dynamicpo.evaluation.result_files import read_result
from dynamicpo.models.checkpoints import load_model
from dynamicpo.prompts.loader import load_template
from dynamicpo.reports.training_log import read_training_log
from tests.fixtures.folders import rewrite_checksums, write_model


def change_json(path: Path, **values: object) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **values}), encoding="utf-8")


def refused(folder: Path) -> None:
    rewrite_checksums(folder)
    with pytest.raises(DataError) as error:
        load_model(folder)
    (line,) = str(error.value).splitlines()
    assert str(folder) in line and len(line) < 800


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"num_hidden_layers": [2]}),
        ("config.json", {"intermediate_size": "x"}),
        ("tokenizer_config.json", {"tokenizer_class": []}),
        ("tokenizer_config.json", {"bos_token": [1]}),
        ("tokenizer.json", {"model": 3}),
        ("tokenizer.json", {"added_tokens": [{"id": []}]}),
    ],
)
def test_a_damaged_model_folder_is_refused_in_one_line(
    tmp_path: Path, name: str, content: dict[str, object]
) -> None:
    """Libraries raise TypeError, AttributeError, classes of their own and a bare Exception."""
    folder = write_model(tmp_path / "model")
    change_json(folder / name, **content)
    refused(folder)


@pytest.mark.parametrize("size", [0, 2**31, 2**64 - 1])
def test_a_damaged_header_of_weights_is_refused(tmp_path: Path, size: int) -> None:
    folder = write_model(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])
    refused(folder)


@pytest.mark.parametrize(
    ("entry", "value", "problem"),
    [
        ("base", {"backbone": 3}, "Expected `str`, got `int` - at `$.base.backbone`"),
        ("base", None, "`$.base`"),
        ("kind", "other", "Invalid enum value 'other'"),
        ("prompts", {"item_text": "title"}, "`$.prompts`"),
    ],
)
def test_entries_of_a_model_are_checked(
    tmp_path: Path, entry: str, value: object, problem: str
) -> None:
    folder = write_model(tmp_path / "model")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["extra"][entry] = value
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(DataError) as error:
        load_model(folder)
    assert problem in str(error.value) and "manifest.json" in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"examples": 3}},
        {"counts": {"rows": "many"}},
        {"counts": {"rows": 10**400}},
        {"files": {"a": None}},
        {"config": {"text": "\ud800"}},
    ],
)
def test_a_manifest_holds_texts_and_numbers(tmp_path: Path, change: dict[str, object]) -> None:
    content = {"stage": "sft", "config": {}, "inputs": {}, **change}
    (tmp_path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match="must be a manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "extra",
    [
        {"protocol": []},
        {"protocol": {"strategy": ["uniform"]}},
        {"protocol": {"repeats": 1}},
        {"prompts": {"list_candidates": "no"}},
        {"base": "compact"},
        {"warnings": "none"},
    ],
)
def test_entries_that_other_stages_read_have_their_types(
    tmp_path: Path, extra: dict[str, object]
) -> None:
    content = {"stage": "sft", "config": {}, "inputs": {}, "extra": extra}
    (tmp_path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json: must be as a stage wrote it"):
        read_manifest(tmp_path)


# A whole number that no float holds.
HUGE = 10**400


@pytest.mark.parametrize(
    "line", ["{", "[]", '"text"', '{"loss": "low"}', "[" * 5000, f'{{"loss": {HUGE}}}']
)
def test_a_damaged_training_log_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(f'{{"step": 1, "loss": null}}\n{line}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"steps\.jsonl: must"):
        read_training_log(path)
    path.write_text('{"step": 1, "loss": null, "margin": 0.5}\n', encoding="utf-8")
    (record,) = read_training_log(path)
    assert repr(record) == "{'step': 1, 'loss': None, 'margin': 0.5}"


def test_texts_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    raw = pa.array([b"\xff\xfe"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 1, raw.buffers())
    table = pa.table({"item_id": ["a"], "title": texts, "popularity": [1], "category": [""]})
    pq.write_table(table, tmp_path / "items.parquet")
    with pytest.raises(DataError, match=r"items\.parquet: must be as a stage wrote it"):
        read_columns(tmp_path / "items.parquet", ITEMS)


RANKS = {
    "example_id": "a:1",
    "user_id": "a",
    "better": 1,
    "tied": 0,
    "scores": [0.5, 0.4],
    "target_index": 0,
    "num_candidates": 3,
    "best": "i",
    "generated": None,
    "valid": None,
}


@pytest.mark.parametrize(
    "change",
    [{"better": 3}, {"better": -1}, {"tied": 2**63 - 1}, {"num_candidates": 2**62}],
)
def test_ranks_that_no_ranking_gives_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    """They are indices: of an array of any length, or outside of it."""
    metrics = {"test_hit_ratio_at_1": 0.5}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("example_id", "user_id", "best", "generated")),
            *((name, pa.int64()) for name in ("better", "tied", "target_index", "num_candidates")),
            ("scores", pa.list_(pa.float64())),
            ("valid", pa.bool_()),
        ]
    )
    for row, is_right in ((RANKS, True), ({**RANKS, **change}, False)):
        pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "ranks.parquet")
        if is_right:
            assert read_result(tmp_path, "test").rank_counts() == [0, 1, 0]
            continue
        with pytest.raises(DataError, match="none that a ranking gives"):
            read_result(tmp_path, "test")
    metrics = {"test_hit_ratio_at_1": 0.5, "test_rows": HUGE}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    with pytest.raises(DataError, match="the metric test_rows is no number"):
        read_result(tmp_path, "test")
    (tmp_path / "metrics.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="has no test_hit_ratio_at_1"):
        read_result(tmp_path, "test")


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**400])
def test_numbers_that_no_library_holds_are_refused(value: int) -> None:
    for config, field in ((SFTConfig, "seed"), (SFTConfig, "rows"), (DriftConfig, "threshold")):
        with pytest.raises(ConfigError, match=rf"^{field}: must be"):
            config(**{field: value})


def test_half_of_a_character_is_no_text_of_a_setting() -> None:
    """YAML can spell it, and no manifest can hold it."""
    with pytest.raises(ConfigError, match=r"^revision: must be text, got '.ud800', which holds"):
        SFTConfig(revision="\ud800")


@pytest.mark.parametrize("read", [read_yaml, load_template])
def test_yaml_of_too_many_brackets_is_refused(
    tmp_path: Path, read: Callable[[str], object]
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("a: " + "[" * 5000)
    with pytest.raises(ConfigError, match="must be YAML"):
        read(str(path))


def test_name_that_is_too_long_for_a_file_is_one_short_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sft", "--preferences", "9" * 5000, "--output", "out"]) == 2
    assert len(capsys.readouterr().err) < 700


def test_a_reason_is_one_line_whatever_was_raised() -> None:
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(ValueError("\n a\nb")) == "a"
    assert len(reason_of(ValueError("x" * 9999))) == 250
