"""The description of a pipeline that Kubeflow shows, with every parameter."""

from dynamicpo.runs.pipeline_texts import pipeline_description
from dynamicpo.runs.signatures import pipeline_summary
from dynamicpo_pipelines.placement import SERVICE_ACCOUNT


def description_of(name: str) -> str:
    """A pipeline's description: Markdown, made from its source and the configurations."""
    return pipeline_description(name, pipeline_summary(name), SERVICE_ACCOUNT)
