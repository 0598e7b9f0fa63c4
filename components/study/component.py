"""KFP component: the verdict of the collapse study, and the record of the run."""

from typing import Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def judge_collapse(
    baselines: dsl.Input[dsl.Artifact],
    evaluations: dsl.Input[list[dsl.Artifact]],
    study: dsl.Output[dsl.Artifact],
    scorecard: dsl.Output[dsl.Metrics],
    verdict: dsl.Output[dsl.Markdown],
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
    # Written by dynamicpo_pipelines.signatures
    min_drop: Optional[float] = None,
    level: Optional[float] = None,
    settings: dict = {},  # noqa: B006
    # to here.
):
    """Judge if ranking got worse with more negatives while the loss fell, and DynamicPO's effect.

    Compares all cells on the same rows, over seeds and users, corrected for the number of
    comparisons. Writes the run's record, too; what others made is passed as URIs, because KFP would
    download all of an artifact.

    Args:
        baselines: Evaluation of the SFT model that all cells started from, and of the baselines.
        evaluations: Evaluations of the cells.
        study: Folder with study.json (every number) and figure.svg (the main measures at a glance).
        scorecard: HitRatio@1 of each objective at its fewest and its most negatives, the
            differences that the verdicts go by with their bounds, how many collapsed.
        verdict: The verdict in words and its table.
        report: The study's page: the verdict, and every measure against the number of negatives.
        record: Folder with record.json: parameters, images, version, every model's metrics, and the
            URIs below.
        rows_uri: Where the preference rows lie.
        sft_uri: Where the SFT model lies.
        sft_report_uri: Where its training's page lies.
        baselines_report_uri: Where the page of its evaluation lies.
        model_uris: Where the cells' models lie, in the order of the evaluations.
        training_report_uris: Where the pages of their trainings lie.
        evaluation_report_uris: Where the pages of their evaluations lie.
        run_id: The run's id.
        pipeline: The pipeline's name.
        images: The images of its tasks.
        parameters: All its parameters.
        min_drop: Smallest fall of HitRatio@1 that counts as a collapse.
        level: A difference is clear where p, after Holm's correction, is below this.
        settings: Other settings by name; those above win.
    """
    from pathlib import Path

    from dynamicpo.core.config import StudyConfig
    from dynamicpo.runs.cluster.record import RunFacts, StageUris, write_record
    from dynamicpo.runs.component_artifacts import config_of, copy_file, copy_report, log_metrics
    from dynamicpo.study.judge import judge_collapse as run

    folder, cells = Path(study.path), [Path(artifact.path) for artifact in evaluations]
    config = config_of(StudyConfig, settings, min_drop=min_drop, level=level)
    manifest = run(Path(baselines.path), cells, folder, config)
    log_metrics(scorecard, manifest.extra["scorecard"])
    copy_file(folder / "verdict.md", verdict)
    copy_report(folder, report)
    uris = StageUris(
        rows=rows_uri,
        models=[sft_uri, *model_uris],
        training_reports=[sft_report_uri, *training_report_uris],
        evaluation_reports=[baselines_report_uri, *evaluation_report_uris],
    )
    write_record(
        Path(record.path),
        RunFacts(run_id, pipeline, images, parameters),
        [baselines, *evaluations],
        uris,
        report.uri,
    )
