"""One frozen dataclass per stage: the defaults, the checks and the help texts of its settings.

The command line makes its flags from these fields, a KFP component has a parameter for each, and a
stage writes the configuration it ran with into its manifest.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path

from dynamicpo.core.choices import (
    BACKBONES,
    BACKENDS,
    CANDIDATE_SETS,
    DATA_SOURCES,
    EXCLUSIONS,
    HELD_OUT_STRATEGIES,
    ITEM_SCORES,
    ITEM_TEXTS,
    LOSS_TOKENS,
    LOSSES,
    LOSSES_OF_SEVERAL_NEGATIVES,
    PRECISIONS,
    QUANTIZATIONS,
    SERVED_GENERATORS,
    SHARDINGS,
    SPLIT_RULES,
    SPLITS,
    STRATEGIES,
    TUNINGS,
    VARIANTS,
)
from dynamicpo.core.config_fields import MOST_RESAMPLES, Checked, check_fields, setting
from dynamicpo.core.config_inputs import InputSettings, check_inputs
from dynamicpo.core.config_lists import entries_of, list_problem
from dynamicpo.core.config_quality import QualitySettings, check_quality
from dynamicpo.core.config_reporting import ReportingSettings, check_reporting
from dynamicpo.core.config_watch import WatchSettings, check_watch
from dynamicpo.core.errors import ConfigError

# More than any machine has GPUs; each takes a gigabyte and seconds to start.
MOST_PROCESSES = 64


@dataclass(frozen=True, kw_only=True)
class RunConfig(Checked):
    """Settings that all stages of a run share."""

    seed: int = setting(
        0, "seed of every stage whose settings name none", low=0, unit="dimensionless"
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig(InputSettings, QualitySettings):
    """Interactions to examples."""

    source: str = setting(
        "table",
        "what the input is: two tables, a data set's own files, or published rows",
        choices=DATA_SOURCES,
    )
    min_rating: float = setting(
        0.0, "keep interactions with at least this rating (0: all)", low=0, unit="stars"
    )
    # Users and items of one or two interactions have no history to learn from. One pass is not
    # enough: every item that goes takes interactions from users.
    k_core: int = setting(
        5,
        "drop users and items with fewer interactions, until none is left (1: keep all)",
        low=1,
        unit="interactions",
    )
    split: str = setting(
        "time",
        "8:1:1 by time over all interactions, the last two of every user, or at given dates",
        choices=SPLIT_RULES,
    )
    min_history: int = setting(3, "shortest history of an example, in items", low=1, unit="items")
    max_history: int = setting(10, "longest history of an example, in items", low=1, unit="items")
    # Some logs name items that were withdrawn later; more than that is a join on the wrong column.
    max_unknown_share: float = setting(
        0.01,
        "largest share of interactions with items that are not in the items table",
        low=0,
        high=1,
        unit="share",
    )

    def __post_init__(self) -> None:
        """Check the fields, then the two that depend on each other."""
        check_fields(self)
        if self.max_history < self.min_history:
            raise ConfigError(
                f"max_history: must be >= min_history ({self.min_history}), got {self.max_history}."
            )
        check_inputs(self, self.split)
        check_quality(self)
        if self.source == "published" and self.repeats == "all":
            raise ConfigError(
                "repeats: 'all' must go with interactions, but published rows come with their "
                "histories. Leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class NegativesConfig(Checked):
    """Examples to preference rows."""

    # 20 as published: the target and 19 negatives, of which training uses `num_negatives`.
    num_candidates: int = setting(
        20, "candidates per row, the target included", low=2, high=1000, unit="items"
    )
    strategy: str = setting(
        "uniform",
        "how negatives are drawn; 'hard' and 'model' (mined by a fine-tuned model) in training "
        "rows only, 'published' keeps the lists the rows came with",
        choices=STRATEGIES,
    )
    # 0.75 as word2vec's negative sampling: between uniform (0) and proportional (1).
    popularity_power: float = setting(
        0.75,
        "strategy popularity: an item is drawn in proportion to its count to this power",
        low=0,
        high=2,
        unit="dimensionless",
    )
    hard_share: float = setting(
        0.5, "share of 'hard' negatives; the others are uniform", low=0, high=1, unit="share"
    )
    model_pool: int = setting(
        400, "'model' negatives come from so many of the model's best items", low=1, unit="items"
    )
    held_out_strategy: str = setting(
        "uniform",
        "how validation and test rows get theirs under 'hard' and 'model', which would leak there",
        choices=HELD_OUT_STRATEGIES,
    )
    # Not comparable with each other: the more negatives exclude, the better does popularity alone.
    exclude: str = setting(
        "window",
        "what negatives exclude: the row's history, the user's past, all the user's items, or the "
        "target alone (with repeats all, and only then)",
        choices=EXCLUSIONS,
    )
    allow_leak: bool = setting(
        False, "accept candidate lists that give the answer away; every report warns of it"
    )
    trust_remote_code: bool = setting(
        False, "run code that comes with a model; only for models you trust"
    )
    allow_base_from_manifest: bool = setting(
        False, "fetch the base model that a model's manifest names, if it is not on this machine"
    )
    seed: int = setting(0, "seed of every draw", low=0, unit="dimensionless")


@dataclass(frozen=True, kw_only=True)
class SFTConfig(ReportingSettings):
    """Supervised fine-tuning. Its prompt settings go with the model to every later stage."""

    backbone: str = setting(
        "compact",
        "'compact', 'smollm2-135m', or a causal LM: Hugging Face id, folder or prefix",
    )
    revision: str = setting("main", "revision of a Hugging Face model")
    # Such code runs with the rights of the user; a name with a typo may lead to a stranger's.
    trust_remote_code: bool = setting(
        False, "run code that comes with the model; only for models you trust"
    )
    item_text: str = setting(
        "auto",
        "how items are written: titles, or one token each",
        choices=ITEM_TEXTS,
    )
    template: str = setting(
        "movies", "prompt templates: movies, music, books, games, or a YAML file"
    )
    list_candidates: bool = setting(False, "list the candidates in the prompt, as published")
    max_length: int = setting(
        512,
        "longest prompt plus answer, in tokens; the oldest history items are cut",
        low=16,
        unit="tokens",
    )
    tuning: str = setting("auto", "train a LoRA adapter or all weights", choices=TUNINGS)
    quantization: str = setting(
        "none", "weights of the base model in memory", choices=QUANTIZATIONS
    )
    precision: str = setting(
        "auto",
        "matrix products; auto: bfloat16 where the processor has it, but float32 for compact",
        choices=PRECISIONS,
    )
    base_weights: str = setting(
        "auto",
        "weights that LoRA leaves as they are; auto: bfloat16 on a GPU, float32 elsewhere",
        choices=PRECISIONS,
    )
    loss_on: str = setting("answer", "tokens that carry the loss", choices=LOSS_TOKENS)
    rows: int = setting(
        0, "train on at most this many rows, chosen at random (0: all)", low=0, unit="rows"
    )
    # Rows are sliding windows: a loss on their histories learns an interaction up to ten times.
    sequences: bool = setting(
        False, "put the rows together to users' sequences, and learn each interaction once a pass"
    )
    epochs: float = setting(1.0, "passes over the rows", above=0, unit="passes")
    max_steps: int = setting(0, "stop after this many steps (0: by epochs)", low=0, unit="steps")
    patience: int = setting(
        0,
        "stop after this many looks at validation without a better loss, keep the best (0: never)",
        low=0,
        unit="looks",
    )
    eval_steps: int = setting(50, "steps between two looks at validation", low=1, unit="steps")
    batch_size: int = setting(64, "rows per step", low=1, unit="rows")
    micro_batch_size: int = setting(0, "rows in memory at once (0: the batch)", low=0, unit="rows")
    # 0 rather than None for "depends on the model": a KFP parameter has one type.
    learning_rate: float = setting(
        0.0,
        "peak learning rate (0: 2e-3 for compact, 1e-3 for LoRA, 1e-5 for all weights)",
        low=0,
        unit="dimensionless",
    )
    warmup_share: float = setting(
        0.05, "share of the steps with a rising learning rate", low=0, high=1, unit="share"
    )
    max_grad_norm: float = setting(1.0, "gradient clipping", low=0, unit="dimensionless")
    # Only while SFT trains: the saved model has none.
    dropout: float = setting(
        0.0, "dropout of the compact backbone's layers", low=0, high=0.9, unit="share"
    )
    lora_rank: int = setting(16, "rank of the adapter", low=1, unit="dimensions")
    lora_alpha: int = setting(32, "scale of the adapter", low=1, unit="dimensionless")
    lora_modules: str = setting(
        "all-linear", "layers that get an adapter: all-linear, or names such as 'q_proj,v_proj'"
    )
    # Off: with dropout the policy differs from its reference before the first step.
    lora_dropout: float = setting(0.0, "dropout of the adapter", low=0, high=1, unit="share")
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory")
    num_processes: int = setting(
        0,
        "processes on this machine that train together (0: one for each visible GPU)",
        low=0,
        high=MOST_PROCESSES,
        unit="processes",
        recorded=False,
    )
    sharding: str = setting(
        "none",
        "frozen layers of an adapter's model: whole in each process, or a part in each (FSDP)",
        choices=SHARDINGS,
        recorded=False,
    )
    seed: int = setting(0, "seed of weights, order and templates", low=0, unit="dimensionless")

    def __post_init__(self) -> None:
        """Check the fields and those that need each other, then the backbone for a typo."""
        check_fields(self)
        check_reporting(self)
        if self.sequences and (self.loss_on != "history" or self.list_candidates):
            raise ConfigError(
                "sequences: needs loss_on 'history' and no list_candidates, as most items of a "
                f"sequence are history, got loss_on {self.loss_on!r} and list_candidates "
                f"{self.list_candidates}. Change these, or leave sequences out."
            )
        if self.backbone in BACKBONES or Path(self.backbone).exists():
            return
        # Any text may be the id of a model, so that only a near miss is surely a mistake.
        nearest = difflib.get_close_matches(self.backbone, BACKBONES, n=1, cutoff=0.8)
        if nearest:
            raise ConfigError(
                f"backbone: must be {', '.join(BACKBONES)} or a causal LM, got {self.backbone!r}. "
                f"Did you mean {nearest[0]!r}?"
            )


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(ReportingSettings, WatchSettings):
    """DynamicPO preference training (arXiv 2605.00327), from an SFT model."""

    loss: str = setting("dmpo", "base objective", choices=LOSSES)
    dynamic: str = setting(
        "full",
        "DynamicPO: off, on, only its boundary negatives, or only a beta of their own",
        choices=VARIANTS,
    )
    beta: float = setting(
        1.0, "strength of the pull to the reference", low=1e-6, unit="dimensionless"
    )
    # The authors' early code has 2, their newer code 6.
    margin: float = setting(6.0, "margin constant of the dynamic beta, nats", low=0, unit="nats")
    simpo_gamma: float = setting(0.0, "target margin of SimPO, nats", low=0, unit="nats")
    # As RPO does (arXiv 2404.19733): an objective of differences alone may lower all answers.
    sft_weight: float = setting(
        0.0,
        "weight of the chosen answer's negative log-likelihood, added to the loss",
        low=0,
        unit="dimensionless",
    )
    # 15 of the 19 negatives in a row's candidate list, as published.
    num_negatives: int = setting(
        15, "negatives per row: the first ones of the row's rejected items", low=1, unit="items"
    )
    rows: int = setting(
        0,
        "train on at most this many rows, first on those that SFT left (0: all)",
        low=0,
        unit="rows",
    )
    epochs: float = setting(1.0, "passes over the rows", above=0, unit="passes")
    max_steps: int = setting(0, "stop after this many steps (0: by epochs)", low=0, unit="steps")
    batch_size: int = setting(64, "rows per step", low=1, unit="rows")
    micro_batch_size: int = setting(0, "rows in memory at once (0: the batch)", low=0, unit="rows")
    learning_rate: float = setting(
        0.0,
        "peak learning rate (0: 3e-5 for compact, 1e-4 for LoRA, 1e-6 for all weights)",
        low=0,
        unit="dimensionless",
    )
    warmup_share: float = setting(
        0.05, "share of the steps with a rising learning rate", low=0, high=1, unit="share"
    )
    max_grad_norm: float = setting(1.0, "gradient clipping", low=0, unit="dimensionless")
    # Off: with it the policy differs from its reference before the first step.
    dropout: bool = setting(False, "keep the dropout of the model and of its adapter")
    gradient_checkpointing: bool = setting(False, "recompute activations to save memory")
    backend: str = setting("auto", "how prompts are shared", choices=BACKENDS)
    # Of this command alone: a manifest that says so may be a stranger's.
    trust_remote_code: bool = setting(
        False, "run code that comes with a model; only for models you trust"
    )
    allow_base_from_manifest: bool = setting(
        False, "fetch the base model that a model's manifest names, if it is not on this machine"
    )
    num_processes: int = setting(
        0,
        "processes on this machine that train together (0: one for each visible GPU)",
        low=0,
        high=MOST_PROCESSES,
        unit="processes",
        recorded=False,
    )
    sharding: str = setting(
        "none",
        "frozen layers of an adapter's model: whole in each process, or a part in each (FSDP)",
        choices=SHARDINGS,
        recorded=False,
    )
    seed: int = setting(0, "seed of the order", low=0, unit="dimensionless")

    def __post_init__(self) -> None:
        """Check the fields, then those that need each other."""
        check_fields(self)
        check_reporting(self)
        check_watch(self, self.sharding)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Checked):
    """Models and baselines, compared on the same held-out rows."""

    split: str = setting("test", "split to evaluate", choices=SPLITS)
    candidates: str = setting(
        "listed",
        "what is ranked: a row's own list, the whole catalogue but what is excluded, or both",
        choices=CANDIDATE_SETS,
    )
    score: str = setting(
        "sum",
        "an item's score: log-probability, its mean per token, or pointwise mutual information",
        choices=ITEM_SCORES,
    )
    rows: int = setting(
        0, "evaluate at most this many rows, chosen at random (0: all)", low=0, unit="rows"
    )
    generate: bool = setting(False, "also generate an answer for each row (HitRatio@1, ValidRatio)")
    base: bool = setting(False, "also evaluate the untrained base model")
    sasrec: bool = setting(
        True, "also train and evaluate SASRec, a sequential recommender without language"
    )
    generator: str = setting(
        "none",
        "what proposes the items that a model ranks when it serves (catalogue: it ranks all of "
        "them); measured where one is named",
        choices=SERVED_GENERATORS,
    )
    proposals: int = setting(
        100, "items that the generator proposes to the model", low=10, unit="items"
    )
    catalogue_minutes: int = setting(
        10,
        "longest time to rank every item beside the lists, estimated by counted work; above it "
        "models rank proposals instead (0: no limit)",
        low=0,
        unit="minutes",
    )
    allow_leak: bool = setting(
        False, "accept candidate lists that give the answer away; every report warns of it"
    )
    # Memory grows with the tokens of a batch, not with its rows.
    token_budget: int = setting(8192, "tokens scored at once", low=64, unit="tokens")
    # Users, not rows: rows of one user are alike, and their intervals would be too narrow.
    resamples: int = setting(
        2000, "bootstrap resamples of users", low=100, high=MOST_RESAMPLES, unit="resamples"
    )
    backend: str = setting("auto", "how prompts are shared", choices=BACKENDS)
    # Of this command alone: a manifest that says so may be a stranger's.
    trust_remote_code: bool = setting(
        False, "run code that comes with a model; only for models you trust"
    )
    allow_base_from_manifest: bool = setting(
        False, "fetch the base model that a model's manifest names, if it is not on this machine"
    )
    num_processes: int = setting(
        0,
        "processes on this machine that score together (0: one for each visible GPU)",
        low=0,
        high=MOST_PROCESSES,
        unit="processes",
        recorded=False,
    )
    seed: int = setting(
        0, "seed of the bootstrap, of the rows and of SASRec", low=0, unit="dimensionless"
    )

    def __post_init__(self) -> None:
        """Check the fields, then the two that exclude each other."""
        check_fields(self)
        if self.generate and self.candidates == "catalogue":
            raise ConfigError(
                "generate: an answer is looked for in a row's own list, but candidates is "
                "'catalogue'. Leave one out."
            )
        if self.generator == "sasrec" and not self.sasrec:
            raise ConfigError(
                "generator: 'sasrec' needs SASRec, but sasrec is false. Leave one of the two out."
            )


@dataclass(frozen=True, kw_only=True)
class DriftConfig(Checked):
    """A current window of rows against a reference window."""

    split: str = setting(
        "test",
        "split of the current window",
        choices=SPLITS,
    )
    held_out: str = setting(
        "validation",
        "split of the reference that the model's signals, unseen items and history lengths are "
        "compared with",
        choices=SPLITS,
    )
    threshold: float = setting(
        0.1,
        "a column of numbers has drifted when its distance reaches this and is no chance",
        low=0,
        unit="standard deviations",
    )
    category_threshold: float = setting(
        0.05, "the same of a column of categories", low=0, unit="Jensen-Shannon distance"
    )
    drift_share: float = setting(
        0.0,
        "drifted when at least this share of the columns, and at least one, has drifted",
        low=0,
        high=1,
        unit="share",
    )
    false_alarms: float = setting(
        0.05,
        "probability that a check without drift finds some",
        above=0,
        high=1,
        unit="probability",
    )
    # Fewer could not tell one drifted column of eight from chance.
    permutations: int = setting(
        200,
        "divisions of whole users that tell distance from chance",
        low=199,
        high=10_000,
        unit="divisions",
    )
    min_users: int = setting(
        200, "with fewer in a window the verdict is: too few users", low=2, unit="users"
    )
    store: str = setting(
        "", "where versions and the history of checks are: gs://..., s3://... or a folder"
    )
    version: str = setting(
        "champion", "version of the store that rows are compared with, where no reference is given"
    )
    rollback_margin: float = setting(
        0.01,
        "a rollback is recommended where the previous champion is clearly better by this",
        low=0,
        unit="NDCG@10",
    )
    auto_rollback: bool = setting(
        False, "where a rollback is recommended, move the champion back at once"
    )
    rows: int = setting(
        5000, "at most so many rows of each window, chosen at random (0: all)", low=0, unit="rows"
    )
    # Of this command alone: a manifest that says so may be a stranger's.
    trust_remote_code: bool = setting(
        False, "run code that comes with a model; only for models you trust"
    )
    allow_base_from_manifest: bool = setting(
        False, "fetch the base model that a model's manifest names, if it is not on this machine"
    )
    seed: int = setting(0, "seed of the choice of rows", low=0, unit="dimensionless")


@dataclass(frozen=True, kw_only=True)
class GridConfig(Checked):
    """The cells of the collapse study, each trained from the same SFT model.

    Lists are text with commas.
    """

    num_negatives: str = setting(
        "1,5,19", "numbers of negatives K, with commas", low=1, unit="items"
    )
    objectives: str = setting(
        "dmpo,sdpo", "base objectives, with commas", choices=LOSSES_OF_SEVERAL_NEGATIVES
    )
    variants: str = setting(
        "none,full", "DynamicPO off, on, or one half of it, with commas", choices=VARIANTS
    )
    # More than one, so that a collapse can be told from the noise between runs.
    seeds: str = setting(
        "0,1,2", "seeds of preference training, with commas", low=0, unit="dimensionless"
    )

    def __post_init__(self) -> None:
        """Check every list, all at once."""
        problems = []
        for item in dataclasses.fields(self):
            problem = list_problem(getattr(self, item.name), item)
            if problem:
                problems.append(problem)
        if problems:
            raise ConfigError("\n".join(problems))

    def listed(self, name: str) -> list[str]:
        """The entries of a field."""
        return entries_of(getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Checked):
    """The rule by which more negatives count as a collapse."""

    min_drop: float = setting(
        0.02,
        "smallest fall of HitRatio@1 that counts as a collapse",
        low=0,
        high=1,
        unit="HitRatio@1",
    )
    level: float = setting(
        0.05,
        "a difference is clear where p, after Holm's correction, is below this",
        low=1e-6,
        high=0.5,
        unit="probability",
    )
