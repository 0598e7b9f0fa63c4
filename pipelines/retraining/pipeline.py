"""The retraining pipeline: a new window, a challenger where it drifted, and the gate."""

from kfp import dsl

from dynamicpo_components.challenge.component import challenge_champion
from dynamicpo_components.comparison.component import compare_evaluations
from dynamicpo_components.data_prep.component import prepare_data
from dynamicpo_components.retraining_plan.component import plan_retraining
from dynamicpo_components.settings_check.component import check_settings
from dynamicpo_components.window_check.component import check_window
from dynamicpo_pipelines.description import description_of
from dynamicpo_pipelines.placement import made_anew, never_cached, on_cpu, on_gpu, run_facts
from dynamicpo_pipelines.training_chain import run_outputs, sample_rows, train_objective, train_sft


@dsl.pipeline(name="retraining", description=description_of("retraining"))
def retraining(
    # Written by dynamicpo_pipelines.signatures
    data_source: str = "movielens",
    data_interactions: str = "",
    data_items: str = "",
    data_k_core: int = 1,
    retrain_store: str = "",
    retrain_mode: str = "warm",
    retrain_forced: bool = False,
    retrain_until: str = "",
    retrain_window_days: int = 28,
    sft_backbone: str = "compact",
    sft_loss_on: str = "history",
    sft_rows: int = 5000,
    sft_max_steps: int = 80,
    objectives: list = [  # noqa: B006
        {"objective": "dynamicpo-dmpo", "loss": "dmpo", "dynamic": "full"},
    ],
    preference_num_negatives: int = 19,
    preference_rows: int = 8000,
    preference_epochs: float = 1.0,
    gate_rule: str = "superior",
    gate_metric: str = "auto",
    seed: int = 0,
    data_settings: dict = {},  # noqa: B006
    negatives_settings: dict = {},  # noqa: B006
    sft_settings: dict = {},  # noqa: B006
    preference_settings: dict = {  # noqa: B006
        "learning_rate": 0.002,
    },
    evaluation_settings: dict = {},  # noqa: B006
    drift_settings: dict = {},  # noqa: B006
    retrain_settings: dict = {},  # noqa: B006
    gate_settings: dict = {},  # noqa: B006
    # to here.
):
    """Look at a new window of data, train a challenger where it drifted, and promote or keep.

    decision -> data preparation -> negative sampling -> drift against the champion -> only where it
    drifted: SFT, preference training, once for each objective, challenger and champion on the same
    fresh rows, gate, promotion -> comparison. Each decision says why, and stays in the store.
    """
    checking = check_settings(
        # Written by dynamicpo_pipelines.signatures
        pipeline="retraining",
        data_source=data_source,
        data_interactions=data_interactions,
        data_items=data_items,
        data_k_core=data_k_core,
        retrain_store=retrain_store,
        retrain_mode=retrain_mode,
        retrain_forced=retrain_forced,
        retrain_until=retrain_until,
        retrain_window_days=retrain_window_days,
        sft_backbone=sft_backbone,
        sft_loss_on=sft_loss_on,
        sft_rows=sft_rows,
        sft_max_steps=sft_max_steps,
        objectives=objectives,
        preference_num_negatives=preference_num_negatives,
        preference_rows=preference_rows,
        preference_epochs=preference_epochs,
        gate_rule=gate_rule,
        gate_metric=gate_metric,
        seed=seed,
        data_settings=data_settings,
        negatives_settings=negatives_settings,
        sft_settings=sft_settings,
        preference_settings=preference_settings,
        evaluation_settings=evaluation_settings,
        drift_settings=drift_settings,
        retrain_settings=retrain_settings,
        gate_settings=gate_settings,
        # to here.
    )
    # Bad input fails again, however often it is tried.
    checked = on_cpu(checking, is_retried=False).outputs
    planned = plan_retraining(
        interactions=data_interactions,
        items=data_items,
        data=checked["data"],
        settings=checked["retrain"],
    )
    # The store and the data are others tomorrow, under the same addresses.
    plan = made_anew(on_cpu(planned)).outputs
    with dsl.If(plan["starts"] == True, name="a new window"):  # noqa: E712
        prepared = prepare_data(
            interactions=data_interactions,
            items=data_items,
            fingerprint=plan["fingerprint"],
            settings=plan["data"],
        )
        sampled = sample_rows(prepared, checked)
        preferences = sampled.outputs["preferences"]
        # It scores rows with the champion.
        drift = check_window(current=preferences, plan=plan["plan"], settings=checked["drift"])
        made_anew(on_gpu(drift))
        with dsl.If(drift.outputs["trains"] == True, name="to be trained on"):  # noqa: E712
            sft = train_sft(sampled, checked, start_from=plan["start_from"])
            with dsl.ParallelFor(checked["objectives"], name="each objective") as entry:
                models = train_objective(sampled, sft, entry, checked)
            challenged = challenge_champion(
                preferences=preferences,
                sft=sft.training.outputs["model"],
                models=dsl.Collected(models.training.outputs["model"]),
                objectives=checked["objectives"],
                plan=plan["plan"],
                evaluation_settings=checked["evaluation"],
                settings=checked["gate"],
            )
            made_anew(on_gpu(challenged))
            compared = compare_evaluations(
                retraining=challenged.outputs["outcome"],
                **run_outputs(sampled, sft, models),
                **run_facts("retraining", checked["parameters"]),
            )
            never_cached(on_cpu(compared))
