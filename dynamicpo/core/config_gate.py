"""The settings of the promotion gate."""

from dataclasses import dataclass

from dynamicpo.core.config_fields import MOST_RESAMPLES, Checked, setting

GATE_RULES = ("superior", "not-worse")
BEST_METRIC = "auto"  # the nearest to what is served that all models have
GATE_METRICS = (
    BEST_METRIC,
    "served_ndcg_at_10",
    "ndcg_at_10",
    "hit_ratio_at_1",
    "hit_ratio_at_10",
    "mrr",
)


@dataclass(frozen=True, kw_only=True)
class GateConfig(Checked):
    """A challenger against the champion, on rows later than all that either was trained on."""

    store: str = setting("", "where versions are: gs://..., s3://..., minio://... or a folder")
    challenger: str = setting("", "name of the challenger in the evaluation")
    rule: str = setting(
        "superior",
        "what promotes: a clear gain, or (for freshness) no clear loss against any champion so far",
        choices=GATE_RULES,
    )
    metric: str = setting(
        BEST_METRIC,
        "what is compared, row by row; auto: served_ndcg_at_10 where the evaluation measured what "
        "each model would serve, else ndcg_at_10",
        choices=GATE_METRICS,
    )
    margin: float = setting(
        0.01,
        "loss that counts as none, and difference that the rows must be able to show",
        above=0,
        unit="of the metric",
    )
    guard_margin: float = setting(
        0.02, "clear loss in a guardrail that keeps the champion", above=0, unit="of the guardrail"
    )
    min_users: int = setting(100, "keep the champion below so many users", low=2, unit="users")
    resamples: int = setting(
        2000,
        "resamples of users, for intervals",
        low=100,
        high=MOST_RESAMPLES,
        unit="dimensionless",
    )
    seed: int = setting(0, "seed of the intervals", low=0, unit="dimensionless")
