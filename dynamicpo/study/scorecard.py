"""The scorecard of a study: each objective at its fewest and most negatives, and the verdicts."""

from dynamicpo.evaluation.scorecard import DECIMALS, difference_rows
from dynamicpo.study.contrasts import Contrast
from dynamicpo.study.kinds import SFT, VARIANT_LABELS, Kind, kind_at, numbers_of_negatives
from dynamicpo.study.measurements import HIT_RATIO, mean_hit_ratio, metric_prefix
from dynamicpo.study.verdict import Study


def study_scorecard(study: Study) -> dict[str, float]:
    """The rows of a study's scorecard, such as `dmpo_plain_k19_hit_ratio_at_1`.

    Returns:
        HitRatio@1 of SFT, and of each objective and variant at its fewest and its most negatives;
        the differences that the verdicts go by, with their bounds; how many objectives collapsed,
        and of how many DynamicPO prevented it.
    """
    rows: dict[str, float] = {}
    for kind in [SFT, *_ends(study)]:
        hit_ratio = mean_hit_ratio(study.cells[kind])
        rows[f"{metric_prefix(kind)}_{HIT_RATIO}"] = round(hit_ratio, DECIMALS)
    for verdict in study.verdicts:
        for entry in (verdict.fall, verdict.gain):
            if entry is not None:
                rows |= difference_rows(_difference_name(entry), entry._asdict())
    rows["collapsed"] = sum(verdict.collapsed for verdict in study.verdicts)
    rows["prevented"] = [verdict.outcome for verdict in study.verdicts].count("prevented")
    return rows


def _ends(study: Study) -> list[Kind]:
    """Each objective's and variant's kinds at the fewest and at the most negatives, each once."""
    ends: dict[Kind, None] = {}
    for objective in study.objectives:
        for variant in VARIANT_LABELS:
            kinds = [
                kind_at(objective, variant, number) for number in numbers_of_negatives(study.cells)
            ]
            trained = [kind for kind in kinds if kind in study.cells]
            # At one negative another objective or variant may stand for it: it is no trained one.
            if any(kind[:2] == (objective, variant) for kind in trained):
                ends |= dict.fromkeys([trained[0], trained[-1]])
    return list(ends)


def _difference_name(entry: Contrast) -> str:
    return f"{metric_prefix(entry.a)}_minus_{metric_prefix(entry.b)}"
