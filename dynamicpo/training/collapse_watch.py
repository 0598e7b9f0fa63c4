"""The watch for a collapse: looks at a fixed sample of validation rows while preferences train."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.records.rows import Row
from dynamicpo.metrics.ranking import row_metrics, target_ranks
from dynamicpo.scoring.shared_prefix import score_rows
from dynamicpo.training.collapse_signals import COLLAPSE, CollapseSignals, SampleLook
from dynamicpo.training.step_log import StepMetrics

log = logging.getLogger(__name__)

_END_STEPS = 10  # that a loss is the mean of: single batches differ too much
_ROWS_PER_LOOK = 6400  # of training between two looks, where their steps are not given
_LOOKS_TO_STOP = 2  # in a row: a single one may be chance
HIT_RATIO_MEASURE = "validation/hit_ratio_at_1"
GRADIENT_MEASURE = "validation/boundary_gradient"
COLLAPSE_MEASURE = "validation/collapse"
WATCH_MEASURES = (HIT_RATIO_MEASURE, GRADIENT_MEASURE, COLLAPSE_MEASURE)


@dataclass(frozen=True)
class WatchedSample:
    """Validation rows, and how they are measured.

    Attributes:
        rows: Prompts and their answers, the target first.
        users: Their users.
        boundary_gradient: The loss's gradient at the boundary, of log-probabilities of the policy
            and of the model before training, (N, A) each.
        backend: How prompts are shared.
    """

    rows: Sequence[Row]
    users: Sequence[str]
    boundary_gradient: Callable[[Tensor, Tensor], float]
    backend: str


class CollapseWatch(TrainerCallback):
    """Looks at the sample every so many steps, and says when ranking has collapsed.

    Args:
        model: The model in training.
        sample: The rows.
        config: Steps between two looks, whether a collapse ends the training, and whether the best
            weights are wanted.
        num_steps: Steps of the training.

    Attributes:
        signals: What the looks have found.
        look_steps: Steps between two looks.
    """

    def __init__(
        self, model: nn.Module, sample: WatchedSample, config: PreferenceConfig, num_steps: int
    ) -> None:
        """Start without a look."""
        self.look_steps = config.watch_steps or max(1, _ROWS_PER_LOOK // config.batch_size)
        # The last weights are among those that the best ones are chosen from.
        self._end = num_steps if config.deliver == "best" else None
        self._num_looks = num_steps // self.look_steps
        if self._end is not None and num_steps % self.look_steps:
            self._num_looks += 1
        self.signals = CollapseSignals(sample.users, max(1, self._num_looks))
        self._model = model
        self._sample = sample
        self._stops = config.stop_on_collapse
        self._losses: list[float] = []
        self._reference: Tensor | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look before the first step, unless there will be no other look."""
        is_fresh = state.global_step == 0
        if is_fresh and self._num_looks:
            self._look(step=0)

    def measures_of_step(self, step: int, loss: float) -> StepMetrics:
        """Look where it is time to, for what the step's line of the log has besides.

        Args:
            step: Steps done.
            loss: The training loss of this step.
        """
        self._losses.append(loss)
        if step % self.look_steps and step != self._end:
            return {}
        self._look(step)
        look = self.signals.looks[-1]
        return {
            HIT_RATIO_MEASURE: look.hit_ratio,
            GRADIENT_MEASURE: look.boundary_gradient,
            COLLAPSE_MEASURE: int(bool(self.signals.since)),
        }

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the training where it has collapsed and the settings say so."""
        if self._stops and self.signals.num_in_a_row() >= _LOOKS_TO_STOP:
            control.should_training_stop = True

    def _look(self, step: int) -> None:
        sample = self._sample
        logps = score_rows(
            self._model,
            sample.rows,
            backend=sample.backend,
            label="collapse watch",
        )
        if self._reference is None:
            self._reference = logps
        look = SampleLook(
            step,
            _hits(logps),
            sample.boundary_gradient(logps, self._reference),
            _loss_fell(self._losses),
        )
        was_collapsed = bool(self.signals.since)
        self.signals.add(look)
        for sentence in self.signals.sentences():
            log.warning("step %d: %s", step, sentence)
        if was_collapsed and not self.signals.since:
            log.info("step %d: no longer a %s", step, COLLAPSE)

    def error_rate(self) -> float:
        """Share of the sample's rows that the last look found wrong: 1 - HitRatio@1."""
        return 1 - self.signals.looks[-1].hit_ratio

    def counts(self) -> dict[str, int]:
        """The step since which the last looks found a collapse; empty where they found none."""
        steps = [step for step, _ in self.signals.since.values()]
        return {"preference_optimization_collapse_step": min(steps)} if steps else {}

    def state(self) -> dict[str, Tensor]:
        """Its looks, for a checkpoint."""
        if self._reference is None:
            return {}
        looks = self.signals.looks
        hits = np.stack([look.hits for look in looks])
        gradients = [look.boundary_gradient for look in looks]
        return {
            "reference": self._reference,
            "steps": torch.tensor([look.step for look in looks]),
            "hits": torch.from_numpy(hits),
            "gradients": torch.tensor(gradients, dtype=torch.float64),
        }

    def go_on(self, state: Mapping[str, Tensor], losses: Sequence[float]) -> None:
        """Go on from the looks of an earlier attempt.

        Args:
            state: Its looks.
            losses: The training losses of its steps.
        """
        self._losses = [*losses]
        if not state:
            return
        self._reference = state["reference"]
        hits = state["hits"].numpy()
        gradients = state["gradients"].tolist()
        for number, step in enumerate(state["steps"].tolist()):
            fell = _loss_fell(losses[:step])
            look = SampleLook(step, hits[number], gradients[number], fell)
            self.signals.add(look)


def _loss_fell(losses: Sequence[float]) -> bool:
    if not losses:
        return False
    first = losses[:_END_STEPS]
    last = losses[-_END_STEPS:]
    return fmean(last) < fmean(first)


def _hits(logps: Tensor) -> FloatArray:
    """HitRatio@1 of each row, whose target is its first answer."""
    targets = np.zeros(len(logps), dtype=np.int64)
    better, tied = target_ranks(logps, targets)
    return row_metrics(better, tied, logps.shape[1], ks=(1,))["hit_ratio_at_1"]
