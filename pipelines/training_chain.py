"""Tasks that pipelines with trainings share, and what the task that ends a run is told of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kfp import dsl

from dynamicpo_components.baselines.component import evaluate_baselines
from dynamicpo_components.evaluation.component import evaluate
from dynamicpo_components.negative_sampling.component import sample_negatives
from dynamicpo_components.preference_training.component import train_preferences
from dynamicpo_components.sft.component import fine_tune
from dynamicpo_pipelines.placement import on_cpu, on_gpu, reading_raw_data
from dynamicpo_pipelines.training_nodes import on_training_nodes

# Any: outputs of the task that checks settings, whose types kfp does not tell.
Settings = Mapping[str, Any]


class TrainedModel(NamedTuple):
    """A model's two tasks; of a model in a loop they stand for those of all rounds.

    Attributes:
        training: SFT or preference training.
        evaluation: The evaluation of its model.
    """

    training: dsl.PipelineTask
    evaluation: dsl.PipelineTask


def sample_rows(prepared: dsl.PipelineTask, settings: Settings) -> dsl.PipelineTask:
    """Place data preparation, and sample negatives for its examples. Returns the sampling."""
    examples = reading_raw_data(on_cpu(prepared)).outputs["examples"]
    return on_cpu(sample_negatives(examples=examples, settings=settings["negatives"]))


def train_sft(
    sampled: dsl.PipelineTask,
    settings: Settings,
    # Any: kfp's stand-in for a text.
    **start: Any,
) -> TrainedModel:
    """Fine-tune, and evaluate the model together with the baselines, which are trained meanwhile.

    Args:
        sampled: The task that made the rows.
        settings: Those of all stages.
        start: Where a warm start begins, as the component has it.
    """
    preferences = sampled.outputs["preferences"]
    tuning = fine_tune(preferences=preferences, settings=settings["sft"], **start)
    model = on_training_nodes(tuning).outputs["model"]
    baselines = evaluate_baselines(preferences=preferences, settings=settings["evaluation"])
    evaluation = evaluate(
        preferences=preferences,
        model=model,
        name="sft",
        baselines=on_gpu(baselines).outputs["evaluation"],
        settings=settings["evaluation"],
    )
    on_gpu(evaluation).set_display_name("evaluate sft")
    return TrainedModel(tuning, evaluation)


def train_objective(
    sampled: dsl.PipelineTask,
    sft: TrainedModel,
    # Any: kfp's stand-in for an entry of the list.
    entry: Any,
    settings: Settings,
) -> TrainedModel:
    """Train with an objective of a loop over several, and evaluate the model."""
    training = train_preferences(
        preferences=sampled.outputs["preferences"],
        adapter=sft.training.outputs["model"],
        name=entry.objective,
        loss=entry.loss,
        dynamic=entry.dynamic,
        settings=settings["preference"],
    )
    return evaluate_trained(training, sampled, entry.objective, settings)


def evaluate_trained(
    training: dsl.PipelineTask,
    sampled: dsl.PipelineTask,
    # Any: kfp's stand-in for a text.
    name: Any,
    settings: Settings,
) -> TrainedModel:
    """Place a training of a loop, and evaluate its model alone."""
    evaluation = evaluate(
        preferences=sampled.outputs["preferences"],
        model=on_training_nodes(training).outputs["model"],
        name=name,
        # The baselines are the same for all models: evaluated once, with the SFT model.
        base=False,
        sasrec=False,
        generator="none",
        settings=settings["evaluation"],
    )
    on_gpu(evaluation).set_display_name("evaluate")
    return TrainedModel(training, evaluation)


def run_outputs(
    sampled: dsl.PipelineTask, sft: TrainedModel, models: TrainedModel
) -> dict[str, Any]:
    """Arguments of the task that writes a run's record: evaluations, and where all of it lies.

    Args:
        sampled: The task that made the rows.
        sft: SFT.
        models: The trainings of the loop.
    """
    trainings = models.training.outputs
    evaluations = models.evaluation.outputs
    return {
        "baselines": sft.evaluation.outputs["evaluation"],
        "evaluations": dsl.Collected(evaluations["evaluation"]),
        "rows_uri": sampled.outputs["preferences_uri"],
        "sft_uri": sft.training.outputs["model_uri"],
        "sft_report_uri": sft.training.outputs["report_uri"],
        "baselines_report_uri": sft.evaluation.outputs["report_uri"],
        "model_uris": dsl.Collected(trainings["model_uri"]),
        "training_report_uris": dsl.Collected(trainings["report_uri"]),
        "evaluation_report_uris": dsl.Collected(evaluations["report_uri"]),
    }
