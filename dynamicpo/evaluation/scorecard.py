"""The scorecard of a comparison: every model's headline metric, and how far models are apart.

It is the one set of numbers of a run that people read in Kubeflow's comparison of runs, where each
number is a row: few, with names that are the same in every run, and without digits of noise.
"""

from collections.abc import Mapping, Sequence

from dynamicpo.core.choices import BASELINES
from dynamicpo.reports.pages.comparisons import PairedComparison
from dynamicpo.reports.pages.metric_names import HEADLINE_METRICS, ModelMetrics, without_split

HEADLINE = HEADLINE_METRICS[0]
DECIMALS = 3


def scorecard(metrics: ModelMetrics, comparisons: Sequence[PairedComparison]) -> dict[str, float]:
    """The rows of a comparison's scorecard, such as `sft_hit_ratio_at_1`.

    Args:
        metrics: Every model's metrics.
        comparisons: Paired differences; those with a baseline are left to the report.

    Returns:
        For each model its HitRatio@1; for each pair of models `A_minus_B`, and its bounds.
    """
    rows: dict[str, float] = {}
    for model, flat in metrics.items():
        for name, value in flat.items():
            if without_split(name) == HEADLINE and value is not None:
                rows[f"{model}_{HEADLINE}"] = round(value, DECIMALS)
    for comparison in comparisons:
        if not {comparison["a"], comparison["b"]} & {*BASELINES}:
            name = f"{comparison['a']}_minus_{comparison['b']}"
            rows |= difference_rows(name, comparison)
    return rows


def difference_rows(name: str, difference: Mapping[str, object]) -> dict[str, float]:
    """A difference and the bounds of its interval, where it has one, as rows of a scorecard.

    Args:
        name: Its name.
        difference: With `difference`, `low` and `high`.
    """
    rows = {}
    for key, row in (("difference", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
        value = difference[key]
        if isinstance(value, (int, float)):
            rows[row] = round(value, DECIMALS)
    return rows
