"""RecBole's SASRec on the same rows. Runs in the environment `recbole`."""

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed
from torch import Tensor

from tests.benchmarks.peers.answering import answer_with

ROWS_AT_ONCE = 512
SPLITS = ("train", "validation", "test")


def train(request: dict[str, Any]) -> dict[str, Any]:
    """Train, keep the best epoch's weights, score all items for the rows to rank."""
    text = Path(request["rows"]).read_text(encoding="utf-8")
    rows = json.loads(text)
    # RecBole writes logs where it stands.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        folder = Path(scratch)
        write_rows(folder, rows)
        lengths = [len(history) for _, history, _ in rows["train"]]
        settings = {**_settings(folder, max(lengths)), **request["settings"]}
        config = Config(model="SASRec", dataset="rows", config_dict=settings)
        # RecBole's own start, which does this, too, has the command line as further settings.
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train_data, validation_data, _ = data_preparation(config, dataset)
        start = time.process_time()
        model = SASRec(config, train_data.dataset)
        best = _fit(Trainer(config, model), train_data, validation_data)
        trained = time.process_time()
    codes = dataset.field2token_id["item_id"]
    scores = score(model.eval(), codes, rows["test"], request["items"])
    np.save(request["scores"], scores)
    scored = time.process_time()
    return {"seconds": trained - start, "scoring_seconds": scored - trained, **best}


def write_rows(folder: Path, rows: dict[str, list[list[Any]]]) -> None:
    """RecBole's files: a row's user, its history in one column, its target."""
    data = folder / "rows"
    data.mkdir()
    for split in SPLITS:
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        for user, history, target in rows[split]:
            items = " ".join(history)
            lines.append(f"{user}\t{items}\t{target}")
        path = data / f"rows.{split}.inter"
        path.write_text("\n".join(lines), encoding="utf-8")


def _settings(folder: Path, longest: int) -> dict[str, Any]:
    files = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder),
        # Files that are split already: each line is a row, as the project has it.
        "benchmark_filename": list(SPLITS),
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "alias_of_item_id": ["item_id_list"],
        "ITEM_LIST_LENGTH_FIELD": "item_length",
        "MAX_ITEM_LIST_LENGTH": longest,
    }
    training = {
        "train_neg_sample_args": None,
        "eval_args": {"mode": "full", "order": "TO", "group_by": "user"},
        "metrics": ["NDCG"],
        "valid_metric": "NDCG@10",
        "use_gpu": False,
        "show_progress": False,
    }
    return {**files, **training}


def _fit(trainer: Trainer, train_data: Any, validation_data: Any) -> dict[str, Any]:
    """Train, and keep the weights of the epoch with the best validation metric."""
    model = trainer.model
    values: list[float] = []
    weights: dict[str, Tensor] = {}

    def look(_: int, value: float) -> None:
        values.append(value)
        if value < max(values):
            return
        for name, weight in model.state_dict().items():
            weights[name] = weight.clone()

    # Its own way of keeping the best weights reads them back as a pickle.
    trainer.fit(train_data, validation_data, verbose=False, saved=False, callback_fn=look)
    model.load_state_dict(weights)
    best = max(range(len(values)), key=values.__getitem__)
    return {"epochs": len(values), "best_epoch": best + 1, "validation": values}


@torch.no_grad()
def score(
    model: SASRec, codes: dict[str, int], rows: list[list[Any]], items: list[str]
) -> np.ndarray:
    """Scores of all items in the project's order, those that RecBole never saw last. (N, I)."""
    histories = []
    for _, history, _ in rows:
        known = [codes[item] for item in history]
        histories.append(torch.tensor(known))
    blocks = []
    for start in range(0, len(histories), ROWS_AT_ONCE):
        end = start + ROWS_AT_ONCE
        block = _scores_of_all(model, histories[start:end])
        blocks.append(block.numpy())
    scores = np.concatenate(blocks)
    # Code 0 is the padding's.
    scores[:, 0] = -np.inf
    order = [codes.get(item, 0) for item in items]
    return scores[:, order].astype(np.float32)


def _scores_of_all(model: SASRec, histories: list[Tensor]) -> Tensor:
    lengths = torch.tensor([len(history) for history in histories])
    shape = (len(histories), model.max_seq_length)
    sequences = torch.zeros(shape, dtype=torch.long)
    for number, history in enumerate(histories):
        end = len(history)
        sequences[number, :end] = history
    columns = {model.ITEM_SEQ: sequences, model.ITEM_SEQ_LEN: lengths}
    batch = Interaction(columns)
    return model.full_sort_predict(batch)


if __name__ == "__main__":
    answer_with(train)
