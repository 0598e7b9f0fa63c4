"""Whether an objective collapses with more negatives and DynamicPO prevents it: the test, and what it says.

Two kinds of cells are compared on the same rows, seed by seed. Their mean difference varies for two reasons: which
users are in the test split, and the seeds of training. The variances of both are added (which counts what they share
twice, and so errs to the safe side), and a t test with Satterthwaite's degrees of freedom gives p. All comparisons of a
study are one family: p is corrected by Holm for their number.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dynamicpo.core.config import StudyConfig
from dynamicpo.metrics.intervals import LEVEL, holm
from dynamicpo.study.grid import kind_at

Floats = NDArray[np.float64]
Kind = tuple[str, str, int]  # loss, variant, number of negatives
LOSSES = {
    "dpo": "DPO",
    "dmpo": "DMPO",
    "sdpo": "S-DPO",
    "mppo": "MPPO",
    "simpo": "SimPO",
    "sft": "SFT",
}
VARIANTS = {
    "plain": "plain",
    "dynamicpo": "DynamicPO",
    "selection": "boundary selection alone",
    "beta": "dynamic beta alone",
}
SFT: Kind = ("sft", "plain", 0)
TREATMENT = "dynamicpo"


@dataclass(frozen=True)
class Cells:
    """The cells of one kind: one for each seed.

    Attributes:
        hits: HitRatio@1 of each row. Shape (S, N).
        figures: What training ended with, shape (S,) each; among them `loss_share`, the final loss as a share of the
            loss before training.
    """

    hits: Floats
    figures: Mapping[str, Floats]


class Contrast(NamedTuple):
    """Kind `a` less kind `b`: the difference in HitRatio@1, its 95 % interval, p, and p after Holm's correction.

    The last four are None where all rows are of one user.
    """

    a: Kind
    b: Kind
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None = None


class Verdict(NamedTuple):
    """What a study says of one objective.

    Attributes:
        objective: The base objective.
        fall: Its largest fall from a smaller to a larger number of negatives that is a collapse; else its largest;
            where it never falls, the change from the fewest to the most.
        collapsed: Whether that is a collapse.
        outcome: What DynamicPO does to a collapse: "prevented" (it ranks clearly better there and has no such fall
            itself), "softened" (the first only), "not prevented"; "" without a collapse or without DynamicPO.
        gain: DynamicPO less the plain objective, at the collapse or else at the most negatives.
        own: DynamicPO's own difference between the same numbers of negatives.
    """

    objective: str
    fall: Contrast
    collapsed: bool
    outcome: str
    gain: Contrast | None
    own: Contrast | None


class Study(NamedTuple):
    """What was measured, and what it says.

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
    known = {loss for loss, _, _ in cells if loss not in ("dpo", "sft")}
    objectives = [loss for loss in LOSSES if loss in known] or ["dpo"]
    contrasts = compare(cells, pairs_of(cells, objectives), users)
    verdicts = [judge(loss, cells, contrasts, config) for loss in objectives]
    return Study(
        cells,
        seeds,
        objectives,
        contrasts,
        [found for found in verdicts if found is not None],
        config,
    )


def order(kind: Kind) -> tuple[int, int, int]:
    """Sorts kinds as they are written down: objective, variant, number of negatives."""
    return list(LOSSES).index(kind[0]), list(VARIANTS).index(kind[1]), kind[2]


def kind_name(kind: Kind) -> str:
    """`DMPO, K = 19`, `S-DPO with DynamicPO, K = 5`; `SFT`."""
    loss, variant, count = kind
    front = LOSSES[loss] if variant == "plain" else f"{LOSSES[loss]} with {VARIANTS[variant]}"
    return f"{front}, K = {count}" if count else front


def contrast(
    a: Floats, b: Floats, users: Sequence[str]
) -> tuple[float, float | None, float | None, float | None]:
    """Difference, bounds and p of two kinds on the same rows.

    Args:
        a: One number for each seed and row. Shape (S, N).
        b: The same of the other kind; (1, N) for one that has no seeds.
        users: The user of each row.
    """
    differences = a - b
    by_seed, by_row = differences.mean(axis=1), differences.mean(axis=0)
    mean, num_seeds = float(by_seed.mean()), len(by_seed)
    _, user = np.unique(np.asarray(users), return_inverse=True)
    num_users = int(user.max()) + 1
    if num_users == 1:
        return mean, None, None, None
    residuals = np.bincount(user, weights=by_row - mean)
    of_users = float(num_users / (num_users - 1) * (residuals**2).sum() / len(by_row) ** 2)
    of_seeds = float(by_seed.var(ddof=1) / num_seeds) if num_seeds > 1 else 0.0
    error = math.sqrt(of_users + of_seeds)
    if error == 0:
        return mean, mean, mean, float(mean == 0)
    freedom = error**4 / (
        of_users**2 / (num_users - 1) + (of_seeds**2 / (num_seeds - 1) if num_seeds > 1 else 0)
    )
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return mean, mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, freedom))


def compare(
    cells: Mapping[Kind, Cells], pairs: Sequence[tuple[Kind, Kind]], users: Sequence[str]
) -> list[Contrast]:
    """The family of comparisons, with p corrected for their number."""
    found = [Contrast(a, b, *contrast(cells[a].hits, cells[b].hits, users)) for a, b in pairs]
    known = [entry for entry in found if entry.p is not None]
    corrected = iter(holm([entry.p for entry in known if entry.p is not None]))
    return [entry if entry.p is None else entry._replace(p_holm=next(corrected)) for entry in found]


def pairs_of(cells: Mapping[Kind, Cells], objectives: Sequence[str]) -> list[tuple[Kind, Kind]]:
    """What is compared: every number of negatives with every smaller one; variants with the plain objective; SFT."""
    counts = sorted({count for _, _, count in cells if count})
    wanted: list[tuple[Kind, Kind]] = []
    for loss in objectives:
        for variant in VARIANTS:
            kinds = [kind_at(loss, variant, count) for count in counts]
            wanted += [(b, a) for a, b in itertools.combinations(kinds, 2)]
            if variant != "plain":
                wanted += [(kind, kind_at(loss, "plain", kind[2])) for kind in kinds]
        wanted.append((kind_at(loss, "plain", counts[0]), SFT))
    return [(a, b) for a, b in dict.fromkeys(wanted) if a in cells and b in cells and a != b]


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
    known = {(entry.a, entry.b): entry for entry in contrasts}
    falls = sorted(_falls(objective, "plain", known), key=lambda entry: entry.difference)
    if not falls:
        return None
    collapses = [entry for entry in falls if _is_collapse(entry, cells, config)]
    fewest, most = min(entry.b[2] for entry in falls), max(entry.a[2] for entry in falls)
    whole = [entry for entry in falls if (entry.b[2], entry.a[2]) == (fewest, most)]
    fall = (collapses or [entry for entry in falls if entry.difference < 0] or whole or falls)[0]
    place = fall.a[2] if collapses else most
    treated = kind_at(objective, TREATMENT, place)
    gain = known.get((treated, kind_at(objective, "plain", place)))
    own = known.get((treated, kind_at(objective, TREATMENT, fall.b[2])))
    outcome = _outcome(gain, own, config) if collapses and gain else ""
    return Verdict(objective, fall, bool(collapses), outcome, gain, own)


def _falls(
    objective: str, variant: str, known: Mapping[tuple[Kind, Kind], Contrast]
) -> list[Contrast]:
    return [
        entry
        for (a, b), entry in known.items()
        if a == kind_at(objective, variant, a[2])
        and b == kind_at(objective, variant, b[2])
        and 0 < b[2] < a[2]
    ]


def is_clear(entry: Contrast, config: StudyConfig) -> bool:
    """Whether a difference is not noise."""
    return entry.p_holm is not None and entry.p_holm < config.level


def _is_fall(entry: Contrast, config: StudyConfig) -> bool:
    return is_clear(entry, config) and entry.difference <= -config.min_drop


def _is_collapse(entry: Contrast, cells: Mapping[Kind, Cells], config: StudyConfig) -> bool:
    """Ranking gets worse with more negatives although the loss gets better."""
    after, before = (float(cells[kind].figures["loss_share"].mean()) for kind in (entry.a, entry.b))
    return _is_fall(entry, config) and after < before


def _outcome(gain: Contrast, own: Contrast | None, config: StudyConfig) -> str:
    if not (is_clear(gain, config) and gain.difference > 0):
        return "not prevented"
    return "softened" if own is not None and _is_fall(own, config) else "prevented"
