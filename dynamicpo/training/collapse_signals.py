"""Signs of a preference optimization collapse, from looks at one sample of validation rows.

A collapse (arXiv 2605.00327): the training loss falls, but the ranking gets worse.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dynamicpo.core.arrays import FloatArray
from dynamicpo.metrics.intervals import paired_difference

COLLAPSE = "preference optimization collapse"
HIT_RATIO_SIGNAL = "HitRatio@1"
GRADIENT_SIGNAL = "boundary gradient"
# Of its size before training. At the study's rate DMPO with 19 negatives falls below after a third
# of its steps, with 5 hardly ever, and no other cell does (docs/results.md).
FADED = 0.2
_LEVEL = 0.05
# A corrected p is never below 2 / (resamples + 1) times the number of looks.
_RESAMPLES_PER_LOOK = 100
_FEWEST_RESAMPLES = 2000


class SampleLook(NamedTuple):
    """A model's ranking of the sample.

    Attributes:
        step: Steps done.
        hits: HitRatio@1 of each row, ties with their expected value. Shape (N,).
        boundary_gradient: Mean size of the loss's gradient at boundary negatives.
        loss_fell: Whether the training loss is below that of the first steps.
    """

    step: int
    hits: FloatArray
    boundary_gradient: float
    loss_fell: bool

    @property
    def hit_ratio(self) -> float:
        """HitRatio@1 over all rows."""
        return float(self.hits.mean())


class CollapseSignals:
    """Judges looks, one after the other.

    Args:
        users: The user of each row of the sample.
        num_looks: Looks of the whole training, which p is corrected for.

    Attributes:
        looks: All of them; the first is before training.
        since: For each signal that the last look gave: the step of the first look of those in a
            row that did, and their number.
    """

    def __init__(self, users: Sequence[str], num_looks: int) -> None:
        """Start without a look."""
        self.looks: list[SampleLook] = []
        self.since: dict[str, tuple[int, int]] = {}
        self._users = users
        self._num_looks = num_looks
        self._best: SampleLook | None = None

    def add(self, look: SampleLook) -> None:
        """Judge a look against those before it."""
        signs = self._signs(look)
        since = {}
        for signal, is_given in signs.items():
            if is_given:
                step, number = self.since.get(signal, (look.step, 0))
                since[signal] = (step, number + 1)
        self.since = since
        self.looks.append(look)
        if self._best is None or look.hit_ratio > self._best.hit_ratio:
            self._best = look

    def _signs(self, look: SampleLook) -> Mapping[str, bool]:
        if not self.looks or not look.loss_fell:
            return {}
        first = self.looks[0]
        faded = FADED * first.boundary_gradient
        return {
            HIT_RATIO_SIGNAL: self._is_below_best(look),
            GRADIENT_SIGNAL: look.boundary_gradient < faded,
        }

    def _is_below_best(self, look: SampleLook) -> bool:
        """Tell whether fewer rows are right than at the best look so far, beyond chance."""
        assert self._best is not None, "there is a look before this one"
        wanted = _RESAMPLES_PER_LOOK * self._num_looks
        compared = paired_difference(
            look.hits,
            self._best.hits,
            self._users,
            max(wanted, _FEWEST_RESAMPLES),
        )
        # A single user says nothing of others.
        if compared.p is None or compared.difference >= 0:
            return False
        corrected = compared.p * self._num_looks
        return corrected < _LEVEL

    def num_in_a_row(self) -> int:
        """The last looks in a row that found a collapse by one and the same signal."""
        return max((number for _, number in self.since.values()), default=0)

    def sentences(self) -> list[str]:
        """Sentences of what the last look found, one for each signal."""
        sentences = []
        for signal, (step, _) in self.since.items():
            text = f"{COLLAPSE} since step {step}: {self._reason(signal)}, while the loss fell."
            sentences.append(text)
        return sentences

    def _reason(self, signal: str) -> str:
        first = self.looks[0]
        last = self.looks[-1]
        if signal == GRADIENT_SIGNAL:
            share = last.boundary_gradient / first.boundary_gradient
            return f"the {signal} on validation rows is {share:.0%} of its size before training"
        best = max(self.looks, key=lambda look: look.hit_ratio)
        return (
            f"{signal} of validation rows is {last.hit_ratio:.3f}, clearly below the "
            f"{best.hit_ratio:.3f} of step {best.step}"
        )
