"""The training pipeline: interactions to compared models, with drift beside it."""

from kfp import dsl

from dynamicpo_components.comparison.component import compare_evaluations
from dynamicpo_components.data_prep.component import prepare_data
from dynamicpo_components.drift_monitoring.component import monitor_drift
from dynamicpo_components.evaluation.component import evaluate
from dynamicpo_components.negative_sampling.component import sample_negatives
from dynamicpo_components.preference_training.component import train_preferences
from dynamicpo_components.sft.component import fine_tune
from dynamicpo_pipelines.placement import never_cached, on_cpu, on_gpu, run_facts
from dynamicpo_pipelines.stage_arguments import grouped


@dsl.pipeline(name="training")
def training(
    data_interactions: str = "",
    data_items: str = "",
    data_source: str = "table",
    data_min_rating: float = 0.0,
    data_k_core: int = 5,
    data_split: str = "time",
    data_min_history: int = 3,
    data_max_history: int = 10,
    data_max_unknown_share: float = 0.01,
    negatives_num_candidates: int = 20,
    negatives_strategy: str = "uniform",
    negatives_hard_share: float = 0.5,
    negatives_exclude: str = "window",
    negatives_allow_leak: bool = False,
    negatives_seed: int = 0,
    sft_backbone: str = "compact",
    sft_revision: str = "main",
    sft_trust_remote_code: bool = False,
    sft_item_text: str = "auto",
    sft_template: str = "movies",
    sft_list_candidates: bool = False,
    sft_max_length: int = 512,
    sft_tuning: str = "auto",
    sft_quantization: str = "none",
    sft_precision: str = "auto",
    sft_base_weights: str = "auto",
    sft_loss_on: str = "answer",
    sft_rows: int = 0,
    sft_epochs: float = 1.0,
    sft_max_steps: int = 0,
    sft_patience: int = 0,
    sft_eval_steps: int = 50,
    sft_batch_size: int = 64,
    sft_micro_batch_size: int = 0,
    sft_learning_rate: float = 0.0,
    sft_warmup_share: float = 0.05,
    sft_max_grad_norm: float = 1.0,
    sft_lora_rank: int = 16,
    sft_lora_alpha: int = 32,
    sft_lora_dropout: float = 0.0,
    sft_gradient_checkpointing: bool = False,
    sft_seed: int = 0,
    objectives: list = [{"objective": "dynamicpo-dmpo", "loss": "dmpo", "dynamic": True}],  # noqa: B006
    preference_ablation: str = "none",
    preference_beta: float = 1.0,
    preference_margin: float = 6.0,
    preference_simpo_gamma: float = 0.0,
    preference_num_negatives: int = 15,
    preference_rows: int = 0,
    preference_epochs: float = 1.0,
    preference_max_steps: int = 0,
    preference_batch_size: int = 64,
    preference_micro_batch_size: int = 0,
    preference_learning_rate: float = 0.0,
    preference_warmup_share: float = 0.05,
    preference_max_grad_norm: float = 1.0,
    preference_gradient_checkpointing: bool = False,
    preference_backend: str = "auto",
    preference_seed: int = 0,
    evaluation_split: str = "test",
    evaluation_candidates: str = "listed",
    evaluation_score: str = "sum",
    evaluation_rows: int = 0,
    evaluation_generate: bool = False,
    evaluation_base: bool = False,
    evaluation_sasrec: bool = True,
    evaluation_allow_leak: bool = False,
    evaluation_token_budget: int = 8192,
    evaluation_resamples: int = 2000,
    evaluation_backend: str = "auto",
    evaluation_seed: int = 0,
    drift_split: str = "test",
    drift_threshold: float = 0.1,
    drift_drift_share: float = 0.5,
    drift_rows: int = 5000,
    drift_seed: int = 0,
):
    """Train an LLM recommender with DynamicPO, compare it with its SFT model and with baselines.

    data preparation -> negative sampling -> SFT -> preference training, once for each objective ->
    evaluation -> comparison; drift monitoring of the test split beside it.

    Args:
        data_interactions: File of interactions: user_id, item_id, timestamp, optional rating; CSV,
            TSV, JSONL or Parquet, local or gs://. For 'movielens' a GroupLens zip or folder (empty:
            the copy in the recbole wheel); for 'published' a file or folder of rows.
        data_items: File of items: item_id, title, optional category. Only for 'table'.
        data_source: What the input is: two tables, MovieLens' own files, or published rows [table,
            movielens, published].
        data_min_rating: Keep interactions with at least this rating (0: all).
        data_k_core: Drop users and items with fewer interactions, until none is left (1: keep all).
        data_split: 8:1:1 by time over all interactions, or the last two of every user [time,
            leave-one-out].
        data_min_history: Shortest history of an example, in items.
        data_max_history: Longest history of an example, in items.
        data_max_unknown_share: Largest share of interactions with items that are not in the items
            table.
        negatives_num_candidates: Candidates per row, the target included.
        negatives_strategy: How negatives are drawn; 'hard' in training rows only, 'published' keeps
            the lists the rows came with [uniform, popularity, popularity-matched, hard, published].
        negatives_hard_share: Share of 'hard' negatives; the others are uniform.
        negatives_exclude: What negatives exclude: the row's history, the user's past, or all the
            user's items [window, past, all].
        negatives_allow_leak: Accept candidate lists that give the answer away; every report warns
            of it.
        negatives_seed: Seed of every draw.
        sft_backbone: 'compact', 'smollm2-135m', or a causal LM: Hugging Face id, folder or gs://
            prefix.
        sft_revision: Revision of a Hugging Face model.
        sft_trust_remote_code: Run code that comes with the model; only for models you trust.
        sft_item_text: How items are written: titles, or one token each [auto, title, token].
        sft_template: Prompt templates: movies, music, books, games, or a YAML file.
        sft_list_candidates: List the candidates in the prompt, as published.
        sft_max_length: Longest prompt plus answer, in tokens; the oldest history items are cut.
        sft_tuning: Train a LoRA adapter or all weights [auto, lora, full].
        sft_quantization: Weights of the base model in memory [none, 4bit].
        sft_precision: Matrix products; auto: bfloat16 where the processor has it, but float32 for
            compact [auto, float32, bfloat16].
        sft_base_weights: Weights that LoRA leaves as they are; auto: bfloat16 on a GPU, float32
            elsewhere [auto, float32, bfloat16].
        sft_loss_on: Tokens that carry the loss [answer, history].
        sft_rows: Train on this many rows, chosen at random (0: all).
        sft_epochs: Passes over the rows.
        sft_max_steps: Stop after this many steps (0: by epochs).
        sft_patience: Stop after this many looks at validation without a better loss, keep the best
            (0: never).
        sft_eval_steps: Steps between two looks at validation.
        sft_batch_size: Rows per step.
        sft_micro_batch_size: Rows in memory at once (0: the batch).
        sft_learning_rate: Peak learning rate (0: 2e-3 for compact, 1e-3 for LoRA, 1e-5 for all
            weights).
        sft_warmup_share: Share of the steps with a rising learning rate.
        sft_max_grad_norm: Gradient clipping.
        sft_lora_rank: Rank of the adapter.
        sft_lora_alpha: Scale of the adapter.
        sft_lora_dropout: Dropout of the adapter.
        sft_gradient_checkpointing: Recompute activations to save memory.
        sft_seed: Seed of weights, order and templates.
        objectives: What to train side by side: a list of {"objective": a name, "loss": one of dpo,
            dmpo, mppo, sdpo, simpo, "dynamic": whether DynamicPO is on}.
        preference_ablation: Keep one half of DynamicPO: 'selection' or 'beta' [none, selection,
            beta].
        preference_beta: Strength of the pull to the reference.
        preference_margin: Margin constant of the dynamic beta, nats.
        preference_simpo_gamma: Target margin of SimPO, nats.
        preference_num_negatives: Negatives per row: the first ones of the row's rejected items.
        preference_rows: Train on this many rows, disjoint from SFT's when both are given (0: all).
        preference_epochs: Passes over the rows.
        preference_max_steps: Stop after this many steps (0: by epochs).
        preference_batch_size: Rows per step.
        preference_micro_batch_size: Rows in memory at once (0: the batch).
        preference_learning_rate: Peak learning rate (0: 2e-3 for compact, 1e-4 for LoRA, 1e-6 for
            all weights).
        preference_warmup_share: Share of the steps with a rising learning rate.
        preference_max_grad_norm: Gradient clipping.
        preference_gradient_checkpointing: Recompute activations to save memory.
        preference_backend: How prompts are shared [auto, sdpa, flex, plain].
        preference_seed: Seed of the order.
        evaluation_split: Split to evaluate [train, validation, test].
        evaluation_candidates: What is ranked: a row's own list, or the whole catalogue but what is
            excluded [listed, catalogue].
        evaluation_score: An item's score: log-probability, its mean per token, or pointwise mutual
            information [sum, mean, pmi].
        evaluation_rows: Evaluate this many rows, chosen at random (0: all).
        evaluation_generate: Also generate an answer for each row (HitRatio@1, ValidRatio).
        evaluation_base: Also evaluate the untrained base model.
        evaluation_sasrec: Also train and evaluate SASRec, a sequential recommender without
            language.
        evaluation_allow_leak: Accept candidate lists that give the answer away; every report warns
            of it.
        evaluation_token_budget: Tokens scored at once.
        evaluation_resamples: Bootstrap resamples of users.
        evaluation_backend: How prompts are shared [auto, sdpa, flex, plain].
        evaluation_seed: Seed of the bootstrap, of the rows and of SASRec.
        drift_split: Split of the current window that is compared with the reference's training
            split [train, validation, test].
        drift_threshold: A column has drifted when its distance reaches this.
        drift_drift_share: Drifted when at least this share of the columns has drifted.
        drift_rows: Rows of each window, chosen at random (0: all).
        drift_seed: Seed of the choice of rows.
    """
    arguments = dict(locals())
    examples = on_cpu(prepare_data(**grouped(arguments, "data"))).outputs["examples"]
    sampled = on_cpu(sample_negatives(examples=examples, **grouped(arguments, "negatives")))
    preferences = sampled.outputs["preferences"]
    tuned = on_gpu(fine_tune(preferences=preferences, **grouped(arguments, "sft")))
    sft = tuned.outputs["model"]
    settings = grouped(arguments, "evaluation")
    baselines = on_gpu(evaluate(preferences=preferences, model=sft, name="sft", **settings))
    baselines.set_display_name("evaluate sft")
    settings.pop("base")
    settings["sasrec"] = False  # trained once, with the baselines
    with dsl.ParallelFor(objectives, name="each objective") as entry:
        trained = train_preferences(
            preferences=preferences,
            adapter=sft,
            name=entry.objective,
            loss=entry.loss,
            dynamic=entry.dynamic,
            **grouped(arguments, "preference"),
        )
        model = on_gpu(trained).outputs["model"]
        evaluated = on_gpu(
            evaluate(preferences=preferences, model=model, name=entry.objective, **settings)
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
        **run_facts("training", {}),
    )
    never_cached(on_cpu(compared))
    on_cpu(monitor_drift(reference=preferences, **grouped(arguments, "drift")))
