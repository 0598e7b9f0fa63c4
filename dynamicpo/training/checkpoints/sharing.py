"""The state that the main process has read, in all processes of a training."""

from typing import TypedDict, cast

from dynamicpo.core.json_values import JsonValue
from dynamicpo.distributed.collectives import from_main, tensors_from_main
from dynamicpo.distributed.group import is_main, world_size
from dynamicpo.training.checkpoints.state import TENSORS, Look, TrainingState


class _Numbers(TypedDict):
    """A state without its tensors."""

    step: int
    num_steps: int
    ended: bool
    steps: list[dict[str, float | int]]
    look: Look | None
    max_tokens: int | None


def state_from_main(state: TrainingState | None) -> TrainingState | None:
    """A state, or none, of the main process; those of others are not looked at.

    Random states are the main process's: the noise of several is drawn anew for each step.
    """
    if world_size() == 1 or not from_main(state is not None):
        return state
    sent = state or TrainingState(0, 0, ended=False, weights={}, optimizer={}, random={}, steps=[])
    own_numbers = {name: getattr(sent, name) for name in _Numbers.__annotations__}
    numbers = cast(_Numbers, from_main(cast(JsonValue, own_numbers)))
    tensors = {name: tensors_from_main(getattr(sent, name)) for name in TENSORS}
    return state if is_main() else TrainingState(**numbers, **tensors)
