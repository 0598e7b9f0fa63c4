"""The rows that are ranked beside the lists: of every item, or of proposals where that takes long.

Proposals come from co-occurrence, whatever serves: it is the same for all evaluations of the same
rows, so these can be compared, and takes no training.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.choices import WHOLE_CATALOGUE
from dynamicpo.core.config import EvaluationConfig
from dynamicpo.evaluation.baselines.simple import make_baseline
from dynamicpo.evaluation.catalogue_time import minutes_of_catalogue
from dynamicpo.evaluation.rows import EvaluationData, SplitTables
from dynamicpo.evaluation.served import propose

log = logging.getLogger(__name__)

PROPOSER = "cooccurrence"
_FEWEST = 10  # the cut-off of the metrics beside lists


class BesideRows(NamedTuple):
    """Rows that are ranked beside the lists.

    Attributes:
        data: The rows; None where nothing is ranked beside.
        warnings: Why they are not what was asked for.
    """

    data: EvaluationData | None
    warnings: list[str]


def rows_beside(
    models: Mapping[str, Path],
    catalogue: EvaluationData | None,
    tables: SplitTables,
    config: EvaluationConfig,
) -> BesideRows:
    """Every item, unless one of the models would take longer for them than the settings allow.

    Args:
        models: Folders by name.
        catalogue: Rows that rank every item; None where that was not asked for.
        tables: The splits.
        config: Of the evaluation.
    """
    exact = BesideRows(catalogue, [])
    has_limit = config.catalogue_minutes > 0 and config.generator != WHOLE_CATALOGUE
    if catalogue is None or not has_limit or len(catalogue.items) <= config.proposals:
        return exact
    minutes = minutes_of_catalogue(models, catalogue, config)
    if minutes <= config.catalogue_minutes:
        return exact
    scorer = make_baseline(PROPOSER, catalogue.items, tables["train"], catalogue.has_repeats)
    proposals = propose(scorer, catalogue, config.proposals, PROPOSER)
    length = proposals.protocol["num_candidates"]
    if length < _FEWEST:
        return exact
    text = (
        f"Ranking every item would take a model more than {config.catalogue_minutes} minutes "
        f"(about {minutes:,.0f}). What is named proposed ranks the first {length} items of "
        f"{PROPOSER} instead, and can't be compared with ranking all. --catalogue-minutes 0 ranks "
        "all, however long it takes."
    )
    log.warning("evaluation: %s", text)
    return BesideRows(proposals, [text])
