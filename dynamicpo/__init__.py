"""DynamicPO Pipelines: train, compare, watch and retrain an LLM recommender."""

__version__ = "0.1.0"
