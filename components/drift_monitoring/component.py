"""KFP component: newer rows against the rows that a model was trained on."""

from typing import NamedTuple, Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def monitor_drift(
    current: dsl.Input[dsl.Dataset],
    drift: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    rollback: dsl.Output[dsl.Markdown],
    reference: Optional[dsl.Input[dsl.Dataset]] = None,
    model: Optional[dsl.Input[dsl.Model]] = None,
    # Written by dynamicpo_pipelines.signatures
    split: Optional[str] = None,
    threshold: Optional[float] = None,
    rows: Optional[int] = None,
    seed: Optional[int] = None,
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple("Outputs", [("drifted", bool), ("status", str)]):
    """Compare a current window of rows with what a model was trained and gated on.

    Users' activity, popularity and category are compared with its training window; history length,
    share of unseen items and, with a model, score, margin and HitRatio with its held-out window.
    The task never fails because of drift.

    Args:
        current: Folder of newer preference rows.
        drift: Folder with the distances and the verdict.
        metrics: The verdict, share of drifted columns and each column's distance.
        report: Verdict, distances and earlier checks, on top of Evidently's report.
        rollback: Whether the champion before the present one is clearly better on the same rows, so
            that going back is recommended; with auto_rollback the champion has moved.
        reference: Folder of preference rows that the model was trained on (without it: the store's
            champion, or where no store is set the current folder's own training rows). The metadata
            store takes an artifact as one input of a task, so never the current one once more.
        model: Model folder; its signals are then compared as well. A version has one.
        split: Split of the current window [train, validation, test].
        threshold: A column of numbers has drifted when its distance reaches this and is no chance.
        rows: At most so many rows of each window, chosen at random (0: all).
        seed: Seed of the choice of rows.
        settings: Other settings by name; those above win.

    Returns:
        drifted: Whether the rows have drifted, by the stated rule; false where users are too few.
        status: "drifted", "not drifted" or "too few users".
    """
    from pathlib import Path

    from dynamicpo.core.config import DriftConfig
    from dynamicpo.monitoring.rollback import rollback_text
    from dynamicpo.promotion.version_drift import monitor_window
    from dynamicpo.runs.component_artifacts import config_of, copy_report, log_stage_metrics

    scored = Path(model.path) if model else None
    config = config_of(
        DriftConfig, settings, split=split, threshold=threshold, rows=rows, seed=seed
    )
    output = Path(drift.path)
    manifest = monitor_window(
        Path(reference.path) if reference else None, Path(current.path), output, config, scored
    )
    log_stage_metrics(metrics, manifest)
    copy_report(output, report)
    Path(rollback.path).write_text(rollback_text(output), encoding="utf-8")
    return bool(manifest.counts["drifted"]), str(manifest.extra["status"])
