"""A model's view of the rows: the score of each candidate, and the answer it generates."""

import logging
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypedDict

import numpy as np
import pandas as pd
import torch

from dynamicpo.core.arrays import FloatArray, IntArray
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.progress import Progress
from dynamicpo.core.records.rows import Row
from dynamicpo.core.row_numbers import numbered_blocks
from dynamicpo.evaluation.kept_rankings import ShardsOf, nothing_kept, rank_blocks
from dynamicpo.evaluation.known_items import EncodedCatalogue, encode_catalogue, known_rows
from dynamicpo.evaluation.rankings import Ranking, rank_listed
from dynamicpo.evaluation.results import GeneratedAnswers
from dynamicpo.evaluation.rows import LISTED, EvaluationData
from dynamicpo.metrics.generated_answers import named_candidate, substring_candidate
from dynamicpo.models.checkpoints import LoadedModel
from dynamicpo.prompts.encoding import Prompts, item_token
from dynamicpo.scoring.catalogue_scoring import catalogue_scores
from dynamicpo.scoring.generation import generate_answers
from dynamicpo.scoring.shards import LongWork
from dynamicpo.scoring.shared_prefix import score_rows

log = logging.getLogger(__name__)

# The rate is known by then: the first blocks may be slower.
_BLOCKS_TO_ESTIMATE = 10
_LONG_SECONDS = 600
_ITEMS_AT_ONCE = 32  # answers to one prompt without a history
_NO_ANSWER = "\0"
_ANSWERS_WORK = "answers"


class RankingModel(NamedTuple):
    """A model that ranks.

    Attributes:
        loaded: The model.
        config: Score, candidates, generation.
        label: Its name in progress.
        is_version: It was published, perhaps before some items were there: those it ranks last. To
            any other model all items must be known.
        shards: What is kept of its work, by its label.
    """

    loaded: LoadedModel
    config: EvaluationConfig
    label: str
    is_version: bool = False
    shards: ShardsOf = nothing_kept


class ModelRanking(NamedTuple):
    """A model's ranking of the rows, its answers, and how many history items were cut."""

    ranking: Ranking
    answers: GeneratedAnswers | None
    cut_items: int


def rank_with_model(model: RankingModel, data: EvaluationData) -> ModelRanking:
    """Rank each row's candidates, or every item, with a model; generate if the settings say so."""
    if data.codes is None:
        prompts = _prompts(model, data)
        shards = model.shards(model.label, data.kind)
        blocks_without = partial(_catalogue_score_blocks, model, prompts, data)
        ranking = rank_blocks(data, blocks_without, shards)
        return ModelRanking(ranking, None, prompts.cut_items)
    listed = _ListedRows(model, data)
    with model.loaded.execution_context(), torch.no_grad():
        scores = listed.scores()
        # An answer is looked for in a row's own list.
        generates = model.config.generate and data.kind == LISTED
        answers = listed.generated_answers() if generates else None
    ranking = rank_listed(scores, data.rows.target_index, data.codes)
    return ModelRanking(ranking, answers, listed.prompts.cut_items)


def all_item_scores(model: RankingModel, data: EvaluationData) -> FloatArray:
    """Score all that each row ranks, however unlikely it is: others get -inf. Shape (N, I)."""
    if data.codes is not None:
        return _scattered_scores(model, data, data.codes)
    prompts = _prompts(model, data)
    blocks = _catalogue_score_blocks(model, prompts, data, are_all_scored=True)
    return np.concatenate([*blocks])


def _scattered_scores(model: RankingModel, data: EvaluationData, codes: IntArray) -> FloatArray:
    """Scores of the candidates of each row, in the places of their items. Shape (N, I)."""
    listed = _ListedRows(model, data)
    with model.loaded.execution_context(), torch.no_grad():
        scores = listed.scores()
    everywhere = np.full((len(codes), len(data.items)), -np.inf)
    np.put_along_axis(everywhere, codes, scores, axis=1)
    return everywhere


def _prompts(model: RankingModel, data: EvaluationData) -> Prompts:
    return Prompts(model.loaded.tokenizer, data.items, model.loaded.settings)


class _ListedRows:
    """The rows of an evaluation that list candidates, as a model reads them.

    Attributes:
        prompts: Of the model.
    """

    def __init__(self, model: RankingModel, data: EvaluationData) -> None:
        """Encode the rows."""
        self.prompts = _prompts(model, data)
        self._model = model
        self._data = data
        self._known = known_rows(data, self.prompts if model.is_version else None)
        self._encoded = []
        for row in self._known.rows:
            # Scored are the candidates, and prompts that list items list the same.
            self._encoded.append(
                self.prompts.row(row.example_id, row.history, row.answers, row.listed)
            )

    def scores(self) -> FloatArray:
        """Score the candidates of each row: -inf where the model does not know one. (N, A)."""
        if not self._encoded:
            return self._known.all_scores(None)
        model = self._model
        config = model.config
        shards = model.shards(model.label, self._data.kind)
        logps = score_rows(
            model.loaded.model,
            self._encoded,
            config.token_budget,
            config.backend,
            f"scoring with {model.label}",
            shards,
        )
        if shards is not None:
            shards.finish()
        scores: FloatArray = logps.numpy().astype(np.float64)
        if config.score == "mean":
            scores = scores / self._num_tokens()
        elif config.score == "pmi":
            scores = scores - self._priors()
        return self._known.all_scores(scores)

    def generated_answers(self) -> GeneratedAnswers:
        """Generate an answer to each row: an empty one where the model knows nothing of it."""
        model = self._model
        texts = _generate(model, self.prompts, self._encoded)
        texts = self._known.all_texts(texts)
        candidates = self._data.table["candidates"].to_pylist()
        titles = _candidate_titles(model.loaded, candidates, self._data.items)
        return _matched_answers(texts, self.prompts, candidates, titles)

    def _num_tokens(self) -> IntArray:
        num_tokens = []
        for row in self._encoded:
            num_tokens.append([len(answer) for answer in row.answer_ids])
        return np.array(num_tokens, dtype=np.int64)

    def _priors(self) -> FloatArray:
        model = self._model
        answers = [row.answers for row in self._known.rows]
        prior = _prior_logps(model.loaded, self.prompts, answers, model.config)
        priors = []
        for listed in answers:
            priors.append([prior[item] for item in listed])
        return np.array(priors, dtype=np.float64)


def _catalogue_score_blocks(
    model: RankingModel,
    prompts: Prompts,
    data: EvaluationData,
    left_out: Container[int] = (),
    are_all_scored: bool = False,
) -> Iterator[FloatArray]:
    """Score every item in blocks of rows, (n, I) each: -inf where the model does not know one.

    Items behind the target may get -inf, unless all are to be scored. Blocks that begin with some
    rows are left out.
    """
    encoded = encode_catalogue(data, prompts, is_version=model.is_version)
    known = encoded.known
    targets = None
    # Only a sum of log-probabilities tells before its end that it can't reach the target's.
    if model.config.score == "sum" and not are_all_scored:
        targets = known.targets
    blocks = _answer_scores(model, prompts, encoded, targets, left_out)
    with model.loaded.execution_context(), torch.no_grad():
        for rows, scores in numbered_blocks(blocks, left_out):
            yield known.all_scores(scores, rows)


def _answer_scores(
    model: RankingModel,
    prompts: Prompts,
    encoded: EncodedCatalogue,
    targets: Sequence[int | None] | None,
    left_out: Container[int],
) -> Iterator[FloatArray]:
    """Score the known items after each prompt, in blocks of rows, (n, A) each, but for some."""
    config = model.config
    network = model.loaded.model
    known, answers, prompt_ids = encoded
    lengths = np.array([len(answer) for answer in answers])
    label = f"ranking all with {model.label}"
    settings: _ScoringSettings = {"token_budget": config.token_budget, "backend": config.backend}
    num_known = sum(number in left_out for number in range(len(prompt_ids)))
    prior: FloatArray | float = 0.0
    if config.score == "pmi":
        alone = prompts.without_history(known.item_ids[:1]).prompt_ids
        (logps,) = catalogue_scores(network, [alone], answers, **settings)
        prior = logps.astype(np.float64)
    with Progress(label, len(prompt_ids)) as progress:
        progress.skip(num_known)
        blocks = catalogue_scores(
            network, prompt_ids, answers, targets, **settings, left_out=left_out
        )
        for number, logps in enumerate(blocks, 1):
            scores = logps.astype(np.float64) - prior
            if config.score == "mean":
                scores = scores / lengths
            yield scores
            progress.advance(len(logps))
            if number == _BLOCKS_TO_ESTIMATE:
                _warn_of_long_ranking(label, progress.seconds_left)


def _warn_of_long_ranking(label: str, seconds_left: float) -> None:
    if seconds_left < _LONG_SECONDS:
        return
    log.warning(
        "%s will take %.0f minutes more. `--candidates listed --generator sasrec` ranks what a "
        "candidate generator proposes instead, and measures served_ndcg_at_10.",
        label,
        seconds_left / 60,
    )


class _ScoringSettings(TypedDict):
    token_budget: int
    backend: str


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


def _generate(model: RankingModel, prompts: Prompts, rows: Sequence[Row]) -> list[str]:
    """Generate the text of each row's answer, without the tokens that end it."""
    if not rows:
        return []
    shards = model.shards(model.label, _ANSWERS_WORK)
    answers = generate_answers(
        model.loaded.model,
        prompts.end_ids,
        rows,
        token_budget=model.config.token_budget,
        work=LongWork(f"generating with {model.label}", shards),
    )
    if shards is not None:
        shards.finish()
    return [prompts.title_of(token_ids) for token_ids in answers]


def _matched_answers(
    texts: Sequence[str],
    prompts: Prompts,
    candidates: Sequence[Sequence[str]],
    titles: Sequence[Sequence[str]],
) -> GeneratedAnswers:
    """Find the candidate that each answer names."""
    items = {item for listed in candidates for item in listed}
    # No answer names what a model has no words for.
    answer_texts = dict.fromkeys(items, _NO_ANSWER)
    answer_texts |= {item: prompts.answer_text(item) for item in items & prompts.item_ids}
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
