"""Rule by which weights of a training are delivered: the last, or the best by validation."""

from collections.abc import Mapping

from dynamicpo.evaluation.saved import ModelProvenance

LAST = "last"
BEST = "best by validation"


def delivered_rule(model: ModelProvenance) -> str:
    """The rule by which the weights of a model of SFT or preference training were chosen."""
    config = model["config"]
    if model["stage"] == "sft":
        # Early stopping keeps the best.
        return BEST if config.get("patience") else LAST
    # Earlier versions had no such setting.
    return LAST if config.get("deliver", LAST) == LAST else BEST


def delivered_rules(models: Mapping[str, ModelProvenance]) -> dict[str, str]:
    """The rule of each model."""
    return {name: delivered_rule(model) for name, model in models.items()}


def rule_warnings(models: Mapping[str, ModelProvenance]) -> list[str]:
    """Warn where models of preference training have different rules; empty where they have not."""
    names_by_rule: dict[str, list[str]] = {LAST: [], BEST: []}
    for name, model in models.items():
        if model["stage"] == "preference_training":
            rule = delivered_rule(model)
            names_by_rule[rule].append(name)
    last, best = names_by_rule.values()
    if not last or not best:
        return []
    return [
        f"The weights of {', '.join(best)} are the best of their training by validation, those of "
        f"{', '.join(last)} the last: some of the difference may be the rule's. Train all with the "
        "same `deliver`."
    ]
