"""The lists that the models of an evaluation would serve, each by its own candidate generator."""

from collections.abc import Mapping
from pathlib import Path

from dynamicpo.core.choices import WHOLE_CATALOGUE
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.evaluation.baselines.simple import Scorer
from dynamicpo.evaluation.candidates import RankingModel, listed_scores, rank_with_model
from dynamicpo.evaluation.generators import (
    VersionGenerator,
    read_generator,
    read_version_generator,
)
from dynamicpo.evaluation.kept_rankings import (
    CATALOGUE_WORK,
    ShardsOf,
    nothing_kept,
    rank_with_scorer,
)
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.evaluation.rows import EvaluationData
from dynamicpo.evaluation.served import ServedRanks, catalogue_ranks, propose, proposed_ranks


class ServedLists:
    """Measures what is served: a published version's by its own generator, else by a new one."""

    def __init__(
        self,
        data: EvaluationData,
        scorers: Mapping[str, Scorer],
        rankings: Mapping[str, Ranking],
        config: EvaluationConfig,
        shards: ShardsOf = nothing_kept,
    ) -> None:
        """Take the rows and the generators.

        Args:
            data: Rows that rank every item.
            scorers: Baselines, trained on the rows that the models were trained on.
            rankings: Of every item, by the name of baseline or model, where they are made already.
            config: Which of them proposes, and how many items.
            shards: What is kept of a baseline's work.
        """
        self._shards = shards
        self._data = data
        self._scorers = scorers
        self._rankings = rankings
        self._chosen = VersionGenerator(config.generator, config.proposals)
        self._own_proposals: EvaluationData | None = None

    def of_baseline(self, name: str) -> ServedRanks:
        """The places by a baseline that proposes items and ranks them itself."""
        ranking = self._rankings.get(name)
        if ranking is None:
            data = self._data
            scorer = self._scorers[name]
            ranking = rank_with_scorer(scorer, data, self._shards(name, CATALOGUE_WORK))
        return catalogue_ranks(ranking)

    def of_model(
        self, model: RankingModel, version: Path | None, kinds: dict[str, str]
    ) -> ServedRanks:
        """The places by a model.

        Args:
            model: The model.
            version: The version that it is of, whose generator then proposes.
            kinds: Takes what has proposed, by the model's name.

        Raises:
            DataError: The version's generator can't be read.
        """
        generator = self._generator_of(version)
        name = model.label
        kinds[name] = generator.kind
        labelled = model._replace(label=f"{name}, as it serves")
        if generator.kind == WHOLE_CATALOGUE:
            ranking = self._rankings.get(name) or rank_with_model(labelled, self._data).ranking
            return catalogue_ranks(ranking)
        proposals = self._proposals(generator)
        scores = listed_scores(labelled, proposals)
        return proposed_ranks(scores, proposals)

    def _generator_of(self, version: Path | None) -> VersionGenerator:
        own = None if version is None else read_version_generator(version)
        # Of a version that was never measured: as a new model would serve.
        return own or self._chosen

    def _proposals(self, generator: VersionGenerator) -> EvaluationData:
        if generator.version is not None:
            scorer = read_generator(generator.version, generator.kind, self._data.items)
            return propose(scorer, self._data, generator.num_proposals)
        if self._own_proposals is None:
            scorer = self._scorers[generator.kind]
            self._own_proposals = propose(scorer, self._data, generator.num_proposals)
        return self._own_proposals
