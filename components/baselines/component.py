"""KFP component: the baselines on held-out rows."""

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate_baselines(
    preferences: dsl.Input[dsl.Dataset],
    evaluation: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    # Written by dynamicpo_pipelines.signatures
    settings: dict = {},  # noqa: B006
    # to here.
):
    """Train the baselines, and rank the candidates of held-out rows with them.

    They need the rows alone: this task runs beside fine-tuning. What evaluates the model takes the
    trained SASRec from here.

    Args:
        preferences: Folder of preference rows, from negative sampling.
        evaluation: Folder with NAME/metrics.json and NAME/ranks.parquet of each baseline, and the
            trained ones in generators/.
        report: The evaluation's page.
        settings: Other settings by name; those above win.
    """
    from dataclasses import replace
    from pathlib import Path

    from dynamicpo.core.config import EvaluationConfig
    from dynamicpo.evaluation.evaluate import evaluate as run
    from dynamicpo.runs.component_artifacts import compiled_checkpoints, config_of, copy_report

    folder = Path(evaluation.path)
    config = config_of(EvaluationConfig, settings)
    # There is no model whose base it would be, and none to be served.
    config = replace(config, base=False, generator="none")
    run(Path(preferences.path), {}, folder, config, compiled_checkpoints())
    copy_report(folder, report)
