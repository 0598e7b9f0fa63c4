"""The names that users choose from, one list for each choice; every other table uses these names.

The order of a list is the order in which help texts, messages and reports show it.
"""

from typing import Literal, get_args

# Data preparation.
# Of a data set as it was published, the columns and their quirks are known.
Dataset = Literal[
    "hetrec-lastfm", "lastfm-1k", "lfm-1b", "lfm-2b", "steam", "goodreads", "amazon-2023"
]
DataSource = Literal["table", "movielens", Dataset, "published"]
SplitRule = Literal["time", "leave-one-out", "dates"]
Repeats = Literal["first", "last", "all"]
Split = Literal["train", "validation", "test"]

# Negative sampling.
Strategy = Literal["uniform", "popularity", "popularity-matched", "hard", "model", "published"]
# Those of training rows alone leave held-out rows to one of these.
HeldOutStrategy = Literal["uniform", "popularity", "popularity-matched"]
Exclusion = Literal["window", "past", "all", "target"]

# Models and their prompts.
Backbone = Literal["compact", "smollm2-135m"]
ItemText = Literal["auto", "title", "token"]
Tuning = Literal["auto", "lora", "full"]
Quantization = Literal["none", "4bit", "8bit"]
Precision = Literal["auto", "float32", "bfloat16"]
LossTokens = Literal["answer", "history"]
Sharding = Literal["none", "full"]

# Preference training. A variant is DynamicPO off, on, or one half of it. Never `off`: YAML reads
# that as false.
Loss = Literal["dpo", "dmpo", "mppo", "sdpo", "simpo"]
Ablation = Literal["none", "selection", "beta"]
Variant = Literal["none", "full", "selection", "beta"]
Delivered = Literal["last", "best"]

# What else shows a training's metrics.
Reporter = Literal["tensorboard", "mlflow", "wandb"]

# Scoring and evaluation.
Backend = Literal["auto", "sdpa", "flex", "plain"]
# The first is what models are compared by; another one stands beside it.
CandidateSet = Literal["listed", "catalogue", "listed,catalogue"]
ItemScore = Literal["sum", "mean", "pmi"]
ServedGenerator = Literal["none", "sasrec", "cooccurrence", "catalogue"]
Baseline = Literal["random", "popularity", "cooccurrence", "sasrec", "base"]

DATASETS: tuple[str, ...] = get_args(Dataset)
DATA_SOURCES: tuple[str, ...] = get_args(DataSource)
SPLIT_RULES: tuple[str, ...] = get_args(SplitRule)
REPEATS: tuple[str, ...] = get_args(Repeats)
SPLITS: tuple[str, ...] = get_args(Split)
STRATEGIES: tuple[str, ...] = get_args(Strategy)
HELD_OUT_STRATEGIES: tuple[str, ...] = get_args(HeldOutStrategy)
EXCLUSIONS: tuple[str, ...] = get_args(Exclusion)
BACKBONES: tuple[str, ...] = get_args(Backbone)
ITEM_TEXTS: tuple[str, ...] = get_args(ItemText)
TUNINGS: tuple[str, ...] = get_args(Tuning)
SHARDINGS: tuple[str, ...] = get_args(Sharding)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
PRECISIONS: tuple[str, ...] = get_args(Precision)
LOSS_TOKENS: tuple[str, ...] = get_args(LossTokens)
LOSSES: tuple[str, ...] = get_args(Loss)
ABLATIONS: tuple[str, ...] = get_args(Ablation)
VARIANTS: tuple[str, ...] = get_args(Variant)
DELIVERED: tuple[str, ...] = get_args(Delivered)
REPORTERS: tuple[str, ...] = get_args(Reporter)
BACKENDS: tuple[str, ...] = get_args(Backend)
CANDIDATE_SETS: tuple[str, ...] = get_args(CandidateSet)
ITEM_SCORES: tuple[str, ...] = get_args(ItemScore)
SERVED_GENERATORS: tuple[str, ...] = get_args(ServedGenerator)
NO_GENERATOR = "none"  # nothing is known, or measured, of what is served
WHOLE_CATALOGUE = "catalogue"  # no generator: the model ranks all items
BASELINES: tuple[str, ...] = get_args(Baseline)

# MPPO and SimPO are defined without a reference, so that giving one is a mistake.
LOSSES_WITHOUT_REFERENCE: tuple[str, ...] = ("mppo", "simpo")
# DPO compares one pair; DMPO and S-DPO equal it at one negative and take more.
LOSSES_OF_ONE_NEGATIVE: tuple[str, ...] = ("dpo",)
LOSSES_OF_SEVERAL_NEGATIVES: tuple[str, ...] = tuple(
    loss for loss in LOSSES if loss not in LOSSES_OF_ONE_NEGATIVE
)
