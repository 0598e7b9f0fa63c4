"""The curves of a training run: each measure's title, unit, and what it means."""

from typing import NamedTuple

from dynamicpo.reports.charts.series import NO_RANGE, AxisRange
from dynamicpo.reports.training_log import BOUNDARY_GRADIENT, RELATIVE_BOUNDARY_GRADIENT


class TrainingCurve(NamedTuple):
    """A measure of the training log as pages show it.

    Attributes:
        key: Its name in the log.
        title: Title of the chart.
        unit: Unit of y.
        caption: Explanation for somebody who does not know the paper.
        y_range: Limits of y.
        reference: Name and value of a horizontal line to compare with.
    """

    key: str
    title: str
    unit: str
    caption: str
    y_range: AxisRange = NO_RANGE
    reference: tuple[str, float] | None = None


# A little more than 1, so that a line along the upper edge is not cut in half.
_SHARE_RANGE: AxisRange = (0, 1.02)
_FROM_ZERO: AxisRange = (0, None)

_LOSS = TrainingCurve(
    "loss",
    "Loss",
    "nats, mean over the batch",
    "What training lowers. A lower loss means that the rows shown are fitted better, not that "
    "ranking gets better.",
)
_RELATIVE_BOUNDARY_GRADIENT = TrainingCurve(
    RELATIVE_BOUNDARY_GRADIENT,
    "Boundary gradient, against the first steps",
    "1 = as strong as at the start",
    "How hard the loss still pulls on the rejected items that are easiest to confuse with the "
    "right one. Near 0 they are no longer learnt from, although the loss may go on falling.",
    _FROM_ZERO,
    ("start", 1.0),
)
_BOUNDARY_GRADIENT = TrainingCurve(
    BOUNDARY_GRADIENT,
    "Boundary gradient",
    "size, mean over boundary items",
    "The same pull in absolute terms: the size of the loss's gradient at their "
    "log-probability. Compare courses, not levels: the level falls with the number of "
    "rejected items.",
    _FROM_ZERO,
)
_REWARD_ACCURACIES = TrainingCurve(
    "rewards/accuracies",
    "Chosen item ahead of every rejected one",
    "share of rows",
    "Share of rows whose chosen item has gained more than every single rejected one since "
    "training began.",
    _SHARE_RANGE,
)
_REWARD_MARGINS = TrainingCurve(
    "rewards/margins",
    "Reward margin",
    "chosen − rejected",
    "By how much the chosen item has gained more than the rejected ones, on average: higher "
    "is further apart.",
    reference=("start", 0.0),
)
_CHOSEN_REWARDS = TrainingCurve(
    "rewards/chosen",
    "Reward of chosen items",
    "beta times nats",
    "How much likelier the chosen item has become since training began: above 0 likelier, "
    "below 0 less likely.",
    reference=("start", 0.0),
)
_REJECTED_REWARDS = TrainingCurve(
    "rewards/rejected",
    "Reward of rejected items",
    "beta times nats",
    "The same for the items that were not chosen, on average: this should fall below the "
    "reward of the chosen.",
    reference=("start", 0.0),
)
_CHOSEN_LOGPS = TrainingCurve(
    "logps/chosen",
    "Log-probability of the chosen item",
    "nats",
    "How likely the model finds the chosen item. If it falls, training pushes the chosen item "
    "down as well.",
)
_BOUNDARY_FRACTION = TrainingCurve(
    "boundary_fraction",
    "Boundary items",
    "share of rejected items",
    "Share of the rejected items that are easiest to confuse with the right one: those the "
    "model prefers to it or, where there is none, the group it finds likeliest.",
    _SHARE_RANGE,
)
_VIOLATION_SHARE = TrainingCurve(
    "violation_share",
    "Rows with a violation",
    "share of rows",
    "Share of rows in which the model finds at least one rejected item as likely as the "
    "chosen one, or likelier.",
    _SHARE_RANGE,
)
_BOUNDARY_BETA = TrainingCurve(
    "boundary_beta",
    "Beta of boundary items",
    "mean over them",
    "How firmly such items are held to where the model started. DynamicPO sets it for each of "
    "them, between .5 and 1.5 times the configured beta; elsewhere it is constant.",
)
_LEARNING_RATE = TrainingCurve(
    "learning_rate",
    "Learning rate",
    "per step",
    "The size of a step, as scheduled beforehand.",
    _FROM_ZERO,
)
_GRADIENT_NORM = TrainingCurve(
    "grad_norm",
    "Gradient norm",
    "before clipping",
    "The length of the gradient over all weights: spikes are unstable steps.",
    _FROM_ZERO,
)

# In the order in which a training page shows them.
TRAINING_CURVES = (
    _LOSS,
    _RELATIVE_BOUNDARY_GRADIENT,
    _BOUNDARY_GRADIENT,
    _REWARD_ACCURACIES,
    _REWARD_MARGINS,
    _CHOSEN_REWARDS,
    _REJECTED_REWARDS,
    _CHOSEN_LOGPS,
    _BOUNDARY_FRACTION,
    _VIOLATION_SHARE,
    _BOUNDARY_BETA,
    _LEARNING_RATE,
    _GRADIENT_NORM,
)
