"""The published way of scoring a row."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dynamicpo.core.records.rows import Row


def published_logps(model: nn.Module, row: Row) -> Tensor:
    """Score a padded batch, with log-probabilities of the vocabulary at each token. (1, 1 + K)."""
    sequences = [torch.tensor([*row.prompt_ids, *ids]) for ids in row.answer_ids]
    token_ids = pad_sequence(sequences, batch_first=True)
    mask = pad_sequence([torch.ones_like(ids) for ids in sequences], batch_first=True)
    logps = model(input_ids=token_ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    picked = logps.gather(2, token_ids[:, 1:, None])[..., 0] * mask[:, 1:]
    return picked[:, len(row.prompt_ids) - 1 :].sum(1)[None]
