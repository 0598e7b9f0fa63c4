"""Data in which users repeat items: all repeats kept, from the table to the evaluation."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.choices import SPLITS, STRATEGIES
from dynamicpo.core.config import DataConfig, EvaluationConfig, NegativesConfig
from dynamicpo.core.errors import CheckFailedError, ConfigError
from dynamicpo.core.records.manifest import read_manifest
from dynamicpo.core.records.rows import EXAMPLES, read_items, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.evaluation.baselines.simple import make_baseline
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.negatives.audit.audit import audit_candidates
from dynamicpo.negatives.audit.leak_check import audit_split, check_audit
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.runs.parameters import check_parameters

NUM_ITEMS, NUM_USERS, NUM_PLAYS = 30, 60, 24
NEGATIVES = NegativesConfig(exclude="target", num_candidates=8)


def write_plays(folder: Path) -> tuple[str, str]:
    """Users who play three favourites of their own again and again, and now and then another."""
    random = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp\n"]
    for user in range(NUM_USERS):
        favourites = random.choice(NUM_ITEMS, 3, replace=False)
        for play in range(NUM_PLAYS):
            choices = favourites if random.random() < 0.8 else np.arange(NUM_ITEMS)
            lines.append(f"u{user},i{random.choice(choices)},{1000 * play + user}\n")
    (folder / "plays.csv").write_text("".join(lines), encoding="utf-8")
    titles = "".join(f"i{item},Song {item}\n" for item in range(NUM_ITEMS))
    (folder / "songs.csv").write_text(f"item_id,title\n{titles}", encoding="utf-8")
    return str(folder / "plays.csv"), str(folder / "songs.csv")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chain by the commands that a user gives, each stage's output by a short name."""
    folder = tmp_path_factory.mktemp("repeats")
    plays, songs = write_plays(folder)
    commands = rf"""
        prepare-data --interactions {plays} --items {songs} --repeats all --output examples
        sample-negatives --examples examples --exclude target --num-candidates 8 --output rows
        sft --preferences rows --loss-on history --max-steps 60 --batch-size 32 --output sft
        train-preferences --preferences rows --adapter sft --max-steps 5 --num-negatives 7 \
            --output dpo
        evaluate --preferences rows --model sft=sft --model dpo=dpo --resamples 100 --output listed
        evaluate --preferences rows --model sft=sft --candidates catalogue --resamples 100 \
            --output all
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands.replace("\\\n", "").strip().splitlines():
            assert main(command.split()) == 0
    return folder


def tables_of(folder: Path) -> dict[str, pa.Table]:
    return {split: read_rows(folder, split) for split in SPLITS}


def metrics_of(folder: Path, name: str) -> dict[str, float]:
    content: dict[str, float] = json.loads((folder / name / "metrics.json").read_text())
    return content


def test_all_repeats_are_kept_and_equal_rows_count_once(stages: Path) -> None:
    plays = pd.read_csv(stages / "plays.csv")
    manifest = read_manifest(stages / "examples")
    assert manifest.counts["interactions"] == len(plays)
    assert manifest.counts["dropped_repeats"] == 0
    tables = [read_rows(stages / "examples", split, EXAMPLES) for split in SPLITS]
    rows = pa.concat_tables(tables).to_pandas()
    of_user = plays.sort_values("timestamp").groupby("user_id")["item_id"].apply(list)
    for row in rows.itertuples():
        position = int(row.example_id.partition(":")[2])
        sequence = of_user[row.user_id]
        assert row.target == sequence[position]
        assert [*row.history] == sequence[max(0, position - 10) : position]
    is_repeat = [row.target in row.history for row in rows.itertuples()]
    assert np.mean(is_repeat) > 0.7


def test_equal_rows_of_repeats_count_once(tmp_path: Path) -> None:
    plays, songs = write_plays(tmp_path)
    lines = Path(plays).read_text(encoding="utf-8").splitlines()
    Path(plays).write_text("\n".join([*lines, *lines[1:40]]) + "\n", encoding="utf-8")
    manifest = prepare_data(plays, songs, tmp_path / "examples", DataConfig(repeats="all"))
    assert manifest.counts["dropped_duplicates"] == 39
    assert manifest.counts["interactions"] == len(lines) - 1


def test_candidates_may_come_from_the_history(stages: Path) -> None:
    table = read_rows(stages / "rows", "test").to_pylist()
    from_history = [len({*row["rejected"]} & {*row["history"]}) for row in table]
    assert np.mean(from_history) > 0.5
    assert all(row["target"] not in row["rejected"] for row in table)
    assert all(len({*row["candidates"]}) == 8 for row in table)


def test_the_choice_is_stated_everywhere(stages: Path) -> None:
    assert read_manifest(stages / "examples").extra["repeats"].startswith("all interactions")
    for name in ("rows", "listed", "all"):
        protocol = read_manifest(stages / name).extra["protocol"]
        assert (protocol["repeats"], protocol["exclude"]) == ("all", "target")
    for name in ("listed", "all"):
        assert "repeats all" in (stages / name / "report.html").read_text(encoding="utf-8")


def test_the_second_attacker_finds_nothing_in_lists_of_ours(stages: Path) -> None:
    manifest = read_manifest(stages / "rows")
    for split in ("validation", "test"):
        audit = manifest.extra["audit"][split]
        assert not audit["leak"] and not audit["by_history"]["leak"]
        assert f"{split}_audit_by_history_hit_ratio_at_1" in manifest.counts
    found = audit_candidates(stages / "rows", stages / "rows")
    assert found["leak"] is False
    # Repeats are a signal: it is far above 1 / 8, on any lists.
    assert found["by_history"]["chance"] > 0.3


def without_history(row: dict, random: np.random.Generator) -> dict:
    """The row with candidates that leave out its history, as they do for data without repeats."""
    allowed = {f"i{item}" for item in range(NUM_ITEMS)} - {*row["history"], row["target"]}
    drawn = random.choice(sorted(allowed), 7, replace=False)
    return {**row, "candidates": random.permutation([*drawn, row["target"]]).tolist()}


def test_the_second_attacker_finds_lists_that_leave_out_the_history(stages: Path) -> None:
    random = np.random.default_rng(0)
    tables = tables_of(stages / "rows")
    leaking = {
        split: pa.Table.from_pylist(
            [without_history(row, random) for row in table.to_pylist()], schema=table.schema
        )
        for split, table in tables.items()
    }
    items = read_items(stages / "rows")
    audit = audit_split(leaking, "test", items, "target")
    assert audit["by_history"]["leak"] and audit["by_history"]["hit_ratio_at_1"] > 0.75
    with pytest.raises(CheckFailedError, match="picking the candidate that stands in the history"):
        check_audit(audit, "test", allow=False)
    (warning,) = check_audit({**audit, "leak": False}, "test", allow=True)
    assert warning.startswith("LEAK")
    assert "by_history" not in audit_split(leaking, "test", items, "window")


# 'model' needs a model that mines, and has tests of its own.
DRAWN = [name for name in STRATEGIES if name not in ("model", "published")]


@pytest.mark.parametrize("strategy", DRAWN)
def test_every_strategy_passes_both_attackers(stages: Path, tmp_path: Path, strategy: str) -> None:
    for seed in (1, 2, 3):
        config = NegativesConfig(exclude="target", num_candidates=8, strategy=strategy, seed=seed)
        manifest = sample_negatives(stages / "examples", tmp_path / str(seed), config)
        assert not manifest.extra["audit"]["test"]["by_history"]["leak"]


def test_baselines_and_the_catalogue_do_not_exclude_what_was_seen(stages: Path) -> None:
    chance = metrics_of(stages / "all", "random")["test_hit_ratio_at_1"]
    assert chance == pytest.approx(1 / NUM_ITEMS)
    popularity = metrics_of(stages / "all", "popularity")["test_hit_ratio_at_1"]
    for name in ("cooccurrence", "sasrec", "sft"):
        assert metrics_of(stages / "all", name)["test_hit_ratio_at_1"] > popularity + 0.1


def test_cooccurrence_counts_an_item_with_itself_where_users_repeat() -> None:
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"], "popularity": 1})
    train = pa.table({"history": [["a"], ["a"], ["b"]], "target": ["a", "b", "c"]})
    rows = pa.table({"history": [["a"]]})
    # Pairs in both directions: (a, a) twice, (a, b) and (b, c) once each way.
    with_repeats = make_baseline("cooccurrence", items, train, has_repeats=True)(rows)
    np.testing.assert_allclose(with_repeats, [[2 / 3, 1 / np.sqrt(3 * 2), 0]])
    without = make_baseline("cooccurrence", items, train)(rows)
    np.testing.assert_allclose(without, [[0, 1 / np.sqrt(1 * 2), 0]])


@pytest.mark.parametrize(
    ("repeats", "exclude", "message"),
    [
        ("all", "window", "exclude: must be 'target' where the data keep all repeats.*'window'"),
        ("all", "all", "exclude: must be 'target'"),
        ("first", "target", "exclude: 'target' must go with repeats 'all'.*'first'"),
        ("last", "target", "exclude: 'target' must go with repeats 'all'.*'last'"),
    ],
)
def test_exclusions_must_go_with_repeats(
    tmp_path: Path, repeats: str, exclude: str, message: str
) -> None:
    files = write_plays(tmp_path)
    prepare_data(*files, tmp_path / "examples", DataConfig(repeats=repeats, k_core=1))
    config = NegativesConfig(exclude=exclude, num_candidates=4)
    with pytest.raises(ConfigError, match=message):
        sample_negatives(tmp_path / "examples", tmp_path / "rows", config)
    assert not (tmp_path / "rows").exists()
    given = {
        "data_source": "movielens",
        "data_settings": {"repeats": repeats},
        "negatives_settings": {"exclude": exclude},
    }
    with pytest.raises(ConfigError, match=f"negatives_{message}"):
        check_parameters("training", given)


def test_a_pipeline_takes_all_repeats_with_their_exclusion() -> None:
    given = {
        "data_source": "movielens",
        "data_settings": '{"repeats": "all"}',
        "negatives_settings": '{"exclude": "target"}',
    }
    checked = check_parameters("training", given)
    assert (checked["data_repeats"], checked["negatives_exclude"]) == ("all", "target")


def test_published_rows_come_with_their_histories() -> None:
    with pytest.raises(ConfigError, match="repeats: 'all' must go with interactions"):
        DataConfig(source="published", repeats="all")


def test_first_repeats_exclude_what_was_seen_as_before(tmp_path: Path) -> None:
    files = write_plays(tmp_path)
    prepare_data(*files, tmp_path / "examples", DataConfig(k_core=1))
    sample_negatives(tmp_path / "examples", tmp_path / "rows", NegativesConfig(num_candidates=8))
    manifest = read_manifest(tmp_path / "rows")
    assert manifest.extra["protocol"]["repeats"] == "first"
    assert "by_history" not in manifest.extra["audit"]["test"]
    config = EvaluationConfig(candidates="catalogue", resamples=100, sasrec=False)
    evaluate(tmp_path / "rows", {}, tmp_path / "evaluation", config)
    chance = metrics_of(tmp_path / "evaluation", "random")["test_hit_ratio_at_1"]
    histories = read_rows(tmp_path / "rows", "test")["history"].to_pylist()
    expected = np.mean([1 / (NUM_ITEMS - len(history)) for history in histories])
    assert chance == pytest.approx(expected)
