"""The gate promotes what is clearly better on rows that nobody has seen, and nothing else."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamicpo.cli.main import main
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest, read_manifest
from dynamicpo.core.records.outputs import stage_output
from dynamicpo.core.records.rows import PREFERENCES, write_items, write_rows
from dynamicpo.evaluation.result_files import write_result
from dynamicpo.evaluation.results import EvaluatedRows, ModelResult
from dynamicpo.evaluation.served import ServedRanks, write_served
from dynamicpo.promotion.champion import Reason, promote_version
from dynamicpo.promotion.gate import judge_challenger, read_decision
from dynamicpo.promotion.versions import VersionSource, make_version
from tests.fixtures.folders import rewrite_checksums
from tests.fixtures.version_sources import write_model

NUM_USERS = 400
ROWS_PER_USER = 2
CANDIDATES = [f"i{number}" for number in range(20)]
REASON = Reason("ann", "because", {})
# Numbers of candidates before the target, for each row.
Better = Sequence[int]


class Shop:
    """A store of versions and fresh rows: users "u0" on; odd rows are of tail items."""

    def __init__(self, folder: Path, num_users: int = NUM_USERS, fresh: float = 300.0) -> None:
        self.folder = folder
        self.store = str(folder / "store")
        self.users = [f"u{number // ROWS_PER_USER}" for number in range(num_users * ROWS_PER_USER)]
        self.preferences = folder / "preferences"
        with stage_output(self.preferences, Manifest("sample_negatives", {}, {})) as partial:
            write_items(partial, shop_items())
            # Half of the users have training rows.
            known = self.users[: len(self.users) // 2]
            write_rows(partial, "train", rows_of(known, "train", 100.0))
            write_rows(partial, "validation", rows_of(known, "validation", 200.0))
            write_rows(partial, "test", rows_of(self.users, "test", fresh))
        self.fingerprint = read_manifest(self.preferences).fingerprint

    def model(self, name: str, trained_on: str = "") -> Path:
        path = self.folder / "models" / name
        if not path.exists():
            write_model(path, name.encode(), trained_on or self.fingerprint)
        return path

    def champion(self, name: str) -> str:
        """Publish a model and promote it."""
        evaluation = self.evaluate(f"old-{name}", {name: [0] * len(self.users)})
        source = VersionSource(self.model(name), evaluation, self.preferences)
        version = make_version(source, self.store).name
        promote_version(self.store, version, REASON)
        return version

    def evaluate(
        self, folder: str, better: Mapping[str, Better], valid: Mapping[str, bool] | None = None
    ) -> Path:
        """An evaluation in which each model ranks the targets as given."""
        models = {}
        for name in better:
            manifest = read_manifest(self.model(name))
            models[name] = {"fingerprint": manifest.fingerprint, "inputs": manifest.inputs}
        extra = {"models": models, "protocol": {"split": "test"}, "warnings": []}
        inputs = {"preferences": self.fingerprint}
        manifest = Manifest("evaluate", {"split": "test"}, inputs, extra=extra)
        path = self.folder / folder
        with stage_output(path, manifest) as partial:
            table = rows_of(self.users, "test", 300.0)
            pq.write_table(table, partial / "rows.parquet")
            write_items(partial, shop_items())
            for name, before in better.items():
                self._write(partial / name, before)
        return path

    def _write(self, folder: Path, before: Better) -> None:
        size = len(self.users)
        ids = [f"test-{number}" for number in range(size)]
        rows = EvaluatedRows("test", ids, self.users, np.zeros(size, dtype=int))
        result = ModelResult(
            rows=rows,
            better=np.array(before),
            tied=np.zeros(size, dtype=int),
            best=[CANDIDATES[number % 20] for number in range(size)],
            num_candidates=np.full(size, 20),
            scores=np.zeros((size, 20)),
            metrics={"test_hit_ratio_at_1": 0.5},
        )
        write_result(folder, result)

    def judge(self, evaluation: Path, **settings: Any) -> dict[str, Any]:
        output = self.folder / f"decision-{evaluation.name}-{len(list(self.folder.iterdir()))}"
        config = GateConfig(store=self.store, challenger="new", **settings)
        judge_challenger(evaluation, self.preferences, output, config)
        decision = json.loads((output / "decision.json").read_text())
        decision["folder"] = output
        return decision


def shop_items() -> pd.DataFrame:
    popularity = [100 if number < 4 else 1 for number in range(20)]
    columns = {"item_id": CANDIDATES, "title": CANDIDATES, "popularity": popularity}
    return pd.DataFrame({**columns, "category": None})


def rows_of(users: Sequence[str], split: str, time: float) -> pa.Table:
    rows = []
    for number, user in enumerate(users):
        rows.append(
            {
                "example_id": f"{split}-{number}",
                "user_id": user,
                "history": ["i1"],
                "target": "i0" if number % 2 == 0 else "i9",
                "timestamp": time + number / 100,
                "candidates": CANDIDATES,
                "rejected": CANDIDATES[1:],
            }
        )
    columns = {name: [row[name] for row in rows] for name in PREFERENCES.names}
    return pa.table(columns, schema=PREFERENCES)


def ranks(size: int, seed: int, share_of_hits: float) -> list[int]:
    """Targets that come first in a share of the rows, else last."""
    draws = np.random.default_rng(seed).random(size)
    return [0 if draw < share_of_hits else 19 for draw in draws]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_first_version_needs_no_comparison(shop: Shop) -> None:
    evaluation = shop.evaluate("fresh", {"new": ranks(800, 0, 0.3)})
    decision = shop.judge(evaluation)
    assert decision["promotes"]
    assert decision["reasons"] == ["Promote new: there is no champion yet."]
    text = (decision["folder"] / "decision.md").read_text()
    # No table of nothing, and no rule that nothing was held against.
    assert "|" not in text and "Rule" not in text
    assert "Guardrails" not in (decision["folder"] / "report.html").read_text()
    assert decision["champion"] == ""


def test_clear_gain_is_promoted_and_the_page_says_why(shop: Shop) -> None:
    version = shop.champion("old")
    old = ranks(800, 0, 0.3)
    new = [0 if number % 8 == 0 else before for number, before in enumerate(old)]
    decision = shop.judge(shop.evaluate("fresh", {"old": old, "new": new}), margin=0.05)
    assert decision["promotes"], decision["reasons"]
    assert decision["champion"] == version
    difference = decision["differences"][version]
    gain = (np.array(new) == 0).mean() - (np.array(old) == 0).mean()
    assert difference["difference"] == pytest.approx(gain)
    assert 0 < difference["low"] < gain < difference["high"]
    for name in ("report.html", "decision.md"):
        text = (decision["folder"] / name).read_text()
        assert "Promote new: ndcg_at_10 differs by +" in text
        assert "HitRatio@10, tail items" in text


@pytest.mark.parametrize("rule", ["superior", "not-worse"])
def test_same_ranking_is_promoted_for_freshness_only(shop: Shop, rule: str) -> None:
    shop.champion("old")
    same = ranks(800, 0, 0.3)
    noise = [19 - rank if number % 100 == 7 else rank for number, rank in enumerate(same)]
    decision = shop.judge(
        shop.evaluate("fresh", {"old": same, "new": noise}), rule=rule, margin=0.05
    )
    assert decision["promotes"] == (rule == "not-worse"), decision["reasons"]


def test_permuted_targets_are_kept_out(shop: Shop) -> None:
    shop.champion("old")
    permuted = [(number * 7) % 20 for number in range(800)]
    decision = shop.judge(shop.evaluate("fresh", {"old": ranks(800, 0, 0.3), "new": permuted}))
    assert not decision["promotes"]
    assert decision["reasons"][0].startswith("Keep ")


def test_too_few_users_are_named_with_the_number_that_it_takes(tmp_path: Path) -> None:
    shop = Shop(tmp_path, num_users=40)
    shop.champion("old")
    decision = shop.judge(
        shop.evaluate("fresh", {"old": ranks(80, 0, 0.2), "new": ranks(80, 1, 0.9)}), min_users=20
    )
    assert not decision["promotes"]
    assert decision["users_needed"] > 40
    # Errors fall with the root of the number of users.
    expected = 40 * (decision["detectable"] / 0.01) ** 2
    assert decision["users_needed"] == pytest.approx(expected, abs=1)
    assert "Too few users: 40" in decision["reasons"][1]


def test_users_that_are_enough_for_the_margin_are_still_a_minimum(shop: Shop) -> None:
    shop.champion("old")
    old = ranks(800, 0, 0.3)
    new = [0 if number % 8 == 0 else before for number, before in enumerate(old)]
    evaluation = shop.evaluate("fresh", {"old": old, "new": new})
    assert not shop.judge(evaluation, margin=0.05, min_users=401)["promotes"]
    assert shop.judge(evaluation, margin=0.05, min_users=400)["promotes"]


@pytest.mark.parametrize(
    ("guard", "is_hurt"),
    [
        ("HitRatio@10, tail items", lambda number: number % 2 == 1),
        ("HitRatio@10, new users", lambda number: number >= 400),
    ],
)
def test_gain_at_the_cost_of_a_group_is_kept_out(shop: Shop, guard: str, is_hurt: Any) -> None:
    shop.champion("old")
    # Everybody's item is among the ten; the challenger loses a group's and ranks others first.
    old = [9] * 800
    new = [19 if is_hurt(number) and number % 5 == 1 else 0 for number in range(800)]
    decision = shop.judge(shop.evaluate("fresh", {"old": old, "new": new}), margin=0.5)
    assert next(iter(decision["differences"].values()))["low"] > 0
    assert decision["guards"][guard]["failed"]
    assert not decision["promotes"]
    assert any(guard in reason for reason in decision["reasons"])


def test_freshness_does_not_go_down_step_by_step(shop: Shop) -> None:
    first = shop.champion("best")
    shop.champion("older")
    best = ranks(800, 0, 0.5)
    older = [19 if number % 12 == 0 else rank for number, rank in enumerate(best)]
    new = [19 if number % 12 in (0, 6) else rank for number, rank in enumerate(best)]
    models = {"best": best, "older": older, "new": new}
    settings = {"rule": "not-worse", "margin": 0.065, "guard_margin": 0.9}
    decision = shop.judge(shop.evaluate("fresh", models), **settings)
    assert not decision["promotes"]
    (objection,) = decision["reasons"][1:]
    # The present champion alone would have let it pass.
    assert objection.startswith(f"Against {first[:12]} the lower bound")


def test_a_model_that_was_published_twice_is_faced_as_the_later_version(shop: Shop) -> None:
    shop.champion("old")
    again = shop.evaluate("again", {"old": [1] * 800})
    later = make_version(VersionSource(shop.model("old"), again, shop.preferences), shop.store).name
    promote_version(shop.store, later, REASON)
    models = {"old": ranks(800, 0, 0.3), "new": ranks(800, 1, 0.9)}
    decision = shop.judge(shop.evaluate("fresh", models), rule="not-worse", margin=0.05)
    assert decision["champion"] == later
    assert [*decision["differences"]] == [later]


def test_rows_that_a_model_was_trained_on_are_refused(tmp_path: Path) -> None:
    shop = Shop(tmp_path, fresh=150.0)
    shop.champion("old")
    evaluation = shop.evaluate("fresh", {"old": ranks(800, 0, 0.3), "new": ranks(800, 1, 0.9)})
    with pytest.raises(DataError, match="must be later than all that new was trained"):
        shop.judge(evaluation)


def test_rows_that_the_champion_was_trained_on_are_refused(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamicpo.promotion.version_cards.seen_until", lambda _: 5000.0)
    version = shop.champion("old")
    evaluation = shop.evaluate("fresh", {"old": ranks(800, 0, 0.3), "new": ranks(800, 1, 0.9)})
    with pytest.raises(DataError, match=f"must be later than all that version {version[:12]}"):
        shop.judge(evaluation)


def test_champion_that_was_not_evaluated_is_named(shop: Shop) -> None:
    version = shop.champion("old")
    with pytest.raises(DataError, match=f"must have version {version} as a model"):
        shop.judge(shop.evaluate("fresh", {"new": ranks(800, 1, 0.9)}))


def test_challenger_of_unknown_training_is_refused(shop: Shop) -> None:
    shop.model("new", trained_on="0123456789abcdef")
    with pytest.raises(DataError, match="must have been trained on the training rows"):
        shop.judge(shop.evaluate("fresh", {"new": ranks(800, 1, 0.9)}))


def test_unknown_challenger_is_named(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="unknown name 'new'; choose from newer"):
        shop.judge(shop.evaluate("fresh", {"newer": ranks(800, 1, 0.9)}))


def test_a_decision_promotes_by_the_command(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    old_version = shop.champion("old")
    old = ranks(800, 0, 0.3)
    new = [0 if number % 8 == 0 else before for number, before in enumerate(old)]
    evaluation = shop.evaluate("fresh", {"old": old, "new": new})
    source = VersionSource(shop.model("new"), shop.evaluate("own", {"new": new}), shop.preferences)
    version = make_version(source, shop.store).name
    promote = ["promote", version, "--store", shop.store, "--who", "ann", "--decision"]
    keep = shop.judge(evaluation, margin=0.001)
    assert main([*promote, str(keep["folder"])]) == 3
    assert "must decide for the challenger, but: Keep" in capsys.readouterr().err
    output = shop.folder / "decision"
    argv = ["judge-challenger", "--fresh-evaluation", str(evaluation), "--challenger", "new"]
    argv += ["--preferences", str(shop.preferences), "--store", shop.store, "--margin", "0.05"]
    assert main([*argv, "--output", str(output)]) == 0
    assert "Promote new: ndcg_at_10 differs" in capsys.readouterr().out
    assert main([*promote, str(output)]) == 0
    assert main(["list-versions", "--store", shop.store, "--json"]) == 0
    move = json.loads(capsys.readouterr().out.partition("\n")[2])["moves"][-1]
    assert (move["version"], move["numbers"]["champion"]) == (version, old_version)
    assert move["why"].startswith("Promote new: ndcg_at_10 differs")
    assert main([*promote, str(output)]) == 0
    # Decided against the old champion: it must not win against another one.
    shop.champion("third")
    assert main([*promote, str(output)]) == 3


def test_a_decision_on_another_model_promotes_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    version = shop.champion("old")
    roll = shop.evaluate("fresh", {"old": ranks(800, 0, 0.3), "new": [0] * 800})
    decision = shop.judge(roll, margin=0.5)
    argv = ["promote", version, "--store", shop.store, "--decision", str(decision["folder"])]
    assert main(argv) == 2
    assert "must be the decision on version" in capsys.readouterr().err


def serve(folder: Path, name: str, places: Better, is_listed: Sequence[bool] | None = None) -> None:
    """Add what a model would serve to an evaluation: the place of each next item."""
    size = len(places)
    ids = [f"test-{number}" for number in range(size)]
    rows = EvaluatedRows("test", ids, ids, np.zeros(size, dtype=int))
    listed = np.ones(size, dtype=bool) if is_listed is None else np.array(is_listed)
    with reopened(folder):
        ranks = ServedRanks(listed, np.array(places), np.zeros(size, dtype=int))
        write_served(folder / name, rows, ranks)


@contextlib.contextmanager
def reopened(folder: Path) -> Iterator[None]:
    """Let a finished folder name its files as they are after the block."""
    yield
    rewrite_checksums(folder)


def test_what_is_served_decides_where_it_was_measured(shop: Shop) -> None:
    version = shop.champion("old")
    same = ranks(800, 0, 0.5)
    evaluation = shop.evaluate("fresh", {"old": same, "new": same})
    serve(evaluation, "old", [0] * 800, [number % 4 == 0 for number in range(800)])
    serve(evaluation, "new", [0] * 800, [number % 4 < 2 for number in range(800)])
    decision = shop.judge(evaluation, margin=0.05)
    assert decision["promotes"], decision["reasons"]
    assert decision["metric"] == "served_ndcg_at_10"
    assert decision["differences"][version]["difference"] == pytest.approx(0.25)
    # What does not decide stands beside it.
    assert decision["beside"]["hit_ratio_at_1"]["difference"] == 0
    assert set(decision["beside"]) == {"hit_ratio_at_1", "ndcg_at_10"}
    text = (decision["folder"] / "report.html").read_text()
    assert "served_ndcg_at_10 must be above" in text and "hit_ratio_at_1" in text
    listed = shop.judge(evaluation, metric="ndcg_at_10", margin=0.05)
    assert (listed["metric"], listed["promotes"]) == ("ndcg_at_10", False)


def test_served_metric_that_was_not_measured_is_named(shop: Shop) -> None:
    shop.champion("old")
    evaluation = shop.evaluate("fresh", {"old": [0] * 800, "new": [0] * 800})
    serve(evaluation, "new", [0] * 800)
    # Measured for one alone: what all have decides.
    assert shop.judge(evaluation)["metric"] == "ndcg_at_10"
    with pytest.raises(DataError, match=r"served_ndcg_at_10.*Evaluate with --generator"):
        shop.judge(evaluation, metric="served_ndcg_at_10")


def test_page_gives_the_result_without_items_that_one_does_not_know(shop: Shop) -> None:
    version = shop.champion("old")
    # Every tenth next item is new: the champion ranks it last, the challenger first.
    old = [19 if number % 10 == 0 else 3 for number in range(800)]
    new = [0 if number % 10 == 0 else 3 for number in range(800)]
    evaluation = shop.evaluate("fresh", {"old": old, "new": new})
    path = evaluation / "old" / "ranks.parquet"
    with reopened(evaluation):
        table = pq.read_table(path)
        scores = np.zeros((800, 20))
        scores[::10, 0] = -np.inf
        column = pa.array(list(scores), pa.list_(pa.float64()))
        place = table.column_names.index("scores")
        pq.write_table(table.set_column(place, "scores", column), path)
    decision = shop.judge(evaluation, margin=0.05)
    assert decision["promotes"], decision["reasons"]
    part = decision["unknown_items"][version]
    assert (part["rows"], part["share"]) == (80, 0.1)
    assert part["without"]["difference"] == 0
    for name in ("report.html", "decision.md"):
        text = (decision["folder"] / name).read_text()
        assert f"10 % of the rows challenger or {version[:12]} does not know" in text.replace(
            "\N{NO-BREAK SPACE}", " "
        )


@pytest.mark.parametrize(
    ("share", "sentence"),
    [(0.9, "Co-occurrence beats new and champion"), (0.0, "Co-occurrence beats neither new nor")],
)
def test_page_says_whether_cooccurrence_beats_both(shop: Shop, share: float, sentence: str) -> None:
    version = shop.champion("old")
    models = {"old": ranks(800, 0, 0.3), "new": ranks(800, 1, 0.3)}
    evaluation = shop.evaluate("fresh", models)
    with reopened(evaluation):
        shop._write(evaluation / "cooccurrence", ranks(800, 2, share))
    decision = shop.judge(evaluation)
    assert any(note.startswith(sentence) for note in decision["notes"])
    assert set(decision["baseline"]) == {"new", f"champion {version[:12]}"}
    assert sentence in (decision["folder"] / "decision.md").read_text()


def test_rows_that_the_champion_was_published_with_are_said(shop: Shop) -> None:
    shop.champion("old")
    evaluation = shop.evaluate("fresh", {"old": ranks(800, 0, 0.3), "new": ranks(800, 1, 0.3)})
    notes = shop.judge(evaluation)["notes"]
    assert any("100" in note and "published with" in note for note in notes)


def test_coverage_and_valid_answers_are_guarded(shop: Shop) -> None:
    shop.champion("old")
    old = [9] * 800
    evaluation = shop.evaluate("fresh", {"old": old, "new": [0] * 800})
    with reopened(evaluation):
        for name, best, valid in (("old", CANDIDATES, True), ("new", ["i0"], False)):
            path = evaluation / name / "ranks.parquet"
            table = pq.read_table(path)
            items = [best[number % len(best)] for number in range(800)]
            for column, values in (("best", items), ("valid", [valid] * 800)):
                place = table.column_names.index(column)
                array = pa.array(values, table.schema.field(column).type)
                table = table.set_column(place, column, array)
            pq.write_table(table, path)
    decision = shop.judge(evaluation, margin=0.5)
    assert not decision["promotes"]
    failed = {name for name, guard in decision["guards"].items() if guard["failed"]}
    assert failed == {"coverage", "ValidRatio"}


@pytest.mark.parametrize(
    ("part", "entry"),
    [("config", "split"), ("extra", "models"), ("inputs", "preferences")],
)
def test_an_evaluation_without_an_entry_is_refused(shop: Shop, part: str, entry: str) -> None:
    evaluation = shop.evaluate("fresh", {"new": [0] * len(shop.users)})
    path = evaluation / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[part][entry]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=f"fresh/manifest.json: must be as a stage.*{entry}"):
        shop.judge(evaluation)


def test_a_decision_without_its_content_promotes_nothing(shop: Shop) -> None:
    decision = shop.judge(shop.evaluate("fresh", {"new": [0] * len(shop.users)}))
    path = decision["folder"] / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["extra"]["decision"]["promotes"] = "yes"
    path.write_text(json.dumps(manifest))
    source = VersionSource(shop.model("new"), shop.folder / "fresh", shop.preferences)
    version = make_version(source, shop.store)
    with pytest.raises(DataError, match="manifest.json: must be as a stage wrote it.*promotes"):
        read_decision(decision["folder"], version)


def test_rows_that_are_not_those_of_the_evaluation_are_refused(shop: Shop) -> None:
    evaluation = shop.evaluate("fresh", {"new": [0] * len(shop.users)})
    table = rows_of(shop.users, "other", 300.0)
    pq.write_table(table, evaluation / "rows.parquet")
    rewrite_checksums(evaluation)
    with pytest.raises(DataError, match="must hold the rows of the evaluation, but 800 of 800"):
        shop.judge(evaluation)
