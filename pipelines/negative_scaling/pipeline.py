"""The collapse study: preference training with more and more negatives, from one SFT model."""

from kfp import dsl

from dynamicpo_components.cell_plan.component import plan_cells
from dynamicpo_components.data_prep.component import prepare_data
from dynamicpo_components.preference_training.component import train_preferences
from dynamicpo_components.settings_check.component import check_settings
from dynamicpo_components.study.component import judge_collapse
from dynamicpo_pipelines.description import description_of
from dynamicpo_pipelines.placement import never_cached, on_cpu, run_facts
from dynamicpo_pipelines.training_chain import evaluate_trained, run_outputs, sample_rows, train_sft


@dsl.pipeline(name="negative_scaling", description=description_of("negative_scaling"))
def negative_scaling(
    # Written by dynamicpo_pipelines.signatures
    data_source: str = "movielens",
    data_interactions: str = "",
    data_items: str = "",
    data_k_core: int = 1,
    negatives_num_candidates: int = 20,
    sft_backbone: str = "compact",
    sft_loss_on: str = "history",
    sft_rows: int = 5000,
    sft_max_steps: int = 80,
    sft_learning_rate: float = 0.0,
    grid_num_negatives: str = "1,5,19",
    grid_objectives: str = "dmpo,sdpo",
    grid_variants: str = "none,full",
    grid_seeds: str = "0,1,2",
    preference_rows: int = 32000,
    preference_epochs: float = 1.0,
    preference_learning_rate: float = 0.002,
    evaluation_rows: int = 0,
    evaluation_sasrec: bool = False,
    seed: int = 0,
    data_settings: dict = {},  # noqa: B006
    negatives_settings: dict = {},  # noqa: B006
    sft_settings: dict = {},  # noqa: B006
    preference_settings: dict = {},  # noqa: B006
    evaluation_settings: dict = {},  # noqa: B006
    study_settings: dict = {},  # noqa: B006
    # to here.
):
    """Train with more and more negatives, with and without DynamicPO, to see if ranking collapses.

    data preparation -> negative sampling -> SFT -> preference training and evaluation, once for
    each cell of objective, variant, number of negatives and seed -> one page: HitRatio@1, loss and
    boundary figures against the number of negatives, and whether DynamicPO prevents a collapse
    (arXiv 2605.00327).
    """
    checking = check_settings(
        # Written by dynamicpo_pipelines.signatures
        pipeline="negative_scaling",
        data_source=data_source,
        data_interactions=data_interactions,
        data_items=data_items,
        data_k_core=data_k_core,
        negatives_num_candidates=negatives_num_candidates,
        sft_backbone=sft_backbone,
        sft_loss_on=sft_loss_on,
        sft_rows=sft_rows,
        sft_max_steps=sft_max_steps,
        sft_learning_rate=sft_learning_rate,
        grid_num_negatives=grid_num_negatives,
        grid_objectives=grid_objectives,
        grid_variants=grid_variants,
        grid_seeds=grid_seeds,
        preference_rows=preference_rows,
        preference_epochs=preference_epochs,
        preference_learning_rate=preference_learning_rate,
        evaluation_rows=evaluation_rows,
        evaluation_sasrec=evaluation_sasrec,
        seed=seed,
        data_settings=data_settings,
        negatives_settings=negatives_settings,
        sft_settings=sft_settings,
        preference_settings=preference_settings,
        evaluation_settings=evaluation_settings,
        study_settings=study_settings,
        # to here.
    )
    # Bad input fails again, however often it is tried.
    checked = on_cpu(checking, is_retried=False).outputs
    prepared = prepare_data(
        interactions=data_interactions, items=data_items, settings=checked["data"]
    )
    sampled = sample_rows(prepared, checked)
    sft = train_sft(sampled, checked)
    cells = on_cpu(plan_cells(settings=checked["grid"]))
    with dsl.ParallelFor(cells.output, name="each cell") as cell:
        training = train_preferences(
            preferences=sampled.outputs["preferences"],
            adapter=sft.training.outputs["model"],
            name=cell.cell,
            loss=cell.loss,
            dynamic=cell.dynamic,
            num_negatives=cell.num_negatives,
            seed=cell.seed,
            settings=checked["preference"],
        )
        models = evaluate_trained(training, sampled, cell.cell, checked)
    judged = judge_collapse(
        settings=checked["study"],
        **run_outputs(sampled, sft, models),
        **run_facts("negative_scaling", checked["parameters"]),
    )
    never_cached(on_cpu(judged))
