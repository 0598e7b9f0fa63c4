"""A challenge: new models and the champion on the same fresh rows, the gate, and its consequence.

What is promoted is compared with the very version that the run began with, and replaces no other.
"""

import json
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from dynamicpo.core.choices import NO_GENERATOR
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig
from dynamicpo.core.config_gate import GateConfig
from dynamicpo.core.errors import CheckFailedError
from dynamicpo.core.json_values import JsonObject
from dynamicpo.core.model_names import short_version
from dynamicpo.evaluation.evaluate import evaluate
from dynamicpo.evaluation.result_files import read_result
from dynamicpo.promotion.champion import (
    CHAMPION,
    RUN_OF_MOVE,
    Reason,
    champions_of_run,
    promote_version,
)
from dynamicpo.promotion.gate import judge_challenger, rival_names
from dynamicpo.promotion.retraining_history import KEPT, PROMOTED, add_retraining
from dynamicpo.promotion.retraining_plan import RetrainingPlan, cost_text
from dynamicpo.promotion.versions import VersionSource, fetch_version, make_version

log = logging.getLogger(__name__)

_WHO = "retraining"


class Challengers(NamedTuple):
    """The outputs of a training.

    Attributes:
        preferences: Its rows.
        models: What it trained, by name.
        sft: The model that these started from.
    """

    preferences: Path
    models: Mapping[str, Path]
    sft: Path


class ChallengeOutputs(NamedTuple):
    """Folders to make.

    Attributes:
        evaluation: Of both on fresh rows.
        gate: The decision.
        checkpoints: Where and how often finished parts of evaluations are kept (None: nowhere).
    """

    evaluation: Path
    gate: Path
    checkpoints: CheckpointConfig | None = None


@dataclass(frozen=True)
class ChallengeOutcome:
    """The outcome.

    Attributes:
        promoted: The challenger is the champion now.
        why: In sentences.
        challenger: The model's name.
        champion: The version that it was compared with; "" where there was none.
        version: The challenger's version; "" where it was not promoted.
        hours: Hours of its training and evaluation.
    """

    promoted: bool
    why: str
    challenger: str
    champion: str
    version: str
    hours: float

    def to_json(self) -> JsonObject:
        """The entry of a run's record."""
        return dict(vars(self))


def challenge_champion(
    trained: Challengers,
    outputs: ChallengeOutputs,
    evaluation: EvaluationConfig,
    gate: GateConfig,
    plan: RetrainingPlan,
) -> ChallengeOutcome:
    """Compare the best challenger with the champion, and promote it or keep the champion.

    Cut off at any moment and tried again, it ends as it would have.

    Args:
        trained: The challengers.
        outputs: Folders to make.
        evaluation: How rows are ranked.
        gate: Rule and margins.
        plan: The decision that the run began with.

    Raises:
        CheckFailedError: The champion is another one than when the run began. Nothing has moved.
        DataError: Something can't be read or written.
    """
    _check_champion(plan)
    name = choose_challenger(trained, evaluation, outputs.checkpoints)
    gate = replace(gate, store=plan.store, challenger=name)
    match = _Match(name, rival_versions(gate, plan.run), plan.store)
    _evaluate_match(match, trained, outputs, evaluation)
    decision = judge_challenger(
        outputs.evaluation, trained.preferences, outputs.gate, gate, plan.run
    )
    content = decision.extra["decision"]
    stages = [*trained.models.values(), trained.sft, outputs.evaluation]
    hours = _hours(stages, since=float(plan.run))
    version = ""
    if content["promotes"]:
        version = _promote(name, trained, outputs, content, plan)
    cost = cost_text(hours, plan.hour_price, "Training and evaluation took")
    outcome = ChallengeOutcome(
        promoted=bool(version),
        why=" ".join([*content["reasons"], cost]),
        challenger=name,
        champion=plan.champion,
        version=version,
        hours=hours,
    )
    kind = PROMOTED if version else KEPT
    add_retraining(plan.store, plan.entry(kind, outcome.why, hours, version))
    return outcome


def _check_champion(plan: RetrainingPlan) -> None:
    line = champions_of_run(plan.store, plan.run)
    current = line[-1] if line else ""
    if current != plan.champion:
        raise CheckFailedError(
            f"{plan.store}: the champion must still be {short_version(plan.champion) or 'none'}, "
            f"as when the run began, but it is {short_version(current)}. Nothing has moved; start "
            "another run."
        )


def choose_challenger(
    trained: Challengers,
    config: EvaluationConfig,
    checkpoints: CheckpointConfig | None = None,
) -> str:
    """The model that is best on validation rows, by NDCG@5 of listed candidates.

    Args:
        trained: The models; of one there is nothing to choose.
        config: How rows are ranked.
        checkpoints: Where and how often finished parts are kept (None: nowhere).
    """
    names = [*trained.models]
    if len(names) == 1:
        return names[0]
    # Fresh rows must not choose: the best of several would look better there than it is.
    on_validation = replace(
        config, split="validation", candidates="listed", sasrec=False, generator=NO_GENERATOR
    )
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        output = Path(scratch) / "validation"
        evaluate(trained.preferences, trained.models, output, on_validation, checkpoints)
        gains = {name: _validation_gain(output / name) for name in names}
    best = max(names, key=lambda name: gains[name])
    log.info("challenger: %s, NDCG@5 on validation %s", best, gains)
    return best


def _validation_gain(folder: Path) -> float:
    gains = read_result(folder, "validation").row_values("ndcg_at_5")
    return float(gains.mean())


class _Match(NamedTuple):
    """A challenger and the versions that it has to face, by the names of their models."""

    challenger: str
    rivals: Mapping[str, str]
    store: str


def _evaluate_match(
    match: _Match, trained: Challengers, outputs: ChallengeOutputs, config: EvaluationConfig
) -> None:
    """Evaluate all of them on the same rows."""
    with tempfile.TemporaryDirectory(prefix="dynamicpo-") as scratch:
        models = {match.challenger: trained.models[match.challenger]}
        for rival, version in match.rivals.items():
            folder = Path(scratch) / rival
            fetch_version(match.store, version, folder)
            # Its own candidate generator lies in it.
            models[rival] = folder
        as_served = _as_served(config)
        output, _, checkpoints = outputs
        evaluate(trained.preferences, models, output, as_served, checkpoints)


def _as_served(config: EvaluationConfig) -> EvaluationConfig:
    """The settings with a candidate generator, without which nobody knows what is served."""
    if config.generator != NO_GENERATOR:
        return config
    return replace(config, generator="sasrec" if config.sasrec else "cooccurrence")


def rival_versions(gate: GateConfig, run: str = "") -> dict[str, str]:
    """The versions that the gate compares with, by the names of their models.

    Args:
        gate: Store and rule.
        run: The retraining that asks; "" for none.
    """
    rivals: dict[str, str] = {}
    for version in rival_names(gate, run):
        name = f"version-{short_version(version)}" if rivals else CHAMPION
        rivals[name] = version
    return rivals


def _promote(
    name: str,
    trained: Challengers,
    outputs: ChallengeOutputs,
    # Any: JSON, whose shape `GateDecision.to_json` says.
    decision: Mapping[str, Any],
    plan: RetrainingPlan,
) -> str:
    """Publish the challenger and make it the champion. Returns its version."""
    source = VersionSource(trained.models[name], outputs.evaluation, trained.preferences)
    version = make_version(source, plan.store).name
    numbers = {**decision, RUN_OF_MOVE: plan.run}
    reason = Reason(who=_WHO, why=decision["reasons"][0], numbers=numbers)
    promote_version(plan.store, version, reason, expected=plan.champion)
    return version


def _hours(folders: Sequence[Path], since: float) -> float:
    """Hours that stages took, those of this run: what came from a cache took nothing."""
    return sum(_seconds(folders, since)) / 3600


def _seconds(folders: Iterable[Path], since: float) -> Iterable[float]:
    for folder in folders:
        text = (folder / "run.json").read_text(encoding="utf-8")
        record = json.loads(text)
        if record["started"] >= since:
            yield float(record["duration_seconds"])
