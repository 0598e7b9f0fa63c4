"""KFP component: evaluations side by side, and the record of the run."""

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def compare_evaluations(
    baselines: dsl.Input[dsl.Artifact],
    evaluations: dsl.Input[list[dsl.Artifact]],
    comparison: dsl.Output[dsl.Artifact],
    scorecard: dsl.Output[dsl.Metrics],
    table: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    record: dsl.Output[dsl.Artifact],
    rows_uri: str,
    sft_uri: str,
    sft_report_uri: str,
    baselines_report_uri: str,
    model_uris: list,
    training_report_uris: list,
    evaluation_report_uris: list,
    run_id: str = "",
    pipeline: str = "",
    images: list = [],  # noqa: B006
    parameters: dict = {},  # noqa: B006
    retraining: dict = {},  # noqa: B006
):
    """Compare models that were evaluated on the same rows, with paired intervals clustered by user.

    Refuses evaluations of different rows or protocols. Writes the run's record, too; what others
    made is passed as URIs, because KFP would download all of an artifact.

    Args:
        baselines: Evaluation of the SFT model and of the baselines.
        evaluations: Evaluations of the trained models.
        comparison: Folder of the comparison.
        scorecard: HitRatio@1 of every model, and differences of models with their bounds.
        table: The models' metrics.
        report: The comparison's page: metrics, differences, curves, single rows.
        record: Folder with record.json: parameters, images, version, every model's metrics, and the
            URIs below.
        rows_uri: Where the preference rows lie.
        sft_uri: Where the SFT model lies.
        sft_report_uri: Where its training's page lies.
        baselines_report_uri: Where the page of its evaluation lies.
        model_uris: Where the trained models lie, in the order of the evaluations.
        training_report_uris: Where the pages of their trainings lie.
        evaluation_report_uris: Where the pages of their evaluations lie.
        run_id: The run's id.
        pipeline: The pipeline's name.
        images: The images of its tasks.
        parameters: All its parameters.
        retraining: The decision on the challenger; empty in other pipelines.
    """
    from pathlib import Path

    from dynamicpo.evaluation.comparison import compare_evaluations as run
    from dynamicpo.runs.cluster.record import RunFacts, StageUris, write_record
    from dynamicpo.runs.component_artifacts import copy_file, copy_report, log_metrics

    evaluated, folder = [baselines, *evaluations], Path(comparison.path)
    manifest = run([Path(artifact.path) for artifact in evaluated], folder)
    log_metrics(scorecard, manifest.extra["scorecard"])
    copy_file(folder / "table.md", table)
    copy_report(folder, report)
    uris = StageUris(
        rows=rows_uri,
        models=[sft_uri, *model_uris],
        training_reports=[sft_report_uri, *training_report_uris],
        evaluation_reports=[baselines_report_uri, *evaluation_report_uris],
    )
    facts = RunFacts(run_id, pipeline, images, parameters)
    write_record(Path(record.path), facts, evaluated, uris, report.uri, retraining)
