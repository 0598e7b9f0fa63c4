"""The preference objective on a batch: log-probabilities of its answers, their losses, metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamicpo.core.choices import (
    ABLATIONS,
    LOSSES_OF_ONE_NEGATIVE,
    LOSSES_WITHOUT_REFERENCE,
)
from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.records.rows import Row
from dynamicpo.objective.diagnostics import ObjectiveSettings, preference_diagnostics
from dynamicpo.objective.dynamicpo import preference_losses
from dynamicpo.objective.losses import chosen_likelihood_loss
from dynamicpo.scoring.shared_prefix import answer_logps
from dynamicpo.training.batches import BatchLoss
from dynamicpo.training.preference_batches import PreferenceBatch

_TINY = 1e-30  # in place of a loss of 0, of which nothing has a share


def check_objective(config: PreferenceConfig) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ConfigError: Several negatives for a loss of one.
    """
    if config.loss in LOSSES_OF_ONE_NEGATIVE and config.num_negatives != 1:
        raise ConfigError(
            f"num_negatives: must be 1 with the loss {config.loss}, got {config.num_negatives}. "
            "Use dmpo or sdpo, which equal dpo at 1 and take more."
        )


@dataclass(frozen=True)
class PreferenceObjective:
    """The objective of a configuration, as the trainer calls it."""

    config: PreferenceConfig

    def __call__(self, model: nn.Module, batch: PreferenceBatch) -> BatchLoss:
        """Sum of the rows' losses, and the step's diagnostics."""
        rows = batch["rows"]
        logps = answer_logps(model, rows, backend=self.config.backend)
        _check_finite(logps, batch["example_ids"])
        summed_chosen = logps[:, 0]
        if self.config.loss == "simpo":
            # SimPO compares means over tokens, so that long titles have no handicap.
            logps = logps / _answer_lengths(rows).to(logps)
        chosen, rejected = _split_answers(logps)
        references = _split_references(batch)
        settings = _settings(self.config)
        result = preference_losses(chosen, rejected, *references, **settings)
        metrics = preference_diagnostics(chosen, rejected, *references, **settings)
        total = result.losses.sum()
        # Without the term a step's arithmetic and its log are what they were before it was there.
        if self.config.sft_weight:
            likelihood = chosen_likelihood_loss(summed_chosen, self.config.sft_weight).sum()
            total = total + likelihood
            metrics["sft_loss_share"] = (likelihood / total.clamp(min=_TINY)).detach()
        return BatchLoss(total, metrics)

    def boundary_gradient(self, rows: Sequence[Row], logps: Tensor, reference: Tensor) -> float:
        """Mean size of the loss's gradient at the boundary negatives of rows that were scored.

        Args:
            rows: The rows, with K or more negatives.
            logps: The policy's log-probabilities of their answers, (N, A), nats.
            reference: The reference's.
        """
        if self.config.loss == "simpo":
            logps = logps / _answer_lengths(rows).to(logps)
        num_answers = 1 + self.config.num_negatives
        policy = _split_answers(logps[:, :num_answers])
        references: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.config.loss not in LOSSES_WITHOUT_REFERENCE:
            references = _split_answers(reference[:, :num_answers])
        measures = preference_diagnostics(*policy, *references, **_settings(self.config))
        return float(measures["boundary_gradient"])


def _settings(config: PreferenceConfig) -> ObjectiveSettings:
    return {
        "loss": config.loss,
        "dynamic": config.dynamic != "none",
        "beta": config.beta,
        "margin": config.margin,
        "simpo_gamma": config.simpo_gamma,
        "ablation": config.dynamic if config.dynamic in ABLATIONS else "none",
    }


def _split_references(batch: PreferenceBatch) -> tuple[Tensor | None, Tensor | None]:
    logps = batch.get("reference_logps")
    return (None, None) if logps is None else _split_answers(logps)


def _split_answers(logps: Tensor) -> tuple[Tensor, Tensor]:
    """Chosen (B,) and rejected (B, K): the target is every row's first answer."""
    chosen = logps[:, 0]
    rejected = logps[:, 1:]
    return chosen, rejected


def _answer_lengths(rows: Sequence[Row]) -> Tensor:
    """Numbers of tokens, (B, 1 + K)."""
    return torch.tensor([[len(ids) for ids in row.answer_ids] for row in rows])


def _check_finite(logps: Tensor, example_ids: list[str]) -> None:
    # The objective's only copy to the host.
    finite = torch.isfinite(logps.detach()).all(dim=1).cpu()
    if bool(finite.all()):
        return
    wrong = [
        example_id
        for example_id, is_finite in zip(example_ids, finite.tolist(), strict=True)
        if not is_finite
    ]
    raise DataError(
        f"row {', '.join(wrong[:5])}: log-probabilities must be finite, {len(wrong)} rows of the "
        "batch have others. Lower the learning rate, or look at these rows."
    )
