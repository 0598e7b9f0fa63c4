"""The training pipeline: interactions to compared models, with drift beside it."""

from kfp import dsl

from dynamicpo_components.comparison.component import compare_evaluations
from dynamicpo_components.data_prep.component import prepare_data
from dynamicpo_components.drift_monitoring.component import monitor_drift
from dynamicpo_components.settings_check.component import check_settings
from dynamicpo_pipelines.description import description_of
from dynamicpo_pipelines.placement import never_cached, on_cpu, run_facts
from dynamicpo_pipelines.training_chain import run_outputs, sample_rows, train_objective, train_sft


@dsl.pipeline(name="training", description=description_of("training"))
def training(
    # Written by dynamicpo_pipelines.signatures
    data_source: str = "movielens",
    data_interactions: str = "",
    data_items: str = "",
    data_k_core: int = 1,
    negatives_num_candidates: int = 20,
    negatives_strategy: str = "popularity",
    sft_backbone: str = "compact",
    sft_loss_on: str = "history",
    sft_rows: int = 0,
    sft_epochs: float = 16.0,
    sft_max_steps: int = 0,
    sft_learning_rate: float = 0.0,
    objectives: list = [  # noqa: B006
        {"objective": "dmpo", "loss": "dmpo", "dynamic": "none"},
        {"objective": "sdpo", "loss": "sdpo", "dynamic": "none"},
        {"objective": "dynamicpo-dmpo", "loss": "dmpo", "dynamic": "full"},
    ],
    preference_num_negatives: int = 19,
    preference_rows: int = 30000,
    preference_epochs: float = 1.0,
    preference_learning_rate: float = 0.0,
    evaluation_rows: int = 0,
    evaluation_candidates: str = "listed,catalogue",
    seed: int = 0,
    data_settings: dict = {},  # noqa: B006
    negatives_settings: dict = {},  # noqa: B006
    sft_settings: dict = {  # noqa: B006
        "sequences": True,
        "dropout": 0.3,
        "patience": 5,
        "eval_steps": 135,
    },
    preference_settings: dict = {  # noqa: B006
        "sft_weight": 0.5,
    },
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
    sampled = sample_rows(prepared, checked)
    sft = train_sft(sampled, checked)
    with dsl.ParallelFor(checked["objectives"], name="each objective") as entry:
        models = train_objective(sampled, sft, entry, checked)
    compared = compare_evaluations(
        **run_outputs(sampled, sft, models), **run_facts("training", checked["parameters"])
    )
    never_cached(on_cpu(compared))
    preferences = sampled.outputs["preferences"]
    on_cpu(monitor_drift(current=preferences, settings=checked["drift"]))
