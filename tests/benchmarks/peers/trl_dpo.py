"""TRL's DPOTrainer, fed a pair for each negative of a row. Runs in the environment `trl`."""

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.benchmarks.peers.answering import answer_with, resident_bytes


class EncodedDPOTrainer(DPOTrainer):
    """DPOTrainer on the very same token ids, which it would tokenise itself otherwise."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
        return dataset


def pairs(rows: list[dict[str, Any]]) -> Dataset:
    """The chosen answer of a row beside each of its negatives."""
    lines = []
    for row in rows:
        chosen, *rejected = row["answer_ids"]
        for negative in rejected:
            lines.append(
                {"prompt_ids": row["prompt_ids"], "chosen_ids": chosen, "rejected_ids": negative}
            )
    return Dataset.from_list(lines)


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Train on all pairs in every step, the pairs of one row in memory at once."""
    rows = request["rows"]
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    dataset = pairs(rows)
    before = resident_bytes()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = EncodedDPOTrainer(
            model=model,
            args=_arguments(request, scratch),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.train()
    taken = time.process_time() - start
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"losses": losses, "seconds": taken, "start_bytes": before}


def _arguments(request: dict[str, Any], scratch: str) -> DPOConfig:
    rows = request["rows"]
    num_pairs = len(rows[0]["answer_ids"]) - 1
    # All rows in each step: their order changes nothing.
    batches = {
        "per_device_train_batch_size": num_pairs,
        "gradient_accumulation_steps": len(rows),
        "max_steps": request["steps"],
    }
    # As the others have it: float32 on a CPU, nothing recomputed, a cosine from the first step.
    alike = {
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "optim": "adamw_torch",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
    }
    quiet = {"logging_steps": 1, "report_to": [], "save_strategy": "no", "disable_tqdm": True}
    return DPOConfig(
        output_dir=scratch,
        beta=request["beta"],
        learning_rate=request["learning_rate"],
        precompute_ref_log_probs=request["precompute"],
        **batches,
        **alike,
        **quiet,
    )


if __name__ == "__main__":
    answer_with(train)
