"""The lists that the models of an evaluation would serve, each by its own candidate generator."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from dynamicpo.core.choices import WHOLE_CATALOGUE
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.evaluation.baselines.simple import Scorer
from dynamicpo.evaluation.beside import PROPOSER
from dynamicpo.evaluation.candidates import RankingModel, rank_with_model
from dynamicpo.evaluation.generators import (
    VersionGenerator,
    read_generator,
    read_version_generator,
)
from dynamicpo.evaluation.kept_rankings import ShardsOf, nothing_kept, rank_with_scorer
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.evaluation.rows import CATALOGUE, EvaluationData
from dynamicpo.evaluation.served import ServedRanks, propose, served_ranks

# By the name of a model or baseline, and by what it ranks.
RankingsByName: TypeAlias = dict[tuple[str, str], Ranking]


class ServedLists:
    """Measures what is served: a published version's by its own generator, else by a new one."""

    def __init__(
        self,
        data: EvaluationData,
        scorers: Mapping[str, Scorer],
        rankings: Mapping[tuple[str, str], Ranking],
        config: EvaluationConfig,
        shards: ShardsOf = nothing_kept,
    ) -> None:
        """Take the rows and the generators.

        Args:
            data: Rows that rank every item.
            scorers: Baselines, trained on the rows that the models were trained on.
            rankings: Of what is ranked beside the lists, where they are made already.
            config: Which of the baselines proposes, and how many items.
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
        data = self._data
        ranking = self._rankings.get((name, CATALOGUE))
        if ranking is None:
            scorer = self._scorers[name]
            ranking = rank_with_scorer(scorer, data, self._shards(name, CATALOGUE))
        return served_ranks(ranking, data)

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
        data = self._proposals(generator)
        # Beside the lists the same may be ranked already; a version's own proposals are not.
        is_beside = data is self._data or (
            data is self._own_proposals and generator.kind == PROPOSER
        )
        ranking = self._rankings.get((name, data.kind)) if is_beside else None
        if ranking is None:
            labelled = model._replace(label=f"{name}, as it serves")
            ranking = rank_with_model(labelled, data).ranking
        return served_ranks(ranking, data)

    def _generator_of(self, version: Path | None) -> VersionGenerator:
        own = None if version is None else read_version_generator(version)
        # Of a version that was never measured: as a new model would serve.
        return own or self._chosen

    def _proposals(self, generator: VersionGenerator) -> EvaluationData:
        """The rows that rank what a generator proposes."""
        if generator.kind == WHOLE_CATALOGUE:
            return self._data
        if generator.version is not None:
            scorer = read_generator(generator.version, generator.kind, self._data.items)
            return propose(scorer, self._data, generator.num_proposals, generator.kind)
        if self._own_proposals is None:
            scorer = self._scorers[generator.kind]
            self._own_proposals = propose(
                scorer, self._data, generator.num_proposals, generator.kind
            )
        return self._own_proposals
