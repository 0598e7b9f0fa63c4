"""The grid of the collapse study: objectives, variants, numbers of negatives and seeds."""

from typing import TypedDict

from dynamicpo.core.config import GridConfig
from dynamicpo.study.kinds import PLAIN, VARIANT_NAMES, Kind, kind_at


class PlannedCell(TypedDict):
    """A cell to train: its name, and the settings of preference training that it stands for."""

    cell: str
    loss: str
    dynamic: str
    num_negatives: int
    seed: int


def plan_cells(config: GridConfig) -> list[PlannedCell]:
    """The cells to train: those that coincide at one negative are listed once.

    Returns:
        Cells with names such as `dynamicpo-dmpo-k19-s0`. They come seed by seed, so that a study
        that is stopped early has every kind of cell.
    """
    kinds = _kinds(config)
    cells = []
    for seed in config.listed("seeds"):
        for kind in kinds:
            cells.append(_cell(kind, int(seed)))
    return cells


def _kinds(config: GridConfig) -> list[Kind]:
    """The kinds of the grid, each once, by number of negatives."""
    numbers = sorted(int(entry) for entry in config.listed("num_negatives"))
    kinds = []
    for num_negatives in numbers:
        for loss in config.listed("objectives"):
            for variant in config.listed("variants"):
                kinds.append(kind_at(loss, variant, num_negatives))
    # A dict keeps the order in which its keys came first, where a set has none.
    return list(dict.fromkeys(kinds))


def _cell(kind: Kind, seed: int) -> PlannedCell:
    prefix = "" if kind.variant == PLAIN else f"{VARIANT_NAMES[kind.variant]}-"
    name = f"{prefix}{kind.loss}-k{kind.num_negatives}-s{seed}"
    return {
        "cell": name,
        "loss": kind.loss,
        "dynamic": kind.variant,
        "num_negatives": kind.num_negatives,
        "seed": seed,
    }
