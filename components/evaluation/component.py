"""KFP component: one model and the baselines on held-out rows."""

from typing import NamedTuple, Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    preferences: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    name: str,
    baselines: Optional[dsl.Input[dsl.Artifact]] = None,
    # Written by dynamicpo_pipelines.signatures
    candidates: Optional[str] = None,
    rows: Optional[int] = None,
    base: Optional[bool] = None,
    sasrec: Optional[bool] = None,
    generator: Optional[str] = None,
    seed: Optional[int] = None,
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple("Outputs", [("evaluation_uri", str), ("report_uri", str)]):
    """Rank the candidates of held-out rows with one model, and with the baselines.

    One model a task: KFP's compare page then has one column for each.

    Args:
        preferences: Folder of preference rows, from negative sampling.
        model: Model folder, from SFT or preference training.
        evaluation: Folder with NAME/metrics.json and NAME/ranks.parquet of the model and of each
            baseline.
        metrics: The model's metrics with their 95 % intervals.
        report: The evaluation's page.
        name: What the model is called in tables and charts.
        baselines: Evaluation of the baselines on the same rows, whose SASRec is taken instead of
            training another.
        candidates: What is ranked: a row's own list, the whole catalogue but what is excluded, or
            both [listed, catalogue, listed,catalogue].
        rows: Evaluate at most this many rows, chosen at random (0: all).
        base: Also evaluate the untrained base model.
        sasrec: Also train and evaluate SASRec, a sequential recommender without language.
        generator: What proposes the items that a model ranks when it serves (catalogue: it ranks
            all of them); measured where one is named [none, sasrec, cooccurrence, catalogue].
        seed: Seed of the bootstrap, of the rows and of SASRec.
        settings: Other settings by name; those above win.

    Returns:
        evaluation_uri: Where the evaluation lies.
        report_uri: Where its page lies.
    """
    from pathlib import Path

    from dynamicpo.core.config import EvaluationConfig
    from dynamicpo.evaluation.evaluate import evaluate as run
    from dynamicpo.runs.component_artifacts import (
        compiled_checkpoints,
        config_of,
        copy_report,
        log_stage_metrics,
    )

    folder = Path(evaluation.path)
    config = config_of(
        EvaluationConfig,
        settings,
        candidates=candidates,
        rows=rows,
        base=base,
        sasrec=sasrec,
        generator=generator,
        seed=seed,
    )
    models = {name: Path(model.path)}
    trained = Path(baselines.path) if baselines else None
    manifest = run(Path(preferences.path), models, folder, config, compiled_checkpoints(), trained)
    log_stage_metrics(metrics, manifest, name)
    copy_report(folder, report)
    return evaluation.uri, report.uri
