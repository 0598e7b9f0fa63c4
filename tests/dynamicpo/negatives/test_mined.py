"""Negatives mined by a model: training rows alone, the model's best, by its probabilities."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dynamicpo.cli.main import main
from dynamicpo.core import random_keys
from dynamicpo.core.config import DataConfig, NegativesConfig, SFTConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.rows import PREFERENCES, read_rows
from dynamicpo.data.prepare import prepare_data
from dynamicpo.models.checkpoints import load_model
from dynamicpo.negatives.row_orders import sample_by_logps
from dynamicpo.negatives.sampling import sample_negatives
from dynamicpo.prompts.encoding import Prompts
from dynamicpo.runs.parameters import check_parameters
from dynamicpo.scoring.catalogue_scoring import catalogue_scores
from dynamicpo.training.sft import fine_tune

FIXTURES = Path(__file__).parents[2] / "fixtures"
HELD_OUT = ("validation", "test")


def frame(folder: Path, split: str) -> pd.DataFrame:
    return read_rows(folder, split, PREFERENCES).to_pandas().set_index("example_id")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples, uniform preference rows and a model that was fine-tuned on them for a moment."""
    folder = tmp_path_factory.mktemp("mined")
    sources = [str(FIXTURES / f"{name}.csv") for name in ("interactions", "items")]
    prepare_data(*sources, folder / "examples", DataConfig(k_core=1))
    sample_negatives(folder / "examples", folder / "uniform", NegativesConfig(num_candidates=6))
    config = SFTConfig(max_steps=10, learning_rate=5e-3)
    fine_tune(folder / "uniform", folder / "sft", config)
    return folder


def mine(work: Path, name: str, **settings: object) -> Path:
    config = NegativesConfig(
        strategy="model",
        num_candidates=6,
        **settings,  # type: ignore[arg-type]
    )
    sample_negatives(work / "examples", work / name, config, work / "sft")
    return work / name


def test_training_rows_get_the_models_best_and_no_other_row_does(work: Path) -> None:
    mined = mine(work, "mined", model_pool=12)
    loaded = load_model(work / "sft")
    items = pd.read_parquet(mined / "items.parquet")
    prompts = Prompts(loaded.tokenizer, items, loaded.settings)
    rows = frame(mined, "train").head(50)
    prompt_ids = [prompts.prompt(name, row["history"], 1) for name, row in rows.iterrows()]
    item_ids = items["item_id"].tolist()
    scores = np.concatenate(
        [*catalogue_scores(loaded.model, prompt_ids, prompts.answers(item_ids))]
    )
    best = np.argsort(-scores, axis=1)
    for number, (_, row) in enumerate(rows.iterrows()):
        pool = {item_ids[code] for code in best[number, :12]}
        allowed = pool - {*row["history"], row["target"]}
        # Five of the allowed, or all of them where they are fewer.
        assert len(allowed & {*row["rejected"]}) == min(5, len(allowed))
    for split in HELD_OUT:
        uniform = frame(work / "uniform", split)
        pd.testing.assert_frame_equal(frame(mined, split), uniform)


def test_held_out_rows_may_have_another_strategy(work: Path) -> None:
    mined = mine(work, "by-popularity", held_out_strategy="popularity", popularity_power=0.5)
    config = NegativesConfig(strategy="popularity", popularity_power=0.5, num_candidates=6)
    manifest = sample_negatives(work / "examples", work / "popularity", config)
    for split in HELD_OUT:
        expected = frame(work / "popularity", split)
        pd.testing.assert_frame_equal(frame(mined, split), expected)
    assert manifest.extra["protocol"]["popularity_power"] == 0.5
    hard = NegativesConfig(
        strategy="hard", held_out_strategy="popularity", popularity_power=0.5, num_candidates=6
    )
    manifest = sample_negatives(work / "examples", work / "hard", hard)
    for split in HELD_OUT:
        pd.testing.assert_frame_equal(frame(work / "hard", split), frame(mined, split))
    protocol = manifest.extra["protocol"]
    assert (protocol["held_out_strategy"], protocol["popularity_power"]) == ("popularity", 0.5)


def test_the_same_model_mines_the_same_and_the_lists_are_audited(work: Path) -> None:
    first = mine(work, "first")
    again = mine(work, "again")
    for split in ("train", *HELD_OUT):
        pd.testing.assert_frame_equal(frame(first, split), frame(again, split))
    config = NegativesConfig(strategy="model", num_candidates=6)
    manifest = sample_negatives(work / "examples", first, config, work / "sft")
    assert {*manifest.extra["audit"]} == {*HELD_OUT}
    assert manifest.counts["train_mined_negatives"] == 5 * manifest.counts["train_rows"]
    assert "validation_mined_negatives" not in manifest.counts
    assert manifest.inputs["model"]
    other = NegativesConfig(strategy="model", num_candidates=6, seed=1)
    sample_negatives(work / "examples", work / "other", other, work / "sft")
    assert not frame(work / "other", "train")["rejected"].equals(frame(first, "train")["rejected"])


def test_draws_follow_the_models_probabilities() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    num_rows = 20_000
    keys = random_keys.keys(0, "test", [str(row) for row in range(num_rows)])
    codes = np.tile(np.arange(4), (num_rows, 1))
    logps = np.tile(np.log(probabilities), (num_rows, 1))
    orders = sample_by_logps(keys, codes, logps)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    counts = np.bincount(orders[:, 0], minlength=4)
    assert stats.chisquare(counts, probabilities * num_rows).pvalue > 1e-3
    # Without replacement: the second one follows what is left after the first.
    seconds = np.bincount(orders[orders[:, 0] == 0, 1], minlength=4)[1:]
    expected = probabilities[1:] / 0.5 * seconds.sum()
    assert stats.chisquare(seconds, expected).pvalue > 1e-3
    # Items that the model rules out come last, and no draw fails.
    logps[:, 0] = -np.inf
    assert (sample_by_logps(keys, codes, logps)[:, -1] == 0).all()


def test_mistakes_are_told_in_a_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = work / "examples"
    mining = NegativesConfig(strategy="model")
    with pytest.raises(ConfigError, match="'model' needs a fine-tuned model that mines, got none"):
        sample_negatives(examples, tmp_path / "out", mining)
    with pytest.raises(ConfigError, match="only strategy 'model' mines with one, .* 'uniform'"):
        sample_negatives(examples, tmp_path / "out", NegativesConfig(), work / "sft")
    where = re.escape(str(work / "uniform"))
    with pytest.raises(DataError, match=f"{where}: must be a model folder, .* sample_negatives"):
        sample_negatives(examples, tmp_path / "out", mining, work / "uniform")
    with pytest.raises(ConfigError, match="negatives_strategy: must not be 'model' in a pipeline"):
        check_parameters("training", {"negatives_strategy": "model"})
    assert not (tmp_path / "out").exists()
    given = ["--examples", str(examples), "--output", str(tmp_path / "out")]
    assert main(["sample-negatives", *given, "--strategy", "model"]) == 2
    assert "Give --model" in capsys.readouterr().err
    command = ["sample-negatives", *given, "--strategy", "model", "--num-candidates", "6"]
    assert main([*command, "--model", str(work / "sft")]) == 0


def test_the_power_of_popularity_is_a_setting(work: Path) -> None:
    """0 is uniform in distribution, and the higher the power, the more popular the negatives."""
    means = []
    for power in (0.0, 0.75, 1.5):
        name = f"power-{power}"
        config = NegativesConfig(strategy="popularity", popularity_power=power, num_candidates=6)
        manifest = sample_negatives(work / "examples", work / name, config)
        assert manifest.extra["protocol"]["popularity_power"] == power
        popularity = pd.read_parquet(work / name / "items.parquet").set_index("item_id")
        rejected = frame(work / name, "train")["rejected"].explode()
        means.append(popularity["popularity"].loc[rejected].mean())
    uniform = frame(work / "uniform", "train")["rejected"].explode()
    assert means[0] == pytest.approx(popularity["popularity"].loc[uniform].mean(), rel=0.1)
    assert means[0] < means[1] < means[2]
    default = NegativesConfig(strategy="popularity", num_candidates=6)
    sample_negatives(work / "examples", work / "default", default)
    pd.testing.assert_frame_equal(
        frame(work / "default", "train"), frame(work / "power-0.75", "train")
    )
    with pytest.raises(ConfigError, match="popularity_power: must be 0 to 2|popularity_power"):
        NegativesConfig(popularity_power=-1)
