"""Candidates follow their protocol, depend on the row alone, and have their distributions."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from dynamicpo.core.choices import SPLITS
from dynamicpo.core.config import DataConfig, NegativesConfig
from dynamicpo.core.errors import CheckFailedError, ConfigError, DataError
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.core.records.outputs import stage_output
from dynamicpo.core.records.rows import (
    EXAMPLES,
    PREFERENCES,
    read_items,
    read_rows,
    write_items,
    write_rows,
)
from dynamicpo.data.prepare import prepare_data
from dynamicpo.negatives.sampling import sample_negatives

FIXTURES = Path(__file__).parents[2] / "fixtures"
STRATEGIES = ("uniform", "popularity", "popularity-matched", "hard")


def examples_folder(
    folder: Path,
    rows: pd.DataFrame,
    items: pd.DataFrame | None = None,
    extra: dict[str, Any] | None = None,
) -> Path:
    """A finished examples folder from `user_id, position, history, target, split` and items."""
    if items is None:
        names = sorted({*rows["target"], *rows["history"].explode()})
        items = pd.DataFrame({"item_id": names, "title": names, "popularity": 1, "category": ""})
    rows = rows.assign(
        example_id=rows["user_id"] + ":" + rows["position"].astype(str),
        timestamp=rows["position"].astype(float),
    )
    schema = (
        EXAMPLES
        if "candidates" not in rows
        else EXAMPLES.append(pa.field("candidates", pa.list_(pa.string())))
    )
    manifest = Manifest("prepare_data", {}, {}, extra=extra or {})
    with stage_output(folder, manifest) as partial:
        for split in SPLITS:
            table = pa.Table.from_pandas(
                rows[rows["split"] == split], schema=schema, preserve_index=False
            )
            write_rows(partial, split, table)
        write_items(partial, items)
    return folder


def sliding_rows(num_users: int, num_items: int, length: int = 12, seed: int = 0) -> pd.DataFrame:
    """Users with random sequences of distinct items; their last two rows are held out."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        sequence = [f"i{item:04d}" for item in rng.permutation(num_items)[:length]]
        for position in range(3, length):
            split = {length - 1: "test", length - 2: "validation"}.get(position, "train")
            rows.append(
                (
                    f"u{user}",
                    position,
                    sequence[max(0, position - 5) : position],
                    sequence[position],
                    split,
                )
            )
    return pd.DataFrame(rows, columns=["user_id", "position", "history", "target", "split"])


def catalogue(num_items: int, **columns: Any) -> pd.DataFrame:
    names = [f"i{item:04d}" for item in range(num_items)]
    return pd.DataFrame(
        {"item_id": names, "title": names, "popularity": 1, "category": ""} | columns
    )


def preferences(folder: Path) -> pd.DataFrame:
    """All rows of a preferences folder, by split and id."""
    parts = [
        read_rows(folder, split, PREFERENCES).to_pandas().assign(split=split) for split in SPLITS
    ]
    return pd.concat(parts).set_index(["split", "example_id"])


def sampled(folder: Path, **config: Any) -> pd.DataFrame:
    output = folder.with_name(folder.name + "-" + "-".join(map(str, config.values())))
    sample_negatives(folder, output, NegativesConfig(**config))
    return preferences(output)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real sequences: the fixture's interactions."""
    folder = tmp_path_factory.mktemp("prepared") / "examples"
    sources = [str(FIXTURES / f"{name}.csv") for name in ("interactions", "items")]
    prepare_data(*sources, folder, DataConfig(k_core=1))
    return folder


@pytest.fixture(scope="module")
def lastfm(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real LastFM rows."""
    folder = tmp_path_factory.mktemp("lastfm") / "examples"
    prepare_data(str(shared / "data" / "lastfm"), "", folder, DataConfig(source="published"))
    return folder


def lists(frame: pd.DataFrame) -> Iterator[tuple[str, list[str], list[str], list[str]]]:
    columns = ("target", "history", "candidates", "rejected")
    for target, *rest in zip(*(frame[name] for name in columns), strict=True):
        yield target, *(list(values) for values in rest)


def check_rows(frame: pd.DataFrame, num_candidates: int) -> None:
    for target, history, candidates, rejected in lists(frame):
        assert len(candidates) == num_candidates
        assert len({*candidates}) == num_candidates
        assert sorted(rejected) == sorted({*candidates} - {target})
        assert target in candidates
        assert not {*rejected} & {*history}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("exclude", ["window", "past"])
def test_every_row_holds_the_protocol(prepared: Path, strategy: str, exclude: str) -> None:
    frame = sampled(prepared, strategy=strategy, exclude=exclude, num_candidates=15)
    assert len(frame) == sum(len(read_rows(prepared, split, EXAMPLES)) for split in SPLITS)
    check_rows(frame, 15)
    interactions = pd.read_csv(FIXTURES / "interactions.csv")
    sequences = interactions.sort_values("timestamp").groupby("user_id")["item_id"].agg(list)
    if exclude == "past":
        for (_, name), (_, _, candidates, _) in zip(frame.index, lists(frame), strict=True):
            user, position = name.split(":")
            assert not {*candidates} & {*sequences[user][: int(position)]}


def test_exclude_all_spares_what_the_user_takes_later(tmp_path: Path) -> None:
    folder = examples_folder(tmp_path / "e", sliding_rows(20, 40), catalogue(40))
    frame = sampled(folder, exclude="all")
    targets_of = frame.groupby("user_id")["target"].agg(set)
    check_rows(frame, 20)
    for user, (target, _, candidates, _) in zip(frame["user_id"], lists(frame), strict=True):
        assert targets_of[user] & {*candidates} == {target}
    later = sampled(folder, exclude="past")
    shared = [
        len(targets_of[user] & {*row[2]})
        for user, row in zip(later["user_id"], lists(later), strict=True)
    ]
    assert (
        max(shared) > 1
    )  # an item of the user's future is a candidate where only the past is excluded


def test_past_is_exactly_what_came_before(tmp_path: Path) -> None:
    """With as many candidates as there are allowed items, the candidates are all allowed items."""
    rows = sliding_rows(6, 16, length=16)
    folder = examples_folder(
        tmp_path / "e", rows[rows["position"] == 7].assign(split="train"), catalogue(16)
    )
    # Of the first 7 items the row at 7 shows 5 only; no earlier rows tell of the others.
    assert all(
        len(row[2]) == 11 for row in lists(sampled(folder, exclude="past", num_candidates=11))
    )
    rows = rows[rows["position"] <= 7].assign(split="train")
    folder = examples_folder(tmp_path / "f", rows, catalogue(16))
    frame = sampled(folder, exclude="past", num_candidates=9)
    for (_, name), (_, _, candidates, _) in zip(frame.index, lists(frame), strict=True):
        if name.endswith(":7"):
            user_rows = rows[rows["user_id"] == name.split(":")[0]]
            past = {*user_rows["target"], *user_rows["history"].explode()} - {
                user_rows["target"].iloc[-1]
            }
            assert len(past) == 7
            assert {*candidates} == {f"i{item:04d}" for item in range(16)} - past


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_row_does_not_depend_on_order_or_on_other_rows(tmp_path: Path, strategy: str) -> None:
    """Shuffled rows, and rows in two shards, get what they get together, as with many workers."""
    rows, items = sliding_rows(60, 50), catalogue(50, popularity=1 + np.arange(50) % 7)
    together = sampled(
        examples_folder(tmp_path / "whole", rows, items), strategy=strategy, num_candidates=12
    )
    mixed = rows.sample(frac=1, random_state=1)
    shuffled = sampled(
        examples_folder(tmp_path / "mixed", mixed, items), strategy=strategy, num_candidates=12
    )
    assert shuffled.index.tolist() != together.index.tolist()
    pd.testing.assert_frame_equal(shuffled.sort_index(), together.sort_index())
    test_rows, train = rows[rows["split"] == "test"], rows[rows["split"] == "train"]
    for shard in (test_rows[:25], test_rows[25:]):
        folder = examples_folder(
            tmp_path / f"shard{shard.index[0]}", pd.concat([train, shard]), items
        )
        part = sampled(folder, strategy=strategy, num_candidates=12)
        pd.testing.assert_frame_equal(part, together.loc[part.index])


def test_bulk_size_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = examples_folder(tmp_path / "e", sliding_rows(30, 33), catalogue(33))
    manifest = sample_negatives(folder, tmp_path / "one", NegativesConfig())
    monkeypatch.setattr("dynamicpo.negatives.drawing._CELLS_AT_ONCE", 150)
    monkeypatch.setattr("dynamicpo.negatives.weighted_sampler._RESERVOIR_CELLS", 100)
    assert sample_negatives(folder, tmp_path / "two", NegativesConfig()).files == manifest.files


def test_seed_and_split_change_the_draws_and_nothing_else_does(tmp_path: Path) -> None:
    rows = sliding_rows(40, 200)
    folder = examples_folder(tmp_path / "e", rows, catalogue(200))
    first, again, other = (
        sampled(folder, seed=seed, hard_share=note) for seed, note in ((0, 0.1), (0, 0.2), (1, 0.1))
    )
    pd.testing.assert_frame_equal(first, again)
    same = [row == other_row for row, other_row in zip(lists(first), lists(other), strict=True)]
    assert not any(same)
    moved = rows.assign(split=rows["split"].replace({"train": "test", "test": "train"}))
    swapped = sampled(examples_folder(tmp_path / "swapped", moved, catalogue(200)))
    name = first.loc["train"].index[0]
    assert list(swapped.loc[("test", name), "rejected"]) != list(
        first.loc[("train", name), "rejected"]
    )


def test_candidates_do_not_depend_on_the_target(tmp_path: Path) -> None:
    """The trap of the published lists: rows with one target must not share a list."""
    rows = sliding_rows(200, 300).assign(target="i0000")
    rows["history"] = rows["history"].map(lambda items: [item for item in items if item != "i0000"])
    frame = sampled(examples_folder(tmp_path / "e", rows, catalogue(300)))
    assert frame["candidates"].map(tuple).is_unique
    positions = [candidates.index("i0000") for _, _, candidates, _ in lists(frame)]
    assert stats.chisquare(np.bincount(positions, minlength=20)).pvalue > 1e-3


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_position_of_the_target_is_uniform(tmp_path: Path, strategy: str) -> None:
    items = catalogue(80, popularity=np.arange(80))
    # Targets here are not as popular as the items table says: lists by popularity show that.
    folder = examples_folder(tmp_path / "e", sliding_rows(400, 80), items)
    frame = sampled(folder, strategy=strategy, allow_leak=strategy == "popularity")
    positions = np.array([candidates.index(target) for target, _, candidates, _ in lists(frame)])
    assert stats.chisquare(np.bincount(positions, minlength=20)).pvalue > 1e-3


def one_row_each(count: int) -> pd.DataFrame:
    """Rows with one history and one target, so that all may draw the same items."""
    names = ["i0000", "i0001", "i0002"]
    return pd.DataFrame(
        {
            "user_id": [f"u{row}" for row in range(count)],
            "position": 3,
            "history": [names] * count,
            "target": "i0003",
        }
    ).assign(split="train")


def test_uniform_draws_are_uniform(tmp_path: Path) -> None:
    frame = sampled(
        examples_folder(tmp_path / "e", one_row_each(3000), catalogue(24)), num_candidates=6
    )
    counts = frame["rejected"].explode().value_counts()
    assert set(counts.index) == {f"i{item:04d}" for item in range(4, 24)}
    # Five of twenty without replacement vary less than independent draws: (20 - 5) / (20 - 1).
    statistic = stats.chisquare(counts).statistic * (20 - 1) / (20 - 5)
    assert 1e-3 < stats.chi2.sf(statistic, 19) < 1 - 1e-3


def test_popularity_draws_follow_the_count_to_the_power_of_three_quarters(tmp_path: Path) -> None:
    items = catalogue(30, popularity=np.arange(30) ** 2)
    rows = one_row_each(6000)
    frame = sampled(
        examples_folder(tmp_path / "e", rows, items), strategy="popularity", num_candidates=2
    )
    counts = frame["rejected"].explode().value_counts().reindex(items["item_id"][4:], fill_value=0)
    weights = (np.arange(4, 30) ** 2) ** 0.75
    assert stats.chisquare(counts, weights / weights.sum() * len(rows)).pvalue > 1e-3
    assert stats.chisquare(counts, np.full(26, len(rows) / 26)).pvalue < 1e-9


def test_weighted_order_for_tight_catalogues_has_the_same_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws from the stream and from the weighted order of the catalogue agree with each other."""
    items = catalogue(10, popularity=[1, 1, 1, 1, 2, 400, 3, 50, 2, 9])
    folder = examples_folder(tmp_path / "e", one_row_each(8000), items)
    frames = [sampled(folder, strategy="popularity", num_candidates=4)]
    monkeypatch.setattr("dynamicpo.negatives.weighted_sampler._ROUNDS", 0)
    frames.append(sampled(folder, strategy="popularity", num_candidates=4, seed=5))
    sets = [
        frame["rejected"].map(lambda names: "".join(sorted(names))).value_counts()
        for frame in frames
    ]
    table = pd.concat(sets, axis=1).fillna(0)
    table = table[table.sum(axis=1) > 20]
    assert len(table) > 8
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_items_never_seen_come_last_in_popularity_draws(tmp_path: Path) -> None:
    items = catalogue(20, popularity=[5] * 10 + [0] * 10)
    frame = sampled(
        examples_folder(tmp_path / "e", one_row_each(300), items),
        strategy="popularity",
        num_candidates=12,
    )
    for _, _, _, rejected in lists(frame):
        assert {f"i{item:04d}" for item in range(4, 10)} <= {*rejected}
        assert len(rejected) == 11
    unseen = (
        frame["rejected"]
        .explode()
        .value_counts()
        .reindex([f"i{item:04d}" for item in range(10, 20)])
    )
    assert unseen.min() > 0.5 * 300 * 5 / 10


def test_hard_negatives_are_the_nearest_and_evenly_spread(tmp_path: Path) -> None:
    """Two worlds of items that never meet: hard negatives come from the target's own."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(300):
        world = user % 2
        sequence = [f"i{2 * item + world:04d}" for item in rng.permutation(60)[:8]]
        rows += [
            (f"u{user}", position, sequence[:position], sequence[position], "train")
            for position in range(3, 8)
        ]
    frame = pd.DataFrame(rows, columns=["user_id", "position", "history", "target", "split"])
    folder = examples_folder(tmp_path / "e", frame, catalogue(120))
    # 19 negatives: 10 from the target's world, and half of the 9 others.
    hard_rows = sampled(folder, strategy="hard")
    is_same_world = np.array(
        [
            [(int(item[1:]) - int(target[1:])) % 2 == 0 for item in rejected]
            for target, _, _, rejected in lists(hard_rows)
        ]
    )
    expected = (10 + 9 * (60 - 5 - 1 - 10) / (120 - 5 - 1 - 10)) / 19
    assert is_same_world.mean() == pytest.approx(expected, abs=0.02)
    by_position = is_same_world.mean(axis=0)
    assert np.abs(by_position - is_same_world.mean()).max() < 4 * np.sqrt(0.25 / len(is_same_world))
    assert by_position[:15].mean() == pytest.approx(is_same_world.mean(), abs=0.01)
    none = sampled(folder, strategy="hard", hard_share=0.0)
    pd.testing.assert_frame_equal(none, sampled(folder, strategy="uniform"))
    manifest = sample_negatives(
        folder, tmp_path / "all", NegativesConfig(strategy="hard", hard_share=1.0)
    )
    assert manifest.counts["train_hard_negatives"] == 19 * len(frame)


def test_held_out_rows_get_no_hard_negatives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = examples_folder(tmp_path / "e", sliding_rows(40, 60), catalogue(60))
    hard, uniform = sampled(folder, strategy="hard"), sampled(folder, strategy="uniform")
    held_out = ["validation", "test"]
    pd.testing.assert_frame_equal(hard.loc[held_out], uniform.loc[held_out])
    assert not hard.loc["train"]["rejected"].equals(uniform.loc["train"]["rejected"])
    assert "uniform ones for validation and test" in caplog.text


def test_matched_negatives_come_from_the_targets_stratum(tmp_path: Path) -> None:
    """125 items in strata of 3 x 8, the last one larger. Equals in popularity go by item id."""
    popularity = np.arange(125)[::-1] // 2
    folder = examples_folder(
        tmp_path / "e", sliding_rows(200, 125, length=8), catalogue(125, popularity=popularity)
    )
    config = NegativesConfig(strategy="popularity-matched", num_candidates=8)
    manifest = sample_negatives(folder, tmp_path / "out", config)
    frame = preferences(tmp_path / "out")
    check_rows(frame, 8)
    for target, _, _, rejected in lists(frame):
        assert {min(int(item[1:]) // 24, 4) for item in rejected} == {min(int(target[1:]) // 24, 4)}
    assert manifest.counts["train_matched_negatives"] == 7 * manifest.counts["train_rows"]
    assert manifest.extra["protocol"]["stratum"] == 24
    top = frame[[int(target[1:]) < 24 for target in frame["target"]]]
    assert (
        len(top["rejected"].explode().unique()) == 24
    )  # all of a stratum, also those far from the target


def test_a_matched_list_does_not_tell_its_target_by_popularity(tmp_path: Path) -> None:
    """Neighbours of the target in popularity would leave it in the middle of its list."""
    popularity = np.arange(120)[::-1] ** 2
    folder = examples_folder(
        tmp_path / "e", sliding_rows(400, 120, length=6), catalogue(120, popularity=popularity)
    )
    frame = sampled(folder, strategy="popularity-matched", num_candidates=10)
    ranks = [sorted(candidates).index(target) for target, _, candidates, _ in lists(frame)]
    assert stats.chisquare(np.bincount(ranks, minlength=10)).pvalue > 1e-3
    assert len(ranks) == 1200


def test_a_stratum_too_small_is_filled_from_those_beside_it(tmp_path: Path) -> None:
    """Users have taken most of the target's stratum of 12: the rest comes from the next 12."""
    rows = [
        (f"u{user}", 10, [f"i{item:04d}" for item in range(1, 11)], "i0000", "train")
        for user in range(50)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "position", "history", "target", "split"])
    folder = examples_folder(tmp_path / "e", frame, catalogue(48, popularity=np.arange(48)[::-1]))
    manifest = sample_negatives(
        folder, tmp_path / "out", NegativesConfig(strategy="popularity-matched", num_candidates=4)
    )
    for _, _, _, rejected in lists(preferences(tmp_path / "out")):
        assert "i0011" in rejected
        assert {int(item[1:]) // 12 for item in rejected} == {0, 1}
    assert manifest.counts["train_matched_negatives"] == 50


def test_hard_negatives_of_the_next_item_are_its_neighbours(tmp_path: Path) -> None:
    """In a ring items occur with the two on either side: these are hard negatives where allowed."""
    rows = [
        (
            f"u{start}",
            3,
            [f"i{(start + step) % 40:04d}" for step in (1, 2)],
            f"i{start:04d}",
            "train",
        )
        for start in range(40)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "position", "history", "target", "split"])
    folder = examples_folder(tmp_path / "e", frame, catalogue(40))
    for target, _, _, rejected in lists(
        sampled(folder, strategy="hard", num_candidates=5, hard_share=1.0)
    ):
        number = int(target[1:])
        assert {f"i{(number + step) % 40:04d}" for step in (-1, -2)} <= {
            *rejected
        }  # the next two are the history


def test_order_of_rejected_tells_nothing_about_popularity(tmp_path: Path) -> None:
    """Of draws by popularity the first are the most popular; the stored order must not show it."""
    popularity = np.arange(60) ** 3
    folder = examples_folder(
        tmp_path / "e", one_row_each(2500), catalogue(60, popularity=popularity)
    )
    frame = sampled(folder, strategy="popularity")
    for name in ("rejected", "candidates"):
        values = np.array(
            [[popularity[int(item[1:])] for item in row if item != "i0003"] for row in frame[name]]
        )
        ranks = stats.rankdata(values, axis=1).mean(axis=0)
        deviation = np.sqrt((19**2 - 1) / 12 / len(values))
        assert np.abs(ranks - 10).max() < 4.5 * deviation
    pairs = [
        (candidates.index(item), position)
        for _, _, candidates, rejected in lists(frame)
        for position, item in enumerate(rejected)
    ]
    assert (
        abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.02
    )  # the two orders do not follow each other


def test_items_of_one_title_are_never_together(tmp_path: Path) -> None:
    titles = [f"Title {item // 2}" if item % 2 else f"title {item // 2}" for item in range(60)]
    rows = sliding_rows(50, 60)
    frame = sampled(
        examples_folder(tmp_path / "e", rows, catalogue(60, title=titles)), num_candidates=15
    )
    for _, _, candidates, _ in lists(frame):
        titles = [int(item[1:]) // 2 for item in candidates]
        assert len({*titles}) == 15
    for target, history, _, rejected in lists(frame):
        excluded = {int(item[1:]) // 2 for item in (*history, target)}
        assert not excluded & {int(item[1:]) // 2 for item in rejected}


def test_smallest_catalogue_that_will_do(tmp_path: Path) -> None:
    """Exactly as many allowed items as negatives: each row takes all; one fewer is an error."""
    folder = examples_folder(tmp_path / "e", one_row_each(50), catalogue(12))
    for strategy in STRATEGIES:
        for _, _, _, rejected in lists(sampled(folder, strategy=strategy, num_candidates=9)):
            assert sorted(rejected) == [f"i{item:04d}" for item in range(4, 12)]
    message = (
        r"train row 'u0:3': needs 9 negatives, but a catalogue of 12 titles offers 8 besides its "
        r"target and its history. Lower num_candidates to 9."
    )
    with pytest.raises(DataError, match=message):
        sample_negatives(folder, tmp_path / "out", NegativesConfig(num_candidates=10))
    assert not (tmp_path / "out").exists()
    with pytest.raises(
        DataError, match="besides its target and its user's items. .* or exclude less"
    ):
        sample_negatives(
            folder, tmp_path / "out", NegativesConfig(num_candidates=10, exclude="all")
        )


def test_same_title_shrinks_the_catalogue(tmp_path: Path) -> None:
    items = catalogue(
        12, title=[f"T{max(item, 10)}" if item > 9 else f"T{item}" for item in range(12)]
    )
    items.loc[11, "title"] = "T10"
    with pytest.raises(DataError, match="a catalogue of 11 titles offers 7"):
        sample_negatives(
            examples_folder(tmp_path / "e", one_row_each(3), items),
            tmp_path / "out",
            NegativesConfig(num_candidates=9),
        )


def test_published_lists_stay_and_the_others_are_rejected(lastfm: Path) -> None:
    before = pd.concat(
        [read_rows(lastfm, split, EXAMPLES).to_pandas().assign(split=split) for split in SPLITS]
    )
    before = before.set_index(["split", "example_id"])
    frame = sampled(lastfm, strategy="published", allow_leak=True)
    assert [list(row) for row in frame["candidates"]] == [list(row) for row in before["candidates"]]
    for target, _, candidates, rejected in lists(frame):
        assert sorted([*rejected, target]) == sorted(candidates)
    follows = [[item for item in row[2] if item != row[0]] == row[3] for row in lists(frame)]
    assert not any(follows)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fresh_candidates_for_real_rows(lastfm: Path, strategy: str) -> None:
    frame = sampled(lastfm, strategy=strategy, exclude="past")
    assert frame.index.is_unique
    check_rows(frame, 20)
    positions = [candidates.index(target) for target, _, candidates, _ in lists(frame)]
    assert stats.chisquare(np.bincount(positions, minlength=20)).pvalue > 1e-3


def test_position_of_a_real_target_is_no_longer_fixed(lastfm: Path) -> None:
    """Published lists are seeded by the target, whose position is always the same; ours not."""
    shares = {}
    for strategy in ("published", "uniform"):
        frame = sampled(lastfm, strategy=strategy, seed=3, allow_leak=True)
        positions = frame.assign(position=[row[2].index(row[0]) for row in lists(frame)])
        pairs = positions.reset_index().merge(positions.reset_index(), on="target")
        pairs = pairs[pairs["example_id_x"] < pairs["example_id_y"]]
        shares[strategy] = (pairs["position_x"] == pairs["position_y"]).mean()
    assert shares["published"] > 0.9
    assert shares["uniform"] == pytest.approx(0.05, abs=0.01)


def test_lists_that_leak_are_refused_unless_allowed(lastfm: Path, tmp_path: Path) -> None:
    config = NegativesConfig(strategy="published")
    with pytest.raises(
        CheckFailedError, match=r"reaches HitRatio@1 0\.[567]\d\d on \d+ rows, against 0\.[123]\d\d"
    ):
        sample_negatives(lastfm, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()
    manifest = sample_negatives(
        lastfm, tmp_path / "out", dataclasses.replace(config, allow_leak=True)
    )
    assert all(line.startswith("LEAK: ") for line in manifest.extra["warnings"])
    assert manifest.extra["audit"]["test"]["leak"] is True
    assert (
        manifest.counts["test_audit_hit_ratio_at_1"]
        == manifest.extra["audit"]["test"]["hit_ratio_at_1"]
        > 0.5
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_drawn_lists_of_real_rows_pass_their_audit(
    lastfm: Path, tmp_path: Path, strategy: str
) -> None:
    for exclude in ("window", "past", "all"):
        config = NegativesConfig(strategy=strategy, exclude=exclude)
        audits = sample_negatives(lastfm, tmp_path / exclude, config).extra["audit"]
        assert {*audits} == {"validation", "test"}
        for audit in audits.values():
            assert audit["hit_ratio_at_1"] < audit["limit"]
            assert audit["low"] < audit["chance"] < audit["high"] < audit["limit"]


def published(tmp_path: Path, candidates: list[str], target: str = "a") -> Path:
    row = {"historyList": "x::y::z", "itemList": candidates, "trueSelection": target}
    (tmp_path / "train.json").write_text(json.dumps([row] * 30))
    prepare_data(
        str(tmp_path / "train.json"), "", tmp_path / "examples", DataConfig(source="published")
    )
    return tmp_path / "examples"


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        (
            ["a", "b", "c"],
            r"train row 'train-\d+:0': must have num_candidates \(4\) candidates; \d+ rows do not",
        ),
        (["b", "c", "d", "e"], "must have its target among the candidates"),
        (["a", "b", "c", "c"], "must have candidates that differ"),
    ],
)
def test_published_lists_that_cannot_be_used_are_an_error(
    tmp_path: Path, candidates: list[str], message: str
) -> None:
    config = NegativesConfig(strategy="published", num_candidates=4)
    with pytest.raises(DataError, match=message):
        sample_negatives(published(tmp_path, candidates), tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_published_strategy_needs_published_rows(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="strategy: 'published' needs rows with candidate lists"):
        sample_negatives(prepared, tmp_path / "out", NegativesConfig(strategy="published"))


def test_manifest_states_the_protocol_and_keeps_what_the_source_says(tmp_path: Path) -> None:
    source_extra = {"source": "table", "split": "8:1:1 by time"}
    folder = examples_folder(tmp_path / "e", sliding_rows(5, 60), catalogue(60), source_extra)
    manifest = sample_negatives(folder, tmp_path / "out", NegativesConfig(exclude="past", seed=4))
    protocol = {"strategy": "uniform", "exclude": "past", "num_candidates": 20, "seed": 4}
    assert {
        name: value for name, value in manifest.extra.items() if name != "audit"
    } == source_extra | {"protocol": protocol}
    rows = {"train_rows": 35, "validation_rows": 5, "test_rows": 5, "items": 60}
    assert rows.items() <= manifest.counts.items()
    assert (
        sample_negatives(folder, tmp_path / "out", NegativesConfig(exclude="past", seed=4))
        == manifest
    )
    pd.testing.assert_frame_equal(read_items(tmp_path / "out"), read_items(folder))


def test_item_that_is_not_in_the_catalogue_is_an_error(tmp_path: Path) -> None:
    rows = sliding_rows(3, 60)
    rows.at[4, "history"] = ["i0001", "lost", "i0002"]
    with pytest.raises(
        DataError, match="train row 'u0:7': every item must be in items.parquet, got 'lost'"
    ):
        sample_negatives(
            examples_folder(tmp_path / "e", rows, catalogue(60)),
            tmp_path / "out",
            NegativesConfig(),
        )


def test_empty_split_stays_empty(tmp_path: Path) -> None:
    rows = sliding_rows(5, 60)
    frame = sampled(
        examples_folder(tmp_path / "e", rows[rows["split"] == "train"], catalogue(60)),
        exclude="past",
    )
    assert frame.index.get_level_values(0).unique().tolist() == ["train"]
