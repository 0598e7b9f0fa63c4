"""A model's view of the rows: the score of each candidate, and the answer it generates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.evaluation.rankings import Ranking, Scores, rank_listed
from dynamicpo.evaluation.results import Answers
from dynamicpo.evaluation.rows import Data
from dynamicpo.metrics.generated_answers import named_candidate, substring_candidate
from dynamicpo.models.checkpoints import LoadedModel
from dynamicpo.prompts.encoding import Prompts, item_token
from dynamicpo.scoring.generation import generate_answers
from dynamicpo.scoring.shared_prefix import score_rows
from dynamicpo.scoring.token_trie import catalogue_scores

_ITEMS_AT_ONCE = 32  # answers to one prompt without a history


class Scored(NamedTuple):
    """How a model ranks the rows, what was generated, and how many history items were cut."""

    ranking: Ranking
    answers: Answers | None
    cut_items: int


def rank_with(loaded: LoadedModel, data: Data, config: EvaluationConfig, label: str) -> Scored:
    """Rank each row's candidates, or every item, with a model, and generate where the configuration says so."""
    prompts = Prompts(loaded.tokenizer, data.items, loaded.settings)
    if data.codes is None:
        ranking = data.ranking(
            _everything(loaded, prompts, data, config, f"ranking all with {label}")
        )
        return Scored(ranking, None, prompts.cut_items)
    candidates: list[list[str]] = data.table["candidates"].to_pylist()
    columns = (data.rows.example_ids, data.table["history"].to_pylist(), candidates)
    prepared = [
        prompts.row(example, history, listed, listed)
        for example, history, listed in zip(*columns, strict=True)
    ]
    with loaded.execution_context(), torch.no_grad():
        sums = score_rows(
            loaded.model, prepared, config.token_budget, config.backend, f"scoring with {label}"
        )
        scores = sums.numpy().astype(np.float64)
        if config.score == "mean":
            scores = scores / np.array(
                [[len(answer) for answer in row.answer_ids] for row in prepared]
            )
        elif config.score == "pmi":
            own = _own_scores(loaded, prompts, candidates, config)
            scores = scores - np.array([[own[item] for item in listed] for listed in candidates])
        said = (
            _generate(loaded, prompts, prepared, config.token_budget, label)
            if config.generate
            else None
        )
    ranking = rank_listed(scores, data.rows.target_index, data.codes)
    if said is None:
        return Scored(ranking, None, prompts.cut_items)
    form = loaded.settings.template.get("answer", "{title}")
    return Scored(
        ranking, _answers(said, _texts(loaded, candidates, data.items), form), prompts.cut_items
    )


def _everything(
    loaded: LoadedModel, prompts: Prompts, data: Data, config: EvaluationConfig, label: str
) -> Iterator[Scores]:
    """Scores of every item, (n, I) for some rows after the other."""
    names = data.items["item_id"].tolist()
    answers = prompts.answers(names)
    lengths = np.array([len(answer) for answer in answers])
    columns = zip(data.rows.example_ids, data.table["history"].to_pylist(), strict=True)
    tokens = [prompts.prompt(example, history, int(lengths.max())) for example, history in columns]
    # Only a sum of log-probabilities tells before its end that it can't reach the target's.
    targets = data.rows.target_index.tolist() if config.score == "sum" else None
    how: dict[str, Any] = {"token_budget": config.token_budget, "backend": config.backend}
    with loaded.execution_context(), torch.no_grad(), Progress(label, len(tokens)) as counter:
        own: Scores | float = 0.0
        if config.score == "pmi":
            alone = prompts.without_history(names[:1]).prompt_ids
            own = next(catalogue_scores(loaded.model, [alone], answers, **how)).astype(np.float64)
        for block in catalogue_scores(loaded.model, tokens, answers, targets, **how):
            scores = block.astype(np.float64) - own
            yield scores / lengths if config.score == "mean" else scores
            counter.advance(len(block))


def _own_scores(
    loaded: LoadedModel, prompts: Prompts, candidates: Sequence[Sequence[str]], config: EvaluationConfig
) -> Mapping[str, float]:
    """Each item's log-probability after a prompt without a history, computed once."""
    items = sorted({item for listed in candidates for item in listed})
    width = min(_ITEMS_AT_ONCE, len(items))
    padded = items + items[: -len(items) % width]
    chunks = [padded[start : start + width] for start in range(0, len(padded), width)]
    prepared = [prompts.without_history(chunk) for chunk in chunks]
    logps = score_rows(
        loaded.model, prepared, config.token_budget, config.backend, "scoring titles alone"
    )
    return dict(zip(padded, logps.flatten().tolist(), strict=True))


def _texts(
    loaded: LoadedModel, candidates: Sequence[Sequence[str]], items: pd.DataFrame
) -> list[list[str]]:
    """What the model would have to say to name each candidate."""
    if loaded.settings.item_text == "token":
        return [[item_token(item) for item in listed] for listed in candidates]
    titles = dict(zip(items["item_id"], items["title"], strict=True))
    return [[titles[item] for item in listed] for listed in candidates]


def _generate(
    loaded: LoadedModel, prompts: Prompts, rows: Sequence[Row], token_budget: int, label: str
) -> list[str]:
    """The text of each row's answer, without the token that ends it."""
    end = loaded.tokenizer.eos_token_id
    said = generate_answers(
        loaded.model,
        loaded.tokenizer,
        rows,
        token_budget=token_budget,
        label=f"generating with {label}",
    )
    return [prompts.title_of([token for token in tokens if token != end]) for tokens in said]


def _answers(said: Sequence[str], texts: Sequence[Sequence[str]], form: str) -> Answers:
    """Which candidate each answer names.

    Args:
        said: The answers.
        texts: The candidates' titles (or tokens), row by row.
        form: How an answer is written, with "{title}" for the title.
    """
    wanted = [[form.replace("{title}", text) for text in listed] for listed in texts]
    named = [named_candidate(text, listed) for text, listed in zip(said, wanted, strict=True)]
    substring = [
        substring_candidate(text, listed) for text, listed in zip(said, texts, strict=True)
    ]
    return Answers(said, np.array(named, dtype=np.int64), np.array(substring, dtype=np.int64))
