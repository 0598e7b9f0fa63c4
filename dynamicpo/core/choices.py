"""The names that users choose from, each list once. Everything else takes its names from here."""

from typing import Literal, get_args

DataSource = Literal["table", "movielens", "published"]
SplitRule = Literal["time", "leave-one-out"]
Split = Literal["train", "validation", "test"]
Strategy = Literal["uniform", "popularity", "popularity-matched", "hard", "published"]
Exclusion = Literal["window", "past", "all"]
CandidateSet = Literal["listed", "catalogue"]
Backbone = Literal["compact", "smollm2-135m"]
ItemText = Literal["auto", "title", "token"]
Tuning = Literal["auto", "lora", "full"]
Quantization = Literal["none", "4bit"]
Precision = Literal["auto", "float32", "bfloat16"]
LossTokens = Literal["answer", "history"]
Loss = Literal["dpo", "dmpo", "mppo", "sdpo", "simpo"]
Ablation = Literal["none", "selection", "beta"]
Variant = Literal["plain", "dynamicpo", "selection", "beta"]
Backend = Literal["auto", "sdpa", "flex", "plain"]
ItemScore = Literal["sum", "mean", "pmi"]
Baseline = Literal["random", "popularity", "cooccurrence", "sasrec", "base"]

DATA_SOURCES: tuple[str, ...] = get_args(DataSource)
SPLIT_RULES: tuple[str, ...] = get_args(SplitRule)
SPLITS: tuple[str, ...] = get_args(Split)
STRATEGIES: tuple[str, ...] = get_args(Strategy)
EXCLUSIONS: tuple[str, ...] = get_args(Exclusion)
CANDIDATE_SETS: tuple[str, ...] = get_args(CandidateSet)
BACKBONES: tuple[str, ...] = get_args(Backbone)
ITEM_TEXTS: tuple[str, ...] = get_args(ItemText)
TUNINGS: tuple[str, ...] = get_args(Tuning)
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
PRECISIONS: tuple[str, ...] = get_args(Precision)
LOSS_TOKENS: tuple[str, ...] = get_args(LossTokens)
LOSSES: tuple[str, ...] = get_args(Loss)
ABLATIONS: tuple[str, ...] = get_args(Ablation)
VARIANTS: tuple[str, ...] = get_args(Variant)
BACKENDS: tuple[str, ...] = get_args(Backend)
ITEM_SCORES: tuple[str, ...] = get_args(ItemScore)
# In the order in which reports show them.
BASELINES: tuple[str, ...] = get_args(Baseline)

# MPPO and SimPO are defined without a reference, so that giving one is a mistake.
LOSSES_WITHOUT_REFERENCE: tuple[str, ...] = ("mppo", "simpo")
# DPO compares one pair; DMPO and S-DPO equal it at one negative and take more.
LOSSES_OF_ONE_NEGATIVE: tuple[str, ...] = ("dpo",)
