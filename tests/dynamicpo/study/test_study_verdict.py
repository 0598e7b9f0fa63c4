"""The verdict on inputs whose truth is known: collapse, no collapse, prevented, not prevented."""

import math

import numpy as np
import pytest

from dynamicpo.core.config import StudyConfig
from dynamicpo.reports.number_format import format_number
from dynamicpo.study.contrasts import Cells, contrast, pairs_of
from dynamicpo.study.kinds import SFT, Kind
from dynamicpo.study.scorecard import study_scorecard
from dynamicpo.study.sentences import evidence, method_in_words, verdict_sentence
from dynamicpo.study.verdict import Study, Verdict, judge_all
from tests.fixtures.cells import EACH, USERS, line, study_cells, users

CONFIG = StudyConfig()
ONE = {Kind("dpo", "none", 1): (0.35, 0.45), Kind("dpo", "full", 1): (0.35, 0.5)}
FALLING = line("dmpo", "none", [(5, 0.31, 0.3), (19, 0.27, 0.15)])
RISING = line("dmpo", "full", [(5, 0.39, 0.6), (19, 0.40, 0.6)])
STEADY = line("sdpo", "none", [(5, 0.35, 0.3), (19, 0.35, 0.2)])


def study(shares: dict[Kind, tuple[float, float]], seeds: int = 3, noise: float = 0.004) -> Study:
    return judge_all(study_cells(shares, seeds, noise), users(), range(seeds), CONFIG)


def verdict(judged_study: Study, objective: str = "dmpo") -> Verdict:
    return next(entry for entry in judged_study.verdicts if entry.objective == objective)


def test_a_collapse_that_dynamicpo_prevents() -> None:
    judged_study = study({**ONE, **FALLING, **RISING})
    judged = verdict(judged_study)
    assert (judged.collapsed, judged.outcome) == (True, "prevented")
    assert (judged.fall.a, judged.fall.b) == (Kind("dmpo", "none", 19), Kind("dpo", "none", 1))
    assert judged.fall.difference == pytest.approx(-0.08, abs=0.02)
    assert judged.gain is not None and judged.gain.difference == pytest.approx(0.13, abs=0.02)
    assert (
        verdict_sentence(judged_study.verdicts)
        == "DMPO collapsed with more negatives, and DynamicPO prevented it."
    )
    text = " ".join(evidence(judged, judged_study))
    assert (
        "DMPO: HitRatio@1 fell from .3" in text and "at K = 19 (−.0" in text and "p < .001" in text
    )
    assert "while the loss ended at .150 of its start and not .450" in text


def test_a_difference_of_nothing_is_neither_a_rise_nor_a_fall() -> None:
    judged_study = study({**ONE, **STEADY})
    judged = verdict(judged_study, "sdpo")
    equal = judged._replace(fall=judged.fall._replace(difference=0.0))
    assert "S-DPO: HitRatio@1 stayed equal from" in " ".join(evidence(equal, judged_study))


def test_study_that_finds_nothing_says_what_it_could_have_found() -> None:
    judged_study = study({**ONE, **FALLING, **RISING, **STEADY})
    steady = verdict(judged_study, "sdpo")
    assert steady.fall.low is not None and steady.fall.high is not None
    words = " ".join(evidence(steady, judged_study))
    # 2.8 standard errors, of which the interval shows 1.96 on each side.
    expected = (steady.fall.high - steady.fall.low) / 2 * (1.96 + 0.8416) / 1.96
    assert f"would have shown a change of {format_number(expected)} with a" in words
    collapsed = " ".join(evidence(verdict(judged_study), judged_study))
    assert "would have shown" not in collapsed


def test_objectives_are_judged_one_by_one() -> None:
    judged_study = study({**ONE, **FALLING, **RISING, **STEADY})
    assert verdict(judged_study, "sdpo").collapsed is False
    assert verdict(judged_study, "sdpo").outcome == ""
    assert verdict_sentence(judged_study.verdicts) == (
        "DMPO collapsed with more negatives, and DynamicPO prevented it; "
        "S-DPO did not collapse with more negatives."
    )
    assert "S-DPO: HitRatio@1" in " ".join(evidence(verdict(judged_study, "sdpo"), judged_study))


def test_a_collapse_that_nothing_prevents() -> None:
    useless = line("dmpo", "full", [(5, 0.31, 0.3), (19, 0.27, 0.2)])
    judged_study = study({**ONE, **FALLING, **useless})
    assert verdict(judged_study).outcome == "not prevented"
    assert "DynamicPO did not prevent it" in verdict_sentence(judged_study.verdicts)


def test_a_treatment_that_falls_itself_only_softens() -> None:
    better = line("dmpo", "full", [(5, 0.32, 0.3), (19, 0.31, 0.2)])
    judged_study = study(
        {
            Kind("dpo", "none", 1): (0.36, 0.45),
            Kind("dpo", "full", 1): (0.38, 0.5),
            **FALLING,
            **better,
        }
    )
    assert verdict(judged_study).outcome == "softened"
    assert "softened it without preventing it" in verdict_sentence(judged_study.verdicts)


def test_a_collapse_without_a_treatment_is_still_one() -> None:
    judged_study = study({Kind("dpo", "none", 1): (0.35, 0.45), **FALLING})
    assert (
        verdict(judged_study).collapsed,
        verdict(judged_study).outcome,
        verdict(judged_study).gain,
    ) == (
        True,
        "",
        None,
    )
    assert (
        verdict_sentence(judged_study.verdicts)
        == "DMPO collapsed with more negatives; DynamicPO was not tried."
    )


def test_ranking_that_falls_with_a_rising_loss_is_no_collapse() -> None:
    rising_loss = line("dmpo", "none", [(5, 0.31, 0.5), (19, 0.27, 0.6)])
    assert verdict(study({**ONE, **rising_loss, **RISING})).collapsed is False


def test_a_clear_fall_that_is_too_small_is_no_collapse() -> None:
    small = line("dmpo", "none", [(19, 0.335, 0.2)])
    cells = study_cells({Kind("dpo", "none", 1): (0.35, 0.45), **small})
    calm = Cells(
        cells[Kind("dpo", "none", 1)].hits - 0.015, cells[Kind("dmpo", "none", 19)].figures
    )
    cells[Kind("dmpo", "none", 19)] = calm  # exactly 0.015 lower in every row: as clear as can be
    judged_study = judge_all(cells, users(), range(3), CONFIG)
    assert verdict(judged_study).fall.p_holm == 0 and verdict(judged_study).collapsed is False
    assert (
        judge_all(cells, users(), range(3), StudyConfig(min_drop=0.01)).verdicts[0].collapsed
        is True
    )


def test_seeds_that_differ_much_leave_it_open() -> None:
    """The same mean fall of .08, but with seeds .1 apart: three of them can't tell."""
    judged_study = study({**ONE, **FALLING, **RISING}, noise=0.1)
    assert verdict(judged_study).fall.p is not None
    assert verdict(judged_study).collapsed is False


def test_a_fall_after_a_rise_is_a_collapse() -> None:
    hill = line("dmpo", "none", [(3, 0.40, 0.3), (19, 0.35, 0.15)])
    judged = verdict(study({Kind("dpo", "none", 1): (0.34, 0.45), **hill}))
    assert (judged.fall.b[2], judged.fall.a[2], judged.collapsed) == (3, 19, True)


def test_one_user_gives_no_interval_and_no_verdict() -> None:
    cells = study_cells({**ONE, **FALLING, **RISING})
    judged_study = judge_all(cells, ["u"] * (USERS * EACH), range(3), CONFIG)
    assert (
        {entry.p for entry in judged_study.contrasts}
        == {entry.low for entry in judged_study.contrasts}
        == {None}
    )
    assert "DMPO can't be judged, for all rows are of one user" in verdict_sentence(
        judged_study.verdicts
    )
    assert "interval not available" in " ".join(evidence(verdict(judged_study), judged_study))


def test_every_comparison_is_counted_once() -> None:
    """K = 1 is shared: 3 falls of each of 2 objectives x 2 variants, 5 of DynamicPO, and SFT."""
    cells = study_cells(
        {
            **ONE,
            **FALLING,
            **RISING,
            **STEADY,
            **line("sdpo", "full", [(5, 0.35, 0.3), (19, 0.35, 0.2)]),
        }
    )
    pairs = pairs_of(cells, ["dmpo", "sdpo"])
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == 12 + 5 + 1
    assert (Kind("dpo", "none", 1), SFT) in pairs
    judged_study = judge_all(cells, users(), range(3), CONFIG)
    assert "for all 18 comparisons" in method_in_words(CONFIG, len(judged_study.contrasts))
    smallest = min(judged_study.contrasts, key=lambda entry: entry.p or 0)
    assert smallest.p_holm == pytest.approx(18 * (smallest.p or 0))


def test_halves_of_dynamicpo_are_mentioned() -> None:
    halves = {
        **line("dmpo", "selection", [(19, 0.39, 0.5)]),
        **line("dmpo", "beta", [(19, 0.20, 0.1)]),
    }
    judged_study = study({**ONE, **FALLING, **RISING, **halves})
    text = " ".join(evidence(verdict(judged_study), judged_study))
    assert "boundary selection alone reached .3" in text and "dynamic beta alone reached ." in text


def test_contrast_by_hand() -> None:
    """Two users of two rows, two seeds. Means by seed 0.5 and 0.25, by user 0.25 and 0.5."""
    a = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    mean, low, high, p = contrast(a, np.zeros((1, 4)), ["u", "u", "v", "v"])
    of_users = 2 / 1 * (0.25**2 + 0.25**2) / 16  # residual sums of users: -0.25 and 0.25
    of_seeds = 0.125**2 * 2 / 2
    assert mean == 0.375
    error = math.sqrt(of_users + of_seeds)
    freedom = error**4 / (of_users**2 / 1 + of_seeds**2 / 1)
    assert freedom == pytest.approx(2.0)  # both variances are 1/64
    assert (low, high) == pytest.approx((mean - 4.302653 * error, mean + 4.302653 * error))
    t = mean / error
    assert p == pytest.approx(
        1 - t / math.sqrt(t**2 + 2)
    )  # the two-sided tail at 2 degrees of freedom


def test_false_alarms_are_rare() -> None:
    """No difference: p < .05 in at most a few of a hundred, with users and seeds that vary."""
    random = np.random.default_rng(0)
    few, names = 40, [f"u{user}" for user in range(40) for _ in range(10)]
    alarms = 0
    for _ in range(400):
        per_user = np.repeat(random.normal(0, 0.05, (2, few)), 10, axis=1)
        chances = [0.3 + shift[None] + random.normal(0, 0.02, (3, 1)) for shift in per_user]
        one, other = ((random.random((3, len(names))) < chance).astype(float) for chance in chances)
        alarms += (contrast(one, other, names)[3] or 0) < 0.05
    assert 1 <= alarms <= 28  # nominal 20; both variances are counted, so fewer


def test_the_scorecard_shows_each_objective_at_its_ends_and_the_verdicts() -> None:
    judged_study = study({**ONE, **FALLING, **RISING, **STEADY})
    rows = study_scorecard(judged_study)
    models = [name.removesuffix("_hit_ratio_at_1") for name in rows if name.endswith("_at_1")]
    assert models == [
        "sft",
        *("dpo_plain_k1", "dmpo_plain_k19"),
        *("dpo_dynamicpo_k1", "dmpo_dynamicpo_k19"),
        "sdpo_plain_k19",
    ]
    hits = judged_study.cells[Kind("dmpo", "none", 19)].hits
    assert rows["dmpo_plain_k19_hit_ratio_at_1"] == round(float(hits.mean()), 3)
    fall = verdict(judged_study).fall
    assert fall.low is not None
    assert rows["dmpo_plain_k19_minus_dpo_plain_k1"] == round(fall.difference, 3)
    assert rows["dmpo_plain_k19_minus_dpo_plain_k1_low"] == round(fall.low, 3)
    assert {"dmpo_dynamicpo_k19_minus_dmpo_plain_k19_high"} < set(rows)
    assert (rows["collapsed"], rows["prevented"]) == (1, 1)
    assert all(round(value, 3) == value for value in rows.values())


def test_an_objective_of_one_number_of_negatives_stands_once_in_the_scorecard() -> None:
    rows = study_scorecard(study(line("dmpo", "none", [(5, 0.31, 0.3)])))
    assert [*rows] == [
        "sft_hit_ratio_at_1",
        "dmpo_plain_k5_hit_ratio_at_1",
        "collapsed",
        "prevented",
    ]
