"""KFP component: the verdict of the collapse study."""

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def judge_collapse(
    baselines: dsl.Input[dsl.Artifact],
    evaluations: dsl.Input[list[dsl.Artifact]],
    study: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    verdict: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    min_drop: float = 0.02,
    level: float = 0.05,
):
    """Judge if ranking got worse with more negatives while the loss fell, and DynamicPO's effect.

    Compares all cells on the same rows, over seeds and users, corrected for the number of
    comparisons.

    Args:
        baselines: Evaluation of the SFT model that all cells started from, and of the baselines.
        evaluations: Evaluations of the cells.
        study: Folder with study.json (every number) and figure.svg (the main measures at a glance).
        metrics: HitRatio@1, loss and boundary figures of every kind of cell; how many collapsed.
        verdict: The verdict in words and its table.
        report: The study's page: the verdict, and every measure against the number of negatives.
        min_drop: Smallest fall of HitRatio@1 that counts as a collapse.
        level: A difference is clear where p, after Holm's correction, is below this.
    """
    arguments = dict(locals())
    from pathlib import Path

    from dynamicpo.core.config import StudyConfig
    from dynamicpo.runs.component_artifacts import config_of, copy_file, copy_report, log_metrics
    from dynamicpo.study.judge import judge_collapse as run

    folder, cells = Path(study.path), [Path(artifact.path) for artifact in evaluations]
    manifest = run(Path(baselines.path), cells, folder, config_of(StudyConfig, arguments))
    log_metrics(metrics, manifest.counts)
    copy_file(folder / "verdict.md", verdict)
    copy_report(folder, report)
