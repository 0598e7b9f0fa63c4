"""SASRec: sequences and windows by hand, what it learns, and the same numbers for the same seed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from dynamicpo.core.config import DataConfig, EvaluationConfig, NegativesConfig
from dynamicpo.core.errors import DataError
from dynamicpo.data.prepare import prepare_data
from dynamicpo.evaluation.baselines import sasrec_training
from dynamicpo.evaluation.baselines.sasrec import fit_sasrec
from dynamicpo.evaluation.baselines.sasrec_model import Histories, SASRec
from dynamicpo.evaluation.baselines.sasrec_training import HeldOutRows, held_out_loss, train_sasrec
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.negatives.sequences import Sequences, cut_windows, make_sequences

FIXTURES = Path(__file__).parents[2] / "fixtures"
NAMES = [f"i{item:02d}" for item in range(20)]
ITEMS = pd.DataFrame({"item_id": NAMES, "title": NAMES, "popularity": 1, "category": ""})


def table(rows: list[tuple[str, int, list[int], int]]) -> pa.Table:
    """Rows of user, position, history and target."""
    return pa.table(
        {
            "example_id": pa.array(
                [f"{user}:{position}" for user, position, _, _ in rows], pa.string()
            ),
            "user_id": pa.array([user for user, _, _, _ in rows], pa.string()),
            "history": pa.array(
                [[NAMES[item] for item in history] for _, _, history, _ in rows],
                pa.list_(pa.string()),
            ),
            "target": pa.array([NAMES[target] for _, _, _, target in rows], pa.string()),
        }
    )


def lists(sequences: Sequences) -> list[list[int]]:
    return [part.tolist() for part in np.split(sequences.codes, sequences.starts[1:])]


def test_rows_become_sequences_again() -> None:
    rows = [
        ("b", 9, [5], 6),  # goes on at 10, whatever the order of rows
        ("a", 3, [0, 1, 2], 3),
        ("a", 4, [1, 2, 3], 4),
        ("b", 10, [4, 5, 6], 7),
        ("a", 7, [8, 9], 10),  # something is missing before it
        ("c", 4, [2, 3], 9),  # as a's history ends, but another user
        ("a", 8, [9, 10], 11),
        ("d", 0, [], 12),
    ]
    sequences, width = make_sequences(ITEMS, table(rows))
    assert width == 3
    assert sorted(lists(sequences)) == sorted(
        [[5, 6, 7], [0, 1, 2, 3, 4], [8, 9, 10, 11], [2, 3, 9], [12]]
    )
    assert make_sequences(ITEMS, table([]))[1] == 1


def test_windows_hold_every_step_once_and_are_cut_at_random() -> None:
    sequences = Sequences(np.array([0, 1, 2, 3, 4, 5, 6, 10, 11, 15]), np.array([0, 7, 9]))
    steps = [(step, step + 1) for step in range(6)] + [(10, 11)]
    cuts = set()
    for seed in range(30):
        inputs, targets = cut_windows(sequences, 3, np.random.default_rng(seed))
        assert inputs.shape == targets.shape and inputs.shape[1] == 3
        learnt_steps = [
            (int(a), int(b))
            for row in zip(inputs, targets, strict=True)
            for a, b in zip(*row, strict=True)
            if b >= 0
        ]
        assert sorted(learnt_steps) == steps
        for row, after in zip(inputs, targets, strict=True):
            known = after >= 0
            assert known[0] and (np.diff(known.astype(int)) <= 0).all()  # filled up at the end
            assert (
                row[1:][known[1:]] == after[:-1][known[1:]]
            ).all()  # each item is what was to be predicted before
        cuts.add(tuple(int((row >= 0).sum()) for row in targets))
    assert cuts == {(3, 3, 1), (2, 3, 1, 1), (1, 3, 2, 1)}


def ring(users: int, length: int = 8) -> list[tuple[str, int, list[int], int]]:
    """Everybody goes round the ring, from some place."""
    rows = []
    for user in range(users):
        path = [(7 * user + step) % 20 for step in range(length + 4)]
        rows += [
            (f"u{user}", position, path[max(0, position - 4) : position], path[position])
            for position in range(3, length + 4)
        ]
    return rows


def test_it_learns_what_comes_next() -> None:
    score = fit_sasrec(ITEMS, table(ring(40)), epochs=30)
    rows = table(
        [("x", 0, [start % 20, (start + 1) % 20, (start + 2) % 20], 0) for start in range(20)]
    )
    assert score(rows).argmax(axis=1).tolist() == [(start + 3) % 20 for start in range(20)]
    longer = table([("x", 0, list(range(9)), 0)])
    end = table([("x", 0, list(range(5, 9)), 0)])
    np.testing.assert_allclose(
        score(longer), score(end), rtol=1e-6
    )  # of a longer history the end is read
    assert (score(table([("x", 0, [], 0)])) == 0).all()


def test_the_same_seed_gives_the_same_bits_and_leaves_the_random_state_alone() -> None:
    rows = table(ring(10))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (fit_sasrec(ITEMS, rows, seed, epochs=2)(rows) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_number_of_threads_changes_nothing() -> None:
    rows = table(ring(10))
    scores = []
    threads = torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        scores.append(fit_sasrec(ITEMS, rows, epochs=1)(rows))
        assert torch.get_num_threads() == number
    torch.set_num_threads(threads)
    np.testing.assert_array_equal(*scores)


def test_without_training_rows_it_still_ranks() -> None:
    assert fit_sasrec(ITEMS, table([]))(table(ring(2))).shape == (18, 20)


def test_an_unknown_item_is_named() -> None:
    rows = table(ring(2))
    unknown = rows.set_column(3, "target", pa.array(["lost"] * len(rows)))
    with pytest.raises(
        DataError, match="train row 'u0:3': every item must be in items.parquet, got 'lost'"
    ):
        fit_sasrec(ITEMS, unknown)


def held_out() -> HeldOutRows:
    histories = Histories(np.array([[0, 1, 2], [7, 0, 0]]), np.array([3, 1]))
    return HeldOutRows(histories, np.array([3, 8]))


def test_the_held_out_loss_by_hand() -> None:
    torch.manual_seed(0)
    model = SASRec(20, 3)
    model.eval()
    with torch.no_grad():
        first = model.scores(model(torch.tensor([[0, 1, 2]])))[0, 2]
        second = model.scores(model(torch.tensor([[7]])))[0, 0]
    likelihoods = [first.softmax(0)[3].item(), second.softmax(0)[8].item()]
    model.train()
    loss = held_out_loss(model, held_out())
    assert loss == pytest.approx(-np.log(likelihoods).mean(), rel=1e-5)
    assert model.training


@pytest.mark.parametrize(
    ("losses", "looks", "best"),
    [
        ([3.0, 2.0, 1.0] + [2.0] * 20, 8, 2),  # five epochs without a better one
        ([3.0 - epoch / 10 for epoch in range(12)], 12, 11),  # to the end
        ([float("nan")] * 20, 6, None),  # no loss is a number: the last weights
    ],
)
def test_training_stops_and_the_best_weights_are_kept(
    losses: list[float], looks: int, best: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(model: SASRec, _rows: HeldOutRows) -> float:
        seen.append(model.items.weight.detach().clone())
        return losses[len(seen) - 1]

    monkeypatch.setattr(sasrec_training, "held_out_loss", look)
    sequences, length = make_sequences(ITEMS, table(ring(10)))
    torch.manual_seed(0)
    model = SASRec(20, length)
    train_sasrec(model, sequences, length, 12, np.random.default_rng(0), held_out())
    assert len(seen) == looks
    assert torch.equal(model.items.weight, seen[-1 if best is None else best])
    assert not torch.equal(seen[0], seen[-1])


def test_validation_rows_choose_the_epoch_and_change_nothing_else() -> None:
    """On noise the last epoch is not the best for new rows; of rings it nearly is."""
    rng = np.random.default_rng(0)
    noise = [
        (f"u{user}", 4, rng.integers(0, 20, 4).tolist(), int(rng.integers(0, 20)))
        for user in range(60)
    ]
    train, new = table(noise[:30]), table(noise[30:])

    def loss(validation: pa.Table | None) -> float:
        scores = fit_sasrec(ITEMS, train, validation=validation)(new)
        probabilities = torch.tensor(scores).softmax(1).numpy()
        targets = [NAMES.index(target) for target in new["target"].to_pylist()]
        return float(-np.log(probabilities[np.arange(30), targets]).mean())

    assert loss(new) < loss(None) - 0.1


def test_without_validation_rows_that_have_a_history_all_epochs_are_kept() -> None:
    rows = table(ring(10))
    expected = fit_sasrec(ITEMS, rows, epochs=3)(rows)
    for validation in (table([]), table([("x", 0, [], 4)])):
        scores = fit_sasrec(ITEMS, rows, epochs=3, validation=validation)(rows)
        np.testing.assert_array_equal(scores, expected)


def test_one_item_and_one_user_train() -> None:
    rows = table([("a", 1, [3], 3), ("a", 2, [3, 3], 3)])
    alone = ITEMS.iloc[3:4].reset_index(drop=True)
    scores = fit_sasrec(alone, rows, validation=rows)(rows)
    assert scores.shape == (2, 1) and np.isfinite(scores).all()


def test_an_evaluation_stops_sasrec_by_its_validation_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [str(FIXTURES / f"{name}.csv") for name in ("interactions", "items")]
    prepare_data(*sources, tmp_path / "examples", DataConfig(k_core=1))
    config = NegativesConfig(num_candidates=6)
    sample_negatives(tmp_path / "examples", tmp_path / "preferences", config)
    caplog.set_level("INFO", "dynamicpo.evaluation.baselines.sasrec_training")
    settings = EvaluationConfig(resamples=100)
    evaluate(tmp_path / "preferences", {}, tmp_path / "evaluation", settings)
    assert "SASRec: epoch" in caplog.text
