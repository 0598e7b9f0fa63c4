"""A model's view of the rows: the score of each candidate, and the answer it generates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.evaluation.rankings import Ranking, rank_listed
from dynamicpo.evaluation.results import GeneratedAnswers
from dynamicpo.evaluation.rows import EvaluationData
from dynamicpo.metrics.generated_answers import named_candidate, substring_candidate
from dynamicpo.models.checkpoints import LoadedModel
from dynamicpo.prompts.encoding import Prompts, item_token
from dynamicpo.scoring.catalogue_scoring import catalogue_scores
from dynamicpo.scoring.generation import generate_answers
from dynamicpo.scoring.shared_prefix import score_rows

_ITEMS_AT_ONCE = 32  # answers to one prompt without a history


class ModelRanking(NamedTuple):
    """A model's ranking of the rows, its answers, and how many history items were cut."""

    ranking: Ranking
    answers: GeneratedAnswers | None
    cut_items: int


def rank_with_model(
    loaded: LoadedModel, data: EvaluationData, config: EvaluationConfig, label: str
) -> ModelRanking:
    """Rank each row's candidates, or every item, with a model; generate if the settings say so.

    Args:
        loaded: The model.
        data: The rows.
        config: Score, candidates, generation.
        label: The model's name in progress.
    """
    prompts = Prompts(loaded.tokenizer, data.items, loaded.settings)
    if data.codes is None:
        blocks = _catalogue_score_blocks(loaded, prompts, data, config, f"ranking all with {label}")
        return ModelRanking(data.ranking(blocks), None, prompts.cut_items)
    table = data.table
    candidates: list[list[str]] = table["candidates"].to_pylist()
    histories = table["history"].to_pylist()
    prepared = []
    for example_id, history, listed in zip(
        data.rows.example_ids, histories, candidates, strict=True
    ):
        # Scored are the candidates, and prompts that list items list the same.
        prepared.append(prompts.row(example_id, history, listed, listed))
    answers = None
    budget = config.token_budget
    with loaded.execution_context(), torch.no_grad():
        scores = _listed_scores(loaded, prompts, prepared, candidates, config, label)
        if config.generate:
            texts = _generate(loaded, prompts, prepared, budget, label)
            titles = _candidate_titles(loaded, candidates, data.items)
            answers = _matched_answers(texts, prompts, candidates, titles)
    ranking = rank_listed(scores, data.rows.target_index, data.codes)
    return ModelRanking(ranking, answers, prompts.cut_items)


def _listed_scores(
    loaded: LoadedModel,
    prompts: Prompts,
    prepared: Sequence[Row],
    candidates: Sequence[Sequence[str]],
    config: EvaluationConfig,
    label: str,
) -> FloatArray:
    """Score the candidates of each row. Shape (N, A)."""
    logps = score_rows(
        loaded.model, prepared, config.token_budget, config.backend, f"scoring with {label}"
    )
    scores: FloatArray = logps.numpy().astype(np.float64)
    if config.score == "mean":
        num_tokens = []
        for row in prepared:
            num_tokens.append([len(answer) for answer in row.answer_ids])
        return scores / np.array(num_tokens, dtype=np.int64)
    if config.score == "pmi":
        prior = _prior_logps(loaded, prompts, candidates, config)
        priors = []
        for listed in candidates:
            priors.append([prior[item] for item in listed])
        return scores - np.array(priors, dtype=np.float64)
    return scores


def _catalogue_score_blocks(
    loaded: LoadedModel,
    prompts: Prompts,
    data: EvaluationData,
    config: EvaluationConfig,
    label: str,
) -> Iterator[FloatArray]:
    """Score every item in blocks of rows, (n, I) each."""
    item_ids = data.items["item_id"].tolist()
    answers = prompts.answers(item_ids)
    rows = data.rows
    lengths = np.array([len(answer) for answer in answers])
    longest = int(lengths.max())
    histories = data.table["history"].to_pylist()
    prompt_ids = []
    for example_id, history in zip(rows.example_ids, histories, strict=True):
        # All answers must fit behind one prompt, so that their scores can be compared.
        prompt = prompts.prompt(example_id, history, longest)
        prompt_ids.append(prompt)
    # Only a sum of log-probabilities tells before its end that it can't reach the target's.
    targets = None
    if config.score == "sum":
        targets = rows.target_index.tolist()
    budget = config.token_budget
    with loaded.execution_context(), torch.no_grad(), Progress(label, len(prompt_ids)) as progress:
        prior: FloatArray | float = 0.0
        if config.score == "pmi":
            alone = prompts.without_history(item_ids[:1]).prompt_ids
            logps = next(
                catalogue_scores(
                    loaded.model, [alone], answers, token_budget=budget, backend=config.backend
                )
            )
            prior = logps.astype(np.float64)
        for logps in catalogue_scores(
            loaded.model,
            prompt_ids,
            answers,
            targets,
            token_budget=budget,
            backend=config.backend,
        ):
            scores = logps.astype(np.float64) - prior
            if config.score == "mean":
                scores = scores / lengths
            yield scores
            progress.advance(len(logps))


def _prior_logps(
    loaded: LoadedModel,
    prompts: Prompts,
    candidates: Sequence[Sequence[str]],
    config: EvaluationConfig,
) -> Mapping[str, float]:
    """Each item's log-probability after a prompt without a history, computed once."""
    unique_items: set[str] = set()
    for listed in candidates:
        unique_items.update(listed)
    items = sorted(unique_items)
    num_items = len(items)
    chunk_size = min(_ITEMS_AT_ONCE, num_items)
    # Rows of a call have equally many answers: the last one is filled up with items again.
    num_missing = -num_items % chunk_size
    items += items[:num_missing]
    prepared = []
    for start in range(0, len(items), chunk_size):
        end = start + chunk_size
        prepared.append(prompts.without_history(items[start:end]))
    logps = score_rows(
        loaded.model,
        prepared,
        config.token_budget,
        config.backend,
        "scoring titles alone",
    )
    flat_logps = logps.flatten().tolist()
    return dict(zip(items, flat_logps, strict=True))


def _generate(
    loaded: LoadedModel, prompts: Prompts, rows: Sequence[Row], token_budget: int, label: str
) -> list[str]:
    """Generate the text of each row's answer, without the tokens that end it."""
    answers = generate_answers(
        loaded.model,
        prompts.end_ids,
        rows,
        token_budget=token_budget,
        label=f"generating with {label}",
    )
    return [prompts.title_of(token_ids) for token_ids in answers]


def _matched_answers(
    texts: Sequence[str],
    prompts: Prompts,
    candidates: Sequence[Sequence[str]],
    titles: Sequence[Sequence[str]],
) -> GeneratedAnswers:
    """Find the candidate that each answer names."""
    items = {item for listed in candidates for item in listed}
    answer_texts = {item: prompts.answer_text(item) for item in items}
    named = []
    substring = []
    for text, listed, row_titles in zip(texts, candidates, titles, strict=True):
        full_answers = [answer_texts[item] for item in listed]
        named_index = named_candidate(text, full_answers)
        named.append(named_index)
        # The published rule looks for the bare title anywhere in the answer.
        substring_index = substring_candidate(text, row_titles)
        substring.append(substring_index)
    return GeneratedAnswers(
        texts=texts,
        named=np.array(named, dtype=np.int64),
        substring=np.array(substring, dtype=np.int64),
    )


def _candidate_titles(
    loaded: LoadedModel, candidates: Sequence[Sequence[str]], items: pd.DataFrame
) -> list[list[str]]:
    """The text that names each candidate: its title, or the name of its token."""
    names = dict(zip(items["item_id"], items["title"], strict=True))
    if loaded.settings.item_text == "token":
        names = {item: item_token(item) for item in items["item_id"]}
    titles = []
    for listed in candidates:
        titles.append([names[item] for item in listed])
    return titles
