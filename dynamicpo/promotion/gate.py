"""The gate: a challenger against the champion, on the same fresh rows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from dynamicpo.core.config_gate import BEST_METRIC, GateConfig
from dynamicpo.core.errors import CheckFailedError, ConfigError, DataError, unknown_name
from dynamicpo.core.model_names import short_version
from dynamicpo.core.records.manifest import Manifest, config_dict, read_input, write_json
from dynamicpo.core.records.outputs import finished, stage_output
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.evaluation.served import SERVED_METRIC
from dynamicpo.promotion.champion import champions_of_run
from dynamicpo.promotion.decisions import GUARD_METRIC, GateDecision, decide, first_decision
from dynamicpo.promotion.gate_context import BASELINE, GateContext, gate_context
from dynamicpo.promotion.gate_rows import (
    GateResult,
    GateRows,
    check_unseen,
    read_gate_result,
    read_gate_rows,
    seen_until,
    share_judged_before,
)
from dynamicpo.promotion.versions import Version, is_published, read_version
from dynamicpo.reports.pages.gate import GateReport, gate_markdown, gate_page

log = logging.getLogger(__name__)

_LISTED_METRIC = "ndcg_at_10"


class _Model(TypedDict):
    fingerprint: str
    inputs: dict[str, str]


class _Entries(TypedDict):
    models: dict[str, _Model]


class _Settings(TypedDict):
    split: str


class _Inputs(TypedDict):
    preferences: str


class _Decision(TypedDict):
    challenger: str
    fingerprint: str
    promotes: bool
    reasons: list[str]


class _DecisionEntries(TypedDict):
    decision: _Decision


def judge_challenger(
    evaluation: Path, preferences: Path, output: Path, config: GateConfig, run: str = ""
) -> Manifest:
    """Decide whether a challenger replaces the champion.

    Args:
        evaluation: An evaluation of challenger and champion on fresh rows.
        preferences: Its rows; the challenger was trained on the training rows of the same folder.
        output: Folder to make: `decision.json`, `decision.md`, `report.html`.
        config: Store, challenger, rule and margins.
        run: Name of the retraining that may have promoted the challenger already; "" for none.

    Returns:
        The manifest; `counts` holds `promotes`, `extra` the decision.

    Raises:
        ConfigError: No store or challenger is named.
        DataError: The champion is not among the models, the rows are not later than all that either
            was trained or chosen on, or input can't be used.
    """
    if not config.store or not config.challenger:
        raise ConfigError("gate: store and challenger must both be given.")
    source = _read_evaluation(evaluation)
    rows_source = read_input(preferences)
    rivals = _rivals(config, source, run)
    manifest = _manifest(source, rows_source, rivals, config)
    if (existing := finished(output, manifest)) is not None:
        return existing
    _check_origin(evaluation, preferences, source, rows_source, config)
    with stage_output(output, manifest) as folder:
        decision, context = _judge(evaluation, preferences, source, rivals, config)
        fingerprint = source.extra["models"][config.challenger]["fingerprint"]
        content = {**decision.to_json(), **context.to_json(), "fingerprint": fingerprint}
        write_json(folder / "decision.json", content)
        report = GateReport(decision.reasons, decision.promotes, content, manifest.config)
        (folder / "decision.md").write_text(gate_markdown(report), encoding="utf-8")
        (folder / "report.html").write_text(gate_page(report), encoding="utf-8")
        manifest.counts = {"promotes": decision.promotes, "users": decision.num_users}
        manifest.extra = {"decision": content}
    log.info("%s: %s", output, decision.reasons[0])
    return manifest


# Any: JSON, whose shape `GateDecision.to_json` says.
def read_decision(folder: Path, version: Version) -> dict[str, Any]:
    """The decision that promotes a version.

    Args:
        folder: An output of `judge_challenger`.
        version: The version to promote.

    Raises:
        CheckFailedError: The decision was to keep the champion.
        DataError: It is about another model, or can't be read.
    """
    manifest = read_input(folder, "judge_challenger")
    as_shape(folder / "manifest.json", manifest.extra, _DecisionEntries)
    decision: dict[str, Any] = manifest.extra["decision"]
    if decision["fingerprint"] != version.card["fingerprint"]:
        raise DataError(
            f"{folder}: must be the decision on version {version.name}, but it is on another "
            f"model ({decision['challenger']}). Promote the version that was judged."
        )
    if not decision["promotes"]:
        reasons = " ".join(decision["reasons"])
        raise CheckFailedError(f"{folder}: must decide for the challenger, but: {reasons}")
    return decision


def _read_evaluation(evaluation: Path) -> Manifest:
    """The manifest of an evaluation that can be judged."""
    source = read_input(evaluation, "evaluate")
    path = evaluation / "manifest.json"
    as_shape(path, source.extra, _Entries)
    as_shape(path, source.config, _Settings)
    as_shape(path, source.inputs, _Inputs)
    return source


def _judge(
    evaluation: Path,
    preferences: Path,
    source: Manifest,
    rivals: Mapping[str, Version],
    config: GateConfig,
) -> tuple[GateDecision, GateContext]:
    split = source.config["split"]
    rows = read_gate_rows(evaluation, preferences, split)
    seen = {config.challenger: seen_until(preferences)}
    for name, version in rivals.items():
        seen[f"version {short_version(version.name)} ({name})"] = version.card["seen_until"]
    check_unseen(rows, seen)
    rows = rows._replace(judged_before=_judged_before(rows, rivals))
    challenger = read_gate_result(evaluation, config.challenger, split)
    results = {}
    for name, version in rivals.items():
        results[version.name] = read_gate_result(evaluation, name, split)
    baseline = None
    if (evaluation / BASELINE).is_dir():
        baseline = read_gate_result(evaluation, BASELINE, split)
    config = replace(config, metric=_metric(config, [challenger, *results.values()]))
    if rivals:
        _check_metrics([challenger, *results.values()], config)
    context = gate_context(rows, challenger, results, baseline, config)
    if not rivals:
        return first_decision(config.challenger, rows), context
    return decide(rows, challenger, results, config), context


def _judged_before(rows: GateRows, rivals: Mapping[str, Version]) -> dict[str, float]:
    shares = {}
    for version in rivals.values():
        share = share_judged_before(rows, version.uri)
        if share:
            shares[version.name] = share
    return shares


def _metric(config: GateConfig, results: Sequence[GateResult]) -> str:
    """The metric that decides: where that is left open, of what is served, if all have it."""
    if config.metric != BEST_METRIC:
        return config.metric
    is_served = all(SERVED_METRIC in result.metrics for result in results)
    return SERVED_METRIC if is_served else _LISTED_METRIC


def _check_metrics(results: Sequence[GateResult], config: GateConfig) -> None:
    """Refuse an evaluation without what is compared: no generator, or lists that are too short."""
    needed = {config.metric, GUARD_METRIC}
    missing = {metric for result in results for metric in needed - result.metrics.keys()}
    if SERVED_METRIC in missing:
        raise DataError(
            f"gate: the evaluation must give {SERVED_METRIC}, but it did not measure what each "
            "model would serve. Evaluate with --generator."
        )
    if missing:
        raise DataError(
            f"gate: the evaluation must give {', '.join(sorted(missing))}, but its lists of "
            "candidates are shorter. Evaluate with --candidates catalogue, or with longer lists."
        )


def rival_names(config: GateConfig, run: str = "") -> list[str]:
    """The versions that a challenger has to face, the champion first.

    Args:
        config: Store and rule.
        run: The retraining that asks; "" for none.
    """
    line = champions_of_run(config.store, run)[::-1]
    # Against the present champion alone, a little worse each time would go down without end.
    names = dict.fromkeys(line if config.rule == "not-worse" else line[:1])
    # Former champions may have been deleted; the present one may not.
    return [name for name in names if name == line[0] or is_published(config.store, name)]


def _rivals(config: GateConfig, source: Manifest, run: str) -> dict[str, Version]:
    """The versions that the challenger has to face, the champion first, by their models' names."""
    models = {model["fingerprint"]: name for name, model in source.extra["models"].items()}
    rivals: dict[str, Version] = {}
    for name in rival_names(config, run):
        version = read_version(config.store, name)
        # A model that was published twice is faced once, as the later version.
        rivals.setdefault(_evaluated(version, models), version)
    return rivals


def _evaluated(version: Version, models: Mapping[str, str]) -> str:
    fingerprint = version.card["fingerprint"]
    if fingerprint in models:
        return models[fingerprint]
    raise DataError(
        f"gate: the evaluation must have version {version.name} as a model, but it has "
        f"{', '.join(models.values())}. Copy it by `dynamicpo show-version "
        f"{short_version(version.name)} --output FOLDER`, and evaluate FOLDER with the "
        "challenger."
    )


def _check_origin(
    evaluation: Path,
    preferences: Path,
    source: Manifest,
    rows_source: Manifest,
    config: GateConfig,
) -> None:
    """Refuse rows of another evaluation, and a challenger whose training is not known."""
    if source.inputs["preferences"] != rows_source.fingerprint:
        raise DataError(
            f"{preferences}: must be the rows of {evaluation} ({source.inputs['preferences']}), "
            f"got others ({rows_source.fingerprint}). Give that folder."
        )
    models = source.extra["models"]
    if config.challenger not in models:
        raise unknown_name("challenger", config.challenger, models)
    trained_on = models[config.challenger]["inputs"].get("preferences")
    if trained_on != rows_source.fingerprint:
        raise DataError(
            f"{config.challenger}: must have been trained on the training rows of {preferences}, "
            f"but it was trained on others ({trained_on}). Then nobody knows what it has seen: "
            "train it on those."
        )


def _manifest(
    source: Manifest, rows_source: Manifest, rivals: Mapping[str, Version], config: GateConfig
) -> Manifest:
    inputs = {
        "evaluation": source.fingerprint,
        "preferences": rows_source.fingerprint,
        "rivals": " ".join(version.name for version in rivals.values()),
    }
    return Manifest("judge_challenger", config_dict(config), inputs)
