"""KFP component: evaluations side by side."""

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare_evaluations(
    baselines: dsl.Input[dsl.Artifact],
    evaluations: dsl.Input[list[dsl.Artifact]],
    comparison: dsl.Output[dsl.Artifact],
    table: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
):
    """Compare models that were evaluated on the same rows, with paired intervals clustered by user.

    Refuses evaluations of different rows or protocols.

    Args:
        baselines: Evaluation of the SFT model and of the baselines.
        evaluations: Evaluations of the trained models.
        comparison: Folder of the comparison.
        table: The models' metrics.
        report: The comparison's page: metrics, differences, curves, single rows.
    """
    from pathlib import Path

    from dynamicpo.evaluation.comparison import compare_evaluations as run
    from dynamicpo.runs.component_artifacts import copy_file, copy_report

    folders = [Path(artifact.path) for artifact in [baselines, *evaluations]]
    run(folders, Path(comparison.path))
    copy_file(Path(comparison.path) / "table.md", table)
    copy_report(Path(comparison.path), report)
