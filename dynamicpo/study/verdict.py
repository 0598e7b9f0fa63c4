"""The verdict of a study: objectives that collapse with more negatives, and what prevents it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynamicpo.core.config import StudyConfig
from dynamicpo.study.contrasts import Cells, Contrast, compare_kinds, pairs_of
from dynamicpo.study.kinds import LOSS_LABELS, PLAIN, SFT, TREATMENT, Kind, kind_at


class Verdict(NamedTuple):
    """The verdict on one objective.

    Attributes:
        objective: The base objective.
        fall: Its largest fall from a smaller to a larger number of negatives that is a collapse;
            else its largest; where it never falls, the change from the fewest to the most.
        collapsed: True if that is a collapse.
        outcome: The effect of DynamicPO on a collapse: "prevented" (it ranks clearly better there
            and has no such fall itself), "softened" (the first only), "not prevented"; "" without a
            collapse or without DynamicPO.
        gain: DynamicPO − the plain objective, at the collapse or else at the most negatives.
        change_with_dynamicpo: DynamicPO's difference between the same numbers of negatives.
    """

    objective: str
    fall: Contrast
    collapsed: bool
    outcome: str
    gain: Contrast | None
    change_with_dynamicpo: Contrast | None


class Study(NamedTuple):
    """Measurements of a study, and the verdicts.

    Attributes:
        cells: By kind, SFT among them.
        seeds: The seeds of every kind.
        objectives: The base objectives, in order.
        contrasts: The family of comparisons.
        verdicts: One for each objective that was trained at two numbers of negatives.
        config: What counts as a collapse.
    """

    cells: Mapping[Kind, Cells]
    seeds: Sequence[int]
    objectives: Sequence[str]
    contrasts: Sequence[Contrast]
    verdicts: Sequence[Verdict]
    config: StudyConfig


def judge_all(
    cells: Mapping[Kind, Cells], users: Sequence[str], seeds: Sequence[int], config: StudyConfig
) -> Study:
    """Compare all cells of a study, and judge every objective.

    Args:
        cells: By kind, SFT among them.
        users: The user of each row.
        seeds: The seeds of every kind.
        config: What counts as a collapse.
    """
    objectives = _objectives(cells)
    contrasts = compare_kinds(cells, pairs_of(cells, objectives), users)
    verdicts = []
    for objective in objectives:
        verdict = judge(objective, cells, contrasts, config)
        if verdict is not None:
            verdicts.append(verdict)
    return Study(cells, seeds, objectives, contrasts, verdicts, config)


def _objectives(cells: Mapping[Kind, Cells]) -> list[str]:
    """The objectives to judge, in the order of reports."""
    trained = {kind.loss for kind in cells}
    # DPO is where others start at K = 1, and an objective by itself only where it is alone.
    trained -= {"dpo", SFT.loss}
    in_order = [loss for loss in LOSS_LABELS if loss in trained]
    return in_order or ["dpo"]


def judge(
    objective: str, cells: Mapping[Kind, Cells], contrasts: Sequence[Contrast], config: StudyConfig
) -> Verdict | None:
    """The verdict on one objective; None where it was not trained at two numbers of negatives.

    Args:
        objective: The base objective.
        cells: All cells.
        contrasts: The family of comparisons.
        config: What counts as a collapse.
    """
    changes = _changes_with_negatives(objective, contrasts)
    if not changes:
        return None
    collapses = [change for change in changes if _is_collapse(change, cells, config)]
    if collapses:
        fall = collapses[0]
        judged_at = fall.a.num_negatives
    else:
        # DynamicPO is then looked at where there are most negatives, the hardest case.
        fall = _main_change(changes)
        judged_at = max(change.a.num_negatives for change in changes)
    by_kinds = {(entry.a, entry.b): entry for entry in contrasts}
    plain = kind_at(objective, PLAIN, judged_at)
    treated = kind_at(objective, TREATMENT, judged_at)
    treated_before = kind_at(objective, TREATMENT, fall.b.num_negatives)
    gain = by_kinds.get((treated, plain))
    treated_change = by_kinds.get((treated, treated_before))
    outcome = ""
    if collapses and gain:
        outcome = _outcome(gain, treated_change, config)
    return Verdict(objective, fall, bool(collapses), outcome, gain, treated_change)


def _changes_with_negatives(objective: str, contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Comparisons of the plain objective with itself at fewer negatives, the largest fall first."""
    changes = []
    # Kinds are compared as they stand for the objective: at K = 1 DPO stands for several.
    for entry in contrasts:
        more = entry.a.num_negatives
        fewer = entry.b.num_negatives
        is_of_objective = (
            entry.a == kind_at(objective, PLAIN, more)
            and entry.b == kind_at(objective, PLAIN, fewer)
            and 0 < fewer < more
        )
        if is_of_objective:
            changes.append(entry)
    return sorted(changes, key=lambda entry: entry.difference)


def _main_change(changes: Sequence[Contrast]) -> Contrast:
    """The largest fall; where there is none, the change from the fewest to the most negatives."""
    largest_fall = changes[0]
    if largest_fall.difference < 0:
        return largest_fall
    fewest = min(change.b.num_negatives for change in changes)
    most = max(change.a.num_negatives for change in changes)
    for change in changes:
        if (change.b.num_negatives, change.a.num_negatives) == (fewest, most):
            return change
    return largest_fall


def is_significant(entry: Contrast, config: StudyConfig) -> bool:
    """True if a difference is more than noise: p after Holm's correction is below the level."""
    return entry.p_holm is not None and entry.p_holm < config.level


def _is_fall(entry: Contrast, config: StudyConfig) -> bool:
    """True if a fall is significant and large enough to matter."""
    # With many rows a fall of no practical meaning is significant, too.
    return is_significant(entry, config) and entry.difference <= -config.min_drop


def _is_collapse(entry: Contrast, cells: Mapping[Kind, Cells], config: StudyConfig) -> bool:
    """True if ranking gets worse with more negatives although the loss gets better."""
    # Losses of different K are not comparable, but their shares of the loss before training are.
    after = mean_loss_share(cells[entry.a])
    before = mean_loss_share(cells[entry.b])
    loss_is_better = after < before
    return loss_is_better and _is_fall(entry, config)


def mean_loss_share(cells: Cells) -> float:
    """Final loss as a share of the loss before training, the mean over seeds."""
    return float(cells.figures["loss_share"].mean())


def _outcome(gain: Contrast, treated_change: Contrast | None, config: StudyConfig) -> str:
    is_better = is_significant(gain, config) and gain.difference > 0
    if not is_better:
        return "not prevented"
    if treated_change is not None and _is_fall(treated_change, config):
        return "softened"
    return "prevented"
