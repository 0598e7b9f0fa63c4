"""Costs of recommending: measured while an evaluation ranks, kept in its `run.json`.

Times differ from run to run, so they stand apart from the results, whose bytes do not.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import write_json
from dynamicpo.core.records.shapes import as_shape
from dynamicpo.reports.pages.costs import Cost, CostsByModel
from dynamicpo.scoring.shards import Shards

_ROWS_OF_A_COST = 1000
# getrusage counts kilobytes, but bytes on a Mac.
_BYTES_OF_A_UNIT = 1 if sys.platform == "darwin" else 1024


class _RunFile(TypedDict, total=False):
    costs: CostsByModel


class CostMeter:
    """Costs of the models and baselines of an evaluation."""

    def __init__(self) -> None:
        """Begin without any."""
        self._costs: CostsByModel = {}

    @contextmanager
    def measured(
        self, name: str, candidates: str, num_rows: int, shards: Shards | None = None
    ) -> Iterator[None]:
        """Measure the cost of a model's ranking of some rows.

        Args:
            name: The model.
            candidates: `listed`, `catalogue` or `proposed`.
            num_rows: Number of rows.
            shards: What an earlier attempt has ranked of them.
        """
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        taken = shards.num_taken if shards is not None else 0
        # Those of an earlier attempt took no time of this one.
        ranked = num_rows - taken or num_rows
        per_row = seconds / max(ranked, 1)
        cost: Cost = {
            "seconds": per_row * _ROWS_OF_A_COST,
            "peak_megabytes": _peak_megabytes(),
        }
        if taken:
            cost["rows_from_shards"] = taken
        self._costs.setdefault(name, {})[candidates] = cost

    def write(self, folder: Path) -> None:
        """Write them where the stage's record of the run will stand."""
        write_json(folder / "run.json", _RunFile(costs=self._costs))


def read_costs(evaluation: Path) -> CostsByModel:
    """The costs of an evaluation's models; none where an earlier version made it.

    Raises:
        DataError: Its record of the run can't be read.
    """
    path = evaluation / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: must be a stage's record of its run, but can't be read ({error}). "
            "Evaluate again."
        ) from error
    return as_shape(path, content, _RunFile).get("costs", {})


def _peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * _BYTES_OF_A_UNIT / 1e6
