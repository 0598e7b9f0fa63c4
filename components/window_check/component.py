"""KFP component: drift of a new window from what the champion knows, and whether to train on it."""

from typing import NamedTuple

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_window(
    current: dsl.Input[dsl.Dataset],
    drift: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    rollback: dsl.Output[dsl.Markdown],
    plan: dict,
    # Written by dynamicpo_pipelines.signatures
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple("Outputs", [("trains", bool), ("why", str), ("status", str)]):
    """Compare a window with what the champion was trained and gated on, and decide on a training.

    One is started when the window has drifted, when it was forced, or when there is no champion.
    Of too few users nothing can be told, and nothing starts.

    Args:
        current: Folder of the window's preference rows.
        drift: Folder with the distances and the verdict.
        metrics: The verdict, share of drifted columns and each column's distance.
        report: Verdict, distances and earlier checks.
        rollback: Whether the champion before the present one is clearly better on the same rows, so
            that going back is recommended; with auto_rollback the champion has moved, and nothing
            is trained.
        plan: The decision that the run began with.
        settings: Other settings by name; those above win.

    Returns:
        trains: Whether a challenger is trained.
        why: The same in words.
        status: "drifted", "not drifted", "too few users" or "no champion".
    """
    from pathlib import Path

    from dynamicpo.core.config import DriftConfig
    from dynamicpo.monitoring.rollback import rollback_text
    from dynamicpo.promotion.retraining_plan import plan_of
    from dynamicpo.promotion.window_check import check_window as run
    from dynamicpo.runs.component_artifacts import config_of, copy_report, log_stage_metrics

    output = Path(drift.path)
    config = config_of(DriftConfig, settings)
    checked = run(Path(current.path), output, config, plan_of(plan))
    log_stage_metrics(metrics, checked.drift)
    copy_report(output, report)
    Path(rollback.path).write_text(rollback_text(output), encoding="utf-8")
    return checked.trains, checked.why, str(checked.drift.extra["status"])
