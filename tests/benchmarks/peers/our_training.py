"""The project's trainer: prompts shared and the reference scored once, or as it was published."""

import copy
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from dynamicpo.core.config import PreferenceConfig
from dynamicpo.core.records.rows import Row
from dynamicpo.objective.dynamicpo import preference_losses
from dynamicpo.scoring.shared_prefix import answer_logps, score_rows
from dynamicpo.training.batches import BatchLoss
from dynamicpo.training.preference_batches import (
    PreferenceBatch,
    PreferenceExample,
    collate_preferences,
)
from dynamicpo.training.preference_objective import PreferenceObjective
from dynamicpo.training.schedule import Schedule
from dynamicpo.training.trainer import train
from tests.benchmarks.peers.answering import answer_with, resident_bytes
from tests.benchmarks.published import published_logps


def pair_losses(logps: Tensor, reference: Tensor, beta: float) -> Tensor:
    """DPO of the chosen answer against each negative, and the mean over them.

    Args:
        logps: The policy's log-probabilities, the chosen answer's first. Shape (B, 1 + K), nats.
        reference: The reference's.
        beta: KL strength.

    Returns:
        Shape (B,).
    """
    of_policy = _pairs(logps)
    of_reference = _pairs(reference)
    settings: Any = {"loss": "dpo", "dynamic": False, "beta": beta}
    result = preference_losses(*of_policy, *of_reference, **settings)
    by_row = result.losses.reshape(len(logps), -1)
    return by_row.mean(1)


def _pairs(logps: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen answer beside each rejected one: (B * K,) and (B * K, 1)."""
    chosen = logps[:, :1]
    rejected = logps[:, 1:]
    repeated = chosen.expand_as(rejected)
    return repeated.reshape(-1), rejected.reshape(-1, 1)


@dataclass(frozen=True)
class SharedPairs:
    """The mean over pairs, with each prompt computed once."""

    beta: float

    def __call__(self, model: nn.Module, batch: PreferenceBatch) -> BatchLoss:
        logps = answer_logps(model, batch["rows"])
        losses = pair_losses(logps, batch["reference_logps"], self.beta)
        return BatchLoss(losses.sum(), {})


@dataclass(frozen=True)
class PublishedPairs:
    """The mean over pairs, with a prompt for each answer and the reference in every step."""

    beta: float
    reference: nn.Module

    def __call__(self, model: nn.Module, batch: PreferenceBatch) -> BatchLoss:
        losses = [self._loss(model, row) for row in batch["rows"]]
        return BatchLoss(torch.stack(losses).sum(), {})

    def _loss(self, model: nn.Module, row: Row) -> Tensor:
        with torch.no_grad():
            reference = published_logps(self.reference, row)
        logps = published_logps(model, row)
        (loss,) = pair_losses(logps, reference, self.beta)
        return loss


def train_rows(request: dict[str, Any]) -> dict[str, Any]:
    """Train on all rows in every step, one row in memory at once."""
    rows = [Row(**row) for row in request["rows"]]
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
    before = resident_bytes()
    start = time.process_time()
    losses = _train(model, rows, request)
    taken = time.process_time() - start
    return {"losses": losses, "seconds": taken, "start_bytes": before}


def _train(model: Any, rows: list[Row], request: dict[str, Any]) -> list[float]:
    loss = request["loss"]
    # The mean over pairs is no loss of the project, and its objective looks at no name.
    name = "sdpo" if loss == "pairs" else loss
    config = PreferenceConfig(
        loss=name,
        num_negatives=len(rows[0].answer_ids) - 1,
        dynamic="none",
        beta=request["beta"],
        batch_size=len(rows),
        micro_batch_size=1,
        max_steps=request["steps"],
        warmup_share=0.0,
    )
    examples = [_example(number, row) for number, row in enumerate(rows)]
    if request["way"] == "ours":
        # Once for all steps.
        reference = score_rows(model, rows)
        for example, logps in zip(examples, reference, strict=True):
            example["reference_logps"] = logps.tolist()
    objective = _objective(model, config, request)
    schedule = Schedule.from_config(config, request["learning_rate"])
    with tempfile.TemporaryDirectory() as folder:
        steps = train(
            model, examples, collate_preferences, objective, schedule, Path(folder), "peers"
        )
    return [step["loss"] for step in steps]


def _objective(model: nn.Module, config: PreferenceConfig, request: dict[str, Any]) -> Any:
    if request["way"] == "published":
        reference = copy.deepcopy(model)
        return PublishedPairs(config.beta, reference.eval())
    if request["loss"] == "pairs":
        return SharedPairs(config.beta)
    return PreferenceObjective(config)


def _example(number: int, row: Row) -> PreferenceExample:
    answer_ids = [list(ids) for ids in row.answer_ids]
    return {
        "example_id": str(number),
        "prompt_ids": list(row.prompt_ids),
        "answer_ids": answer_ids,
    }


if __name__ == "__main__":
    answer_with(train_rows)
