"""The cells of the collapse study: every objective, variant, number of negatives and seed, each trained once."""

from typing import Any

from dynamicpo.core.config import GridConfig

# With one negative both are DPO, and either half of DynamicPO leaves what the whole or none of it does.
EQUAL_AT_ONE = ("dmpo", "sdpo")
VARIANTS_AT_ONE = {
    "plain": "plain",
    "selection": "plain",
    "beta": "dynamicpo",
    "dynamicpo": "dynamicpo",
}


def plan_cells(config: GridConfig) -> list[dict[str, Any]]:
    """What to train: cells that coincide at one negative are listed once.

    Returns:
        For each cell its name, such as `dynamicpo-dmpo-k19-s0`, and the settings of preference training that
        it stands for: `loss`, `dynamic`, `ablation`, `num_negatives`, `seed`. Seed by seed, so that a study that is
        stopped early has every kind of cell.
    """
    counts = sorted(int(entry) for entry in config.listed("num_negatives"))
    kinds = dict.fromkeys(
        kind_at(loss, variant, count)
        for count in counts
        for loss in config.listed("objectives")
        for variant in config.listed("variants")
    )
    return [_cell(*kind, seed=int(seed)) for seed in config.listed("seeds") for kind in kinds]


def kind_at(loss: str, variant: str, num_negatives: int) -> tuple[str, str, int]:
    """The cell that stands for an objective and a variant at a number of negatives: loss, variant, number."""
    if num_negatives > 1:
        return loss, variant, num_negatives
    return "dpo" if loss in EQUAL_AT_ONE else loss, VARIANTS_AT_ONE[variant], 1


def variant_of(dynamic: bool, ablation: str) -> str:
    """The variant that settings of preference training stand for."""
    if not dynamic:
        return "plain"
    return "dynamicpo" if ablation == "none" else ablation


def _cell(loss: str, variant: str, num_negatives: int, seed: int) -> dict[str, Any]:
    front = "" if variant == "plain" else f"{variant}-"
    return {
        "cell": f"{front}{loss}-k{num_negatives}-s{seed}",
        "loss": loss,
        "dynamic": variant != "plain",
        "ablation": variant if variant in ("selection", "beta") else "none",
        "num_negatives": num_negatives,
        "seed": seed,
    }
