"""Metrics that Kubeflow shows of a stage: at most ten of those in its manifest.

Its comparison of runs has a row for each metric of each task. Bounds of intervals and all else
stand in the stage's report and in its manifest.
"""

from collections.abc import Mapping

from dynamicpo.core.records.manifest import Manifest
from dynamicpo.reports.pages.metric_names import without_split

MOST_METRICS = 10
# By the stage's name in its manifest; metrics of an evaluation without their split. Stages that are
# not here have fewer than that.
SHOWN_METRICS: Mapping[str, tuple[str, ...]] = {
    "prepare_data": (
        # Of tables and of published rows; the other has none of that name.
        *("interactions_read", "rows_read"),
        *("dropped_unknown_items", "dropped_k_core", "dropped_short_histories"),
        *("users", "items", "train_rows", "validation_rows", "test_rows"),
    ),
    "sample_negatives": (
        *("train_rows", "validation_rows", "test_rows", "items"),
        # How far a lookup that ignores the history gets on held-out lists, and how far by chance.
        *("validation_audit_hit_ratio_at_1", "validation_audit_chance"),
        *("test_audit_hit_ratio_at_1", "test_audit_chance"),
    ),
    "preference_training": (
        *("rows", "steps", "final_loss"),
        *("final_rewards_chosen", "final_rewards_rejected", "final_rewards_accuracies"),
        *("final_boundary_fraction", "final_violation_share", "final_boundary_beta"),
        "final_boundary_gradient_relative",
    ),
    "monitor_drift": (
        *("drifted", "too_few_users", "user_activity_distance", "popularity_bucket_distance"),
        *("category_distance", "history_length_distance", "unseen_share_distance"),
        *("chosen_score_distance", "margin_distance", "hit_distance"),
    ),
    "evaluate": (
        *("hit_ratio_at_1", "hit_ratio_at_5", "ndcg_at_5", "mrr"),
        *("valid_ratio", "generated_hit_ratio_at_1"),
        *("catalogue_coverage", "mean_popularity", "rows", "nan_scores"),
    ),
}


def shown_metrics(manifest: Manifest) -> dict[str, float]:
    """The metrics of a stage's manifest that Kubeflow shows.

    Args:
        manifest: The stage's manifest; in an evaluation, that of one model.
    """
    names = SHOWN_METRICS.get(manifest.stage)
    if names is None:
        return manifest.counts
    return {
        name: value
        for name, value in manifest.counts.items()
        if name in names or (manifest.stage == "evaluate" and without_split(name) in names)
    }
