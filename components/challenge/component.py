"""KFP component: challenger against champion on fresh rows, and what follows."""

from typing import NamedTuple

from kfp import dsl

from dynamicpo_components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def challenge_champion(
    preferences: dsl.Input[dsl.Dataset],
    sft: dsl.Input[dsl.Model],
    models: dsl.Input[list[dsl.Model]],
    evaluation: dsl.Output[dsl.Artifact],
    gate: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    decision: dsl.Output[dsl.Markdown],
    report: dsl.Output[dsl.HTML],
    objectives: list,
    plan: dict,
    evaluation_settings: dict = {},  # noqa: B006
    # Written by dynamicpo_pipelines.signatures
    settings: dict = {},  # noqa: B006
    # to here.
) -> NamedTuple("Outputs", [("promoted", bool), ("why", str), ("outcome", dict)]):
    """Rank fresh rows with challenger and champion, and promote the one or keep the other.

    Of several models the one that is best on validation rows is the challenger. It is compared with
    the very version that the run began with, and replaces no other.

    Args:
        preferences: Folder of preference rows that the models were trained on.
        sft: Model folder that preference training started from.
        models: Model folders of the trained objectives, in their order.
        evaluation: Evaluation of challenger and champion on the fresh rows.
        gate: Folder with decision.json: every number of the decision.
        metrics: Whether the challenger was promoted, and the users that it was decided on.
        decision: The decision, its reasons and its numbers.
        report: The same as a page.
        objectives: What was trained, as the loop had it.
        plan: The decision that the run began with.
        evaluation_settings: Settings of evaluation, by name.
        settings: Other settings by name; those above win.

    Returns:
        promoted: Whether the challenger is the champion now.
        why: The decision in words.
        outcome: Decision, version and hours, for the run's record.
    """
    from pathlib import Path

    from dynamicpo.core.config import EvaluationConfig
    from dynamicpo.core.config_fields import from_mapping
    from dynamicpo.core.config_gate import GateConfig
    from dynamicpo.core.records.manifest import read_manifest
    from dynamicpo.promotion.challenge import ChallengeOutputs, Challengers
    from dynamicpo.promotion.challenge import challenge_champion as run
    from dynamicpo.promotion.retraining_plan import plan_of
    from dynamicpo.runs.component_artifacts import (
        compiled_checkpoints,
        config_of,
        copy_file,
        copy_report,
        log_stage_metrics,
    )

    by_name = {
        entry["objective"]: Path(model.path)
        for entry, model in zip(objectives, models, strict=True)
    }
    trained = Challengers(Path(preferences.path), by_name, Path(sft.path))
    folder = Path(gate.path)
    outcome = run(
        trained,
        ChallengeOutputs(Path(evaluation.path), folder, compiled_checkpoints()),
        from_mapping(EvaluationConfig, evaluation_settings, "evaluation"),
        config_of(GateConfig, settings),
        plan_of(plan),
    )
    log_stage_metrics(metrics, read_manifest(folder))
    copy_file(folder / "decision.md", decision)
    copy_report(folder, report)
    return outcome.promoted, outcome.why, outcome.to_json()
