"""Kinds of cells: an objective, a variant of it and a number of negatives; and their names."""

from collections.abc import Iterable
from typing import NamedTuple


class Kind(NamedTuple):
    """The settings that the cells of a study differ in, seeds aside.

    Attributes:
        loss: The objective, or "sft" for the model that all start from.
        variant: One of `choices.VARIANTS`.
        num_negatives: K; 0 for SFT.
    """

    loss: str
    variant: str
    num_negatives: int


# All cells start from it, so that it is what no preference training gives.
SFT = Kind("sft", "none", 0)
PLAIN = "none"
TREATMENT = "full"
ABLATIONS_OF_TREATMENT = ("selection", "beta")

# In the order in which reports show them.
LOSS_LABELS = {
    "dpo": "DPO",
    "dmpo": "DMPO",
    "sdpo": "S-DPO",
    "mppo": "MPPO",
    "simpo": "SimPO",
    "sft": "SFT",
}
VARIANT_LABELS = {
    "none": "plain",
    "full": "DynamicPO",
    "selection": "boundary selection alone",
    "beta": "dynamic beta alone",
}

# In names of cells and of metrics, where "none" and "full" would not say of what.
VARIANT_NAMES = {
    "none": "plain",
    "full": "dynamicpo",
    "selection": "selection",
    "beta": "beta",
}

# With one negative both are DPO. The one negative is the boundary, so that selection changes
# nothing, and what the dynamic beta does is all that DynamicPO does.
_EQUAL_AT_ONE = ("dmpo", "sdpo")
_VARIANTS_AT_ONE = {
    "none": "none",
    "selection": "none",
    "beta": "full",
    "full": "full",
}


def kind_at(loss: str, variant: str, num_negatives: int) -> Kind:
    """The kind that stands for an objective and a variant at a number of negatives."""
    if num_negatives > 1:
        return Kind(loss, variant, num_negatives)
    loss_at_one = "dpo" if loss in _EQUAL_AT_ONE else loss
    return Kind(loss_at_one, _VARIANTS_AT_ONE[variant], 1)


def numbers_of_negatives(kinds: Iterable[Kind]) -> list[int]:
    """All numbers of negatives of some kinds, ascending; SFT has none."""
    return sorted({kind.num_negatives for kind in kinds if kind != SFT})


def kind_order(kind: Kind) -> tuple[int, int, int]:
    """Sort key of kinds as reports show them: objective, variant, number of negatives."""
    losses = list(LOSS_LABELS)
    variants = list(VARIANT_LABELS)
    return losses.index(kind.loss), variants.index(kind.variant), kind.num_negatives


def kind_name(kind: Kind) -> str:
    """`DMPO, K = 19`, `S-DPO with DynamicPO, K = 5`; `SFT`."""
    name = objective_name(kind)
    return f"{name}, K = {kind.num_negatives}" if kind.num_negatives else name


def objective_name(kind: Kind) -> str:
    """`DMPO`, `S-DPO with DynamicPO`, `SFT`."""
    loss = LOSS_LABELS[kind.loss]
    if kind.variant == PLAIN:
        return loss
    return f"{loss} with {VARIANT_LABELS[kind.variant]}"
