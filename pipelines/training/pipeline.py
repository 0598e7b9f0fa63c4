"""The training pipeline: interactions to compared models, with drift beside it."""

from kfp import dsl

from dynamicpo_components.comparison.component import compare_evaluations
from dynamicpo_components.data_prep.component import prepare_data
from dynamicpo_components.drift_monitoring.component import monitor_drift
from dynamicpo_components.evaluation.component import evaluate
from dynamicpo_components.negative_sampling.component import sample_negatives
from dynamicpo_components.preference_training.component import train_preferences
from dynamicpo_components.settings_check.component import check_settings
from dynamicpo_components.sft.component import fine_tune
from dynamicpo_pipelines.description import description_of
from dynamicpo_pipelines.placement import never_cached, on_cpu, on_gpu, run_facts


@dsl.pipeline(name="training", description=description_of("training"))
def training(
    # Written by dynamicpo_pipelines.signatures
    data_source: str = "movielens",
    data_interactions: str = "",
    data_items: str = "",
    data_k_core: int = 1,
    negatives_num_candidates: int = 20,
    negatives_strategy: str = "uniform",
    sft_backbone: str = "compact",
    sft_loss_on: str = "history",
    sft_rows: int = 5000,
    sft_epochs: float = 1.0,
    sft_max_steps: int = 80,
    sft_learning_rate: float = 0.0,
    objectives: list = [  # noqa: B006
        {"objective": "dmpo", "loss": "dmpo", "dynamic": "none"},
        {"objective": "sdpo", "loss": "sdpo", "dynamic": "none"},
        {"objective": "dynamicpo-dmpo", "loss": "dmpo", "dynamic": "full"},
    ],
    preference_num_negatives: int = 19,
    preference_rows: int = 16000,
    preference_epochs: float = 2.0,
    preference_learning_rate: float = 0.0,
    evaluation_rows: int = 0,
    evaluation_candidates: str = "listed",
    seed: int = 0,
    data_settings: dict = {},  # noqa: B006
    negatives_settings: dict = {},  # noqa: B006
    sft_settings: dict = {},  # noqa: B006
    preference_settings: dict = {},  # noqa: B006
    evaluation_settings: dict = {},  # noqa: B006
    drift_settings: dict = {},  # noqa: B006
    # to here.
):
    """Train an LLM recommender with DynamicPO, compare it with its SFT model and with baselines.

    data preparation -> negative sampling -> SFT -> preference training, once for each objective ->
    evaluation -> comparison; drift monitoring of the test split beside it.
    """
    checking = check_settings(
        # Written by dynamicpo_pipelines.signatures
        pipeline="training",
        data_source=data_source,
        data_interactions=data_interactions,
        data_items=data_items,
        data_k_core=data_k_core,
        negatives_num_candidates=negatives_num_candidates,
        negatives_strategy=negatives_strategy,
        sft_backbone=sft_backbone,
        sft_loss_on=sft_loss_on,
        sft_rows=sft_rows,
        sft_epochs=sft_epochs,
        sft_max_steps=sft_max_steps,
        sft_learning_rate=sft_learning_rate,
        objectives=objectives,
        preference_num_negatives=preference_num_negatives,
        preference_rows=preference_rows,
        preference_epochs=preference_epochs,
        preference_learning_rate=preference_learning_rate,
        evaluation_rows=evaluation_rows,
        evaluation_candidates=evaluation_candidates,
        seed=seed,
        data_settings=data_settings,
        negatives_settings=negatives_settings,
        sft_settings=sft_settings,
        preference_settings=preference_settings,
        evaluation_settings=evaluation_settings,
        drift_settings=drift_settings,
        # to here.
    )
    # Bad input fails again, however often it is tried.
    checked = on_cpu(checking, is_retried=False).outputs
    prepared = prepare_data(
        interactions=data_interactions, items=data_items, settings=checked["data"]
    )
    examples = on_cpu(prepared).outputs["examples"]
    sampled = on_cpu(sample_negatives(examples=examples, settings=checked["negatives"]))
    preferences = sampled.outputs["preferences"]
    tuned = on_gpu(fine_tune(preferences=preferences, settings=checked["sft"]))
    sft = tuned.outputs["model"]
    baselines = on_gpu(
        evaluate(preferences=preferences, model=sft, name="sft", settings=checked["evaluation"])
    )
    baselines.set_display_name("evaluate sft")
    with dsl.ParallelFor(checked["objectives"], name="each objective") as entry:
        trained = train_preferences(
            preferences=preferences,
            adapter=sft,
            name=entry.objective,
            loss=entry.loss,
            dynamic=entry.dynamic,
            settings=checked["preference"],
        )
        model = on_gpu(trained).outputs["model"]
        evaluated = on_gpu(
            evaluate(
                preferences=preferences,
                model=model,
                name=entry.objective,
                # The baselines are the same for all models: evaluated once, above.
                base=False,
                sasrec=False,
                settings=checked["evaluation"],
            )
        )
        evaluated.set_display_name("evaluate")
    compared = compare_evaluations(
        baselines=baselines.outputs["evaluation"],
        evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
        rows_uri=sampled.outputs["preferences_uri"],
        sft_uri=tuned.outputs["model_uri"],
        sft_report_uri=tuned.outputs["report_uri"],
        baselines_report_uri=baselines.outputs["report_uri"],
        model_uris=dsl.Collected(trained.outputs["model_uri"]),
        training_report_uris=dsl.Collected(trained.outputs["report_uri"]),
        evaluation_report_uris=dsl.Collected(evaluated.outputs["report_uri"]),
        **run_facts("training", checked["parameters"]),
    )
    never_cached(on_cpu(compared))
    on_cpu(monitor_drift(reference=preferences, settings=checked["drift"]))
