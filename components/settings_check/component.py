"""KFP component: the parameters of a run, checked before anything else runs."""

from typing import NamedTuple, Optional

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def check_settings(
    pipeline: str,
    # Written by dynamicpo_pipelines.signatures
    data_source: Optional[str] = None,
    data_interactions: Optional[str] = None,
    data_items: Optional[str] = None,
    data_k_core: Optional[int] = None,
    negatives_num_candidates: Optional[int] = None,
    negatives_strategy: Optional[str] = None,
    sft_backbone: Optional[str] = None,
    sft_loss_on: Optional[str] = None,
    sft_rows: Optional[int] = None,
    sft_epochs: Optional[float] = None,
    sft_max_steps: Optional[int] = None,
    sft_learning_rate: Optional[float] = None,
    objectives: Optional[list] = None,
    preference_num_negatives: Optional[int] = None,
    preference_rows: Optional[int] = None,
    preference_epochs: Optional[float] = None,
    preference_learning_rate: Optional[float] = None,
    evaluation_rows: Optional[int] = None,
    evaluation_candidates: Optional[str] = None,
    seed: Optional[int] = None,
    grid_num_negatives: Optional[str] = None,
    grid_objectives: Optional[str] = None,
    grid_variants: Optional[str] = None,
    grid_seeds: Optional[str] = None,
    evaluation_sasrec: Optional[bool] = None,
    retrain_store: Optional[str] = None,
    retrain_mode: Optional[str] = None,
    retrain_forced: Optional[bool] = None,
    retrain_until: Optional[str] = None,
    retrain_window_days: Optional[int] = None,
    gate_rule: Optional[str] = None,
    gate_metric: Optional[str] = None,
    data_settings: Optional[dict] = None,
    negatives_settings: Optional[dict] = None,
    sft_settings: Optional[dict] = None,
    preference_settings: Optional[dict] = None,
    evaluation_settings: Optional[dict] = None,
    drift_settings: Optional[dict] = None,
    study_settings: Optional[dict] = None,
    retrain_settings: Optional[dict] = None,
    gate_settings: Optional[dict] = None,
    # to here.
) -> NamedTuple(
    "Outputs",
    [
        ("data", dict),
        ("negatives", dict),
        ("sft", dict),
        ("preference", dict),
        ("evaluation", dict),
        ("drift", dict),
        ("grid", dict),
        ("study", dict),
        ("retrain", dict),
        ("gate", dict),
        ("objectives", list),
        ("parameters", dict),
    ],
):
    """Check all parameters of a run, each by itself and with the others, and name every mistake.

    Each stage takes its settings from here, so that nothing starts before they are known to be
    good. Its parameters are those of all pipelines; a run has those of its own.

    Args:
        pipeline: Name of the pipeline.
        data_source: What the input is: two tables, a data set's own files, or published rows
            [table, movielens, hetrec-lastfm, lastfm-1k, lfm-1b, lfm-2b, steam, goodreads,
            amazon-2023, published].
        data_interactions: File of interactions: user_id, item_id, timestamp, optional rating; CSV,
            TSV, JSONL or Parquet, local or in an object store. For 'movielens' a GroupLens zip or
            folder (empty: the copy in the recbole wheel); for 'published' a file or folder of rows.
        data_items: File of items: item_id, title, optional category. Only for 'table'.
        data_k_core: Drop users and items with fewer interactions, until none is left (1: keep all).
        negatives_num_candidates: Candidates per row, the target included.
        negatives_strategy: How negatives are drawn; 'hard' and 'model' (mined by a fine-tuned
            model) in training rows only, 'published' keeps the lists the rows came with [uniform,
            popularity, popularity-matched, hard, model, published].
        sft_backbone: 'compact', 'smollm2-135m', or a causal LM: Hugging Face id, folder or prefix.
        sft_loss_on: Tokens that carry the loss [answer, history].
        sft_rows: Train on at most this many rows, chosen at random (0: all).
        sft_epochs: Passes over the rows.
        sft_max_steps: Stop after this many steps (0: by epochs).
        sft_learning_rate: Peak learning rate (0: 2e-3 for compact, 1e-3 for LoRA, 1e-5 for all
            weights).
        objectives: What to train side by side: names such as dmpo or dynamicpo-dmpo, or
            {"objective": a name, "loss": one of dpo, dmpo, mppo, sdpo, simpo, "dynamic": one of
            none, full, selection, beta}.
        preference_num_negatives: Negatives per row: the first ones of the row's rejected items.
        preference_rows: Train on at most this many rows, first on those that SFT left (0: all).
        preference_epochs: Passes over the rows.
        preference_learning_rate: Peak learning rate (0: 3e-5 for compact, 1e-4 for LoRA, 1e-6 for
            all weights).
        evaluation_rows: Evaluate at most this many rows, chosen at random (0: all).
        evaluation_candidates: What is ranked: a row's own list, the whole catalogue but what is
            excluded, or both [listed, catalogue, listed,catalogue].
        seed: Seed of every stage whose settings name none.
        grid_num_negatives: Numbers of negatives K, with commas.
        grid_objectives: Base objectives, with commas [dmpo, mppo, sdpo, simpo].
        grid_variants: DynamicPO off, on, or one half of it, with commas [none, full, selection,
            beta].
        grid_seeds: Seeds of preference training, with commas.
        evaluation_sasrec: Also train and evaluate SASRec, a sequential recommender without
            language.
        retrain_store: Where versions and decisions are: gs://..., s3://..., minio://... or a
            folder.
        retrain_mode: Where SFT starts: from the champion's weights, or from the backbone's [warm,
            scratch].
        retrain_forced: Train though nothing drifted, or a drift was answered already.
        retrain_until: End of the new window, a date (UTC; empty: today).
        retrain_window_days: The window's last days, which nobody trains on: champion and challenger
            are compared there.
        gate_rule: What promotes: a clear gain, or (for freshness) no clear loss against any
            champion so far [superior, not-worse].
        gate_metric: What is compared, row by row; auto: served_ndcg_at_10 where the evaluation
            measured what each model would serve, else ndcg_at_10 [auto, served_ndcg_at_10,
            ndcg_at_10, hit_ratio_at_1, hit_ratio_at_10, mrr].
        data_settings: Other settings of data preparation, by name.
        negatives_settings: Other settings of negative sampling, by name.
        sft_settings: Other settings of supervised fine-tuning, by name.
        preference_settings: Other settings of preference training, by name.
        evaluation_settings: Other settings of evaluation, by name.
        drift_settings: Other settings of drift monitoring, by name.
        study_settings: Other settings of the study's verdict, by name.
        retrain_settings: Other settings of retraining, by name.
        gate_settings: Other settings of the promotion gate, by name.

    Returns:
        data: Settings of data preparation.
        negatives: Settings of negative sampling.
        sft: Settings of supervised fine-tuning.
        preference: Settings of preference training, without what the loop sets.
        evaluation: Settings of evaluation.
        drift: Settings of drift monitoring; empty in a study.
        grid: The lists of a study's cells; empty in a training.
        study: Settings of a study's verdict; empty in a training.
        retrain: Settings of retraining; empty in other pipelines.
        gate: Settings of the promotion gate; empty in other pipelines.
        objectives: What the training pipeline trains; empty in a study.
        parameters: All settings, by the names of the pipeline's parameters.
    """
    from dynamicpo.runs.settings_check import check_settings as run

    arguments = {
        # Written by dynamicpo_pipelines.signatures
        "data_source": data_source,
        "data_interactions": data_interactions,
        "data_items": data_items,
        "data_k_core": data_k_core,
        "negatives_num_candidates": negatives_num_candidates,
        "negatives_strategy": negatives_strategy,
        "sft_backbone": sft_backbone,
        "sft_loss_on": sft_loss_on,
        "sft_rows": sft_rows,
        "sft_epochs": sft_epochs,
        "sft_max_steps": sft_max_steps,
        "sft_learning_rate": sft_learning_rate,
        "objectives": objectives,
        "preference_num_negatives": preference_num_negatives,
        "preference_rows": preference_rows,
        "preference_epochs": preference_epochs,
        "preference_learning_rate": preference_learning_rate,
        "evaluation_rows": evaluation_rows,
        "evaluation_candidates": evaluation_candidates,
        "seed": seed,
        "grid_num_negatives": grid_num_negatives,
        "grid_objectives": grid_objectives,
        "grid_variants": grid_variants,
        "grid_seeds": grid_seeds,
        "evaluation_sasrec": evaluation_sasrec,
        "retrain_store": retrain_store,
        "retrain_mode": retrain_mode,
        "retrain_forced": retrain_forced,
        "retrain_until": retrain_until,
        "retrain_window_days": retrain_window_days,
        "gate_rule": gate_rule,
        "gate_metric": gate_metric,
        "data_settings": data_settings,
        "negatives_settings": negatives_settings,
        "sft_settings": sft_settings,
        "preference_settings": preference_settings,
        "evaluation_settings": evaluation_settings,
        "drift_settings": drift_settings,
        "study_settings": study_settings,
        "retrain_settings": retrain_settings,
        "gate_settings": gate_settings,
        # to here.
    }
    return run(pipeline, arguments)
