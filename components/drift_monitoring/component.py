"""KFP component: newer rows against the rows that a model was trained on."""

from typing import Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def monitor_drift(
    reference: dsl.Input[dsl.Dataset],
    drift: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    current: Optional[dsl.Input[dsl.Dataset]] = None,
    model: Optional[dsl.Input[dsl.Model]] = None,
    # Written by dynamicpo_pipelines.signatures
    split: Optional[str] = None,
    threshold: Optional[float] = None,
    rows: Optional[int] = None,
    seed: Optional[int] = None,
    settings: dict = {},  # noqa: B006
    # to here.
) -> bool:
    """Compare a current window of rows with the reference's training split.

    Looks at history length, user activity, popularity, category, share of unseen items and, with a
    model, the score of the chosen item.

    Args:
        reference: Folder of preference rows that the model was trained on.
        drift: Folder with the scores and the verdict.
        metrics: Share of drifted columns, the verdict and each column's distance.
        report: Evidently's report.
        current: Folder of newer preference rows (without it: the reference itself). The metadata
            store takes an artifact as one input of a task, so never the reference once more.
        model: Model folder; its score of the chosen item is then compared as well.
        split: Split of the current window that is compared with the reference's training split
            [train, validation, test].
        threshold: A column has drifted when its distance reaches this.
        rows: At most so many rows of each window, chosen at random (0: all).
        seed: Seed of the choice of rows.
        settings: Other settings by name; those above win.

    Returns:
        Whether the rows have drifted, by the stated rule.
    """
    from pathlib import Path

    from dynamicpo.core.config import DriftConfig
    from dynamicpo.monitoring.drift import monitor_drift as run
    from dynamicpo.runs.component_artifacts import config_of, copy_report, log_stage_metrics

    window = Path((current or reference).path)
    scored = Path(model.path) if model else None
    config = config_of(
        DriftConfig, settings, split=split, threshold=threshold, rows=rows, seed=seed
    )
    manifest = run(Path(reference.path), window, Path(drift.path), config, scored)
    log_stage_metrics(metrics, manifest)
    copy_report(Path(drift.path), report)
    return bool(manifest.counts["drifted"])
