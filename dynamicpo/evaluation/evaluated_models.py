"""The results of an evaluation's baselines and models, each written as soon as it is there."""

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from dynamicpo.core.arrays import FloatArray
from dynamicpo.core.choices import NO_GENERATOR
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.core.records.version_folders import enclosing_version, model_of
from dynamicpo.evaluation.baselines.sasrec import fit_sasrec
from dynamicpo.evaluation.baselines.simple import SIMPLE_BASELINES, Scorer, make_baseline
from dynamicpo.evaluation.candidates import (
    ModelRanking,
    RankingModel,
    all_item_scores,
    rank_with_model,
)
from dynamicpo.evaluation.costs import CostMeter
from dynamicpo.evaluation.generators import (
    TRAINED_GENERATORS,
    read_generator,
    write_generators,
)
from dynamicpo.evaluation.kept_rankings import rank_with_scorer
from dynamicpo.evaluation.rankings import Ranking
from dynamicpo.evaluation.result_files import write_result
from dynamicpo.evaluation.results import (
    GeneratedAnswers,
    ModelResult,
    RankedItems,
    make_result,
    means_with_intervals,
)
from dynamicpo.evaluation.rows import CATALOGUE, EvaluationData, SplitTables
from dynamicpo.evaluation.served import ServedRanks, served_values, write_served
from dynamicpo.evaluation.served_models import RankingsByName, ServedLists
from dynamicpo.evaluation.top_items import UserSample, write_top_items
from dynamicpo.models.backbones import permissions_of
from dynamicpo.models.checkpoints import load_base_of, load_model
from dynamicpo.models.execution import release_memory
from dynamicpo.scoring.shards import Shards
from dynamicpo.training.checkpoints.saving import Checkpoints


class EvaluatedModels:
    """Results of baselines and models.

    Attributes:
        results: By name.
        beside_results: Results of what is ranked beside the lists, by name.
        cut_items: The history items that each model's prompts had no room for.
        generators: What proposes the items that each model ranks, where that was measured.
        costs: What each ranking cost.
    """

    def __init__(
        self,
        data: EvaluationData,
        beside: EvaluationData | None,
        everything: EvaluationData | None,
        config: EvaluationConfig,
        folder: Path,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        """Take the rows.

        Args:
            data: To rank.
            beside: To rank beside the listed candidates, where that was asked for.
            everything: That rank every item, where what is served is measured or all are ranked.
            config: Of the evaluation.
            folder: To write results into.
            checkpoints: What an earlier attempt has finished, and this one finishes; None: nothing
                is kept.
        """
        self.results: dict[str, ModelResult] = {}
        self.beside_results: dict[str, ModelResult] = {}
        self.cut_items: dict[str, int] = {}
        self.generators: dict[str, str] = {}
        self.costs = CostMeter()
        self._data = data
        self._beside = beside
        self._config = config
        self._folder = folder
        self._checkpoints = checkpoints
        self._shards_of_works: dict[tuple[str, str], Shards] = {}
        shown = data if data.kind == CATALOGUE else beside
        self._sample = None if shown is None else UserSample(shown)
        self._everything = everything
        self._served: ServedLists | None = None
        self._rankings: RankingsByName = {}
        self._served_ranks: dict[str, ServedRanks] = {}
        items = data.items
        self._items = RankedItems(
            item_ids=items["item_id"].tolist(),
            popularity=items["popularity"].to_numpy(np.int64),
        )

    def rank_baselines(self, tables: SplitTables, trained: Path | None = None) -> None:
        """Rank with the baselines that learn from the training rows, and keep those that learn.

        Args:
            tables: The splits.
            trained: An evaluation whose SASRec is taken; None: it is trained here.
        """
        data = self._data
        scorers = self._make_scorers(tables, trained)
        write_generators(self._folder, scorers)
        if self._config.generator != NO_GENERATOR:
            assert self._everything is not None
            self._served = ServedLists(
                self._everything, scorers, self._rankings, self._config, self._shards
            )
        for name, scorer in scorers.items():
            ranking = self._rank_with_scorer(name, scorer, data)
            if self._beside is not None:
                # Scored again: the scores of every item for all rows are too many to keep.
                beside = self._rank_with_scorer(name, scorer, self._beside)
                self._add_beside(name, beside)
            if self._served is not None and name in TRAINED_GENERATORS:
                self._served_ranks[name] = self._served.of_baseline(name)
            self._add(name, ranking)
            if self._sample is not None:
                self._add_top_items(name, self._sample, scorer(self._sample.data.table))

    def rank_models(self, models: Mapping[str, Path]) -> None:
        """Rank with the models, and with the base of the first where the settings say so."""
        permissions = permissions_of(self._config)
        if self._config.base:
            first, *_ = models.values()
            loaded = load_base_of(model_of(first), permissions)
            is_version = enclosing_version(first) is not None
            model = RankingModel(loaded, self._config, "base", is_version, self._shards)
            ranked = self._rank(model)
            self._add("base", ranked.ranking, ranked.answers)
            del loaded, model
            release_memory()
        for name, path in models.items():
            folder = model_of(path)
            version = enclosing_version(path)
            loaded = load_model(folder, permissions)
            model = RankingModel(loaded, self._config, name, version is not None, self._shards)
            ranked = self._rank(model)
            self.cut_items[name] = ranked.cut_items
            if self._served is not None:
                self._served_ranks[name] = self._served.of_model(model, version, self.generators)
            # Models are large: one at a time, also in the cache of the GPU's memory.
            del loaded, model
            release_memory()
            self._add(name, ranked.ranking, ranked.answers)
            self._copy_training_log(name, folder)

    def _make_scorers(self, tables: SplitTables, trained: Path | None) -> dict[str, Scorer]:
        data = self._data
        config = self._config
        items = data.items
        train = tables["train"]
        scorers: dict[str, Scorer] = {}
        # All are made before any ranks: an unknown item is an error at once.
        for name in SIMPLE_BASELINES:
            scorers[name] = make_baseline(name, items, train, data.has_repeats)
        if config.sasrec and trained is not None:
            scorers["sasrec"] = read_generator(trained, "sasrec", items)
        elif config.sasrec:
            validation = tables["validation"]
            scorers["sasrec"] = fit_sasrec(
                items, train, config.seed, validation=validation, checkpoints=self._checkpoints
            )
        return scorers

    def _copy_training_log(self, name: str, model: Path) -> None:
        """Keep how a model was trained: comparisons show it, and read evaluations alone."""
        training_log = model / "steps.jsonl"
        if training_log.is_file():
            folder = self._folder / name
            copy = folder / "steps.jsonl"
            shutil.copyfile(training_log, copy)

    def _rank_with_scorer(self, name: str, scorer: Scorer, data: EvaluationData) -> Ranking:
        with self._measured(name, data):
            ranking = rank_with_scorer(scorer, data, self._shards(name, data.kind))
        self._rankings[name, data.kind] = ranking
        return ranking

    def _rank_with_model(self, model: RankingModel, data: EvaluationData) -> ModelRanking:
        with self._measured(model.label, data):
            ranked = rank_with_model(model, data)
        self._rankings[model.label, data.kind] = ranked.ranking
        return ranked

    def _measured(self, name: str, data: EvaluationData) -> AbstractContextManager[None]:
        shards = self._shards(name, data.kind)
        return self.costs.measured(name, data.kind, len(data.table), shards)

    def _shards(self, name: str, work: str) -> Shards | None:
        """Shards of a work, the same for all who ask."""
        if self._checkpoints is None:
            return None
        key = (name, work)
        if key not in self._shards_of_works:
            self._shards_of_works[key] = self._checkpoints.shards(name, work)
        return self._shards_of_works[key]

    def _rank(self, model: RankingModel) -> ModelRanking:
        ranked = self._rank_with_model(model, self._data)
        name = model.label
        if self._beside is not None:
            beside = self._rank_with_model(model, self._beside)
            self._add_beside(name, beside.ranking)
        if self._sample is not None:
            labelled = model._replace(label=f"{name}, for some users")
            scores = all_item_scores(labelled, self._sample.data)
            self._add_top_items(name, self._sample, scores)
        return ranked

    def _add(self, name: str, ranking: Ranking, answers: GeneratedAnswers | None = None) -> None:
        config = self._config
        result = make_result(
            self._data.rows,
            ranking,
            self._items,
            config.resamples,
            config.seed,
            answers,
        )
        if self._beside is not None:
            result = result.with_beside(self.beside_results[name], self._beside.kind)
        if name in self._served_ranks:
            result = self._with_served(name, result)
        write_result(self._folder / name, result, answers)
        self.results[name] = result

    def _with_served(self, name: str, result: ModelResult) -> ModelResult:
        """The result with the metrics of what would be served, whose places are written."""
        ranks = self._served_ranks[name]
        config = self._config
        rows = result.rows
        write_served(self._folder / name, rows, ranks)
        values = served_values(ranks)
        return result.with_metrics(
            means_with_intervals(values, rows.users, config.resamples, config.seed)
        )

    def _add_beside(self, name: str, ranking: Ranking) -> None:
        assert self._beside is not None
        config = self._config
        rows = self._beside.rows
        result = make_result(rows, ranking, self._items, config.resamples, config.seed)
        write_result(self._folder / name / self._beside.kind, result)
        self.beside_results[name] = result

    def _add_top_items(self, name: str, sample: UserSample, scores: FloatArray) -> None:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        write_top_items(folder, sample.top_items(scores))
