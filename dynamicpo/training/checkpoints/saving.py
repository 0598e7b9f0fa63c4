"""The checkpoints of a training: when one is due, what the trainer saves and goes on from."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dynamicpo.core.config_checkpoints import NO_CHECKPOINTS, CheckpointConfig
from dynamicpo.core.errors import DataError
from dynamicpo.core.records.manifest import Manifest, canonical
from dynamicpo.core.records.outputs import stage_output
from dynamicpo.core.records.partial_folders import check_name
from dynamicpo.core.storage.addresses import is_remote, join
from dynamicpo.distributed.collectives import largest
from dynamicpo.distributed.group import is_main
from dynamicpo.distributed.outputs import output_of_main
from dynamicpo.scoring.shards import WORTH_SECONDS, Shards
from dynamicpo.training.checkpoints.attempts import Attempt
from dynamicpo.training.checkpoints.sharing import state_from_main
from dynamicpo.training.checkpoints.state import (
    OtherTrainingError,
    TrainingState,
    check_fits,
    read_state,
    write_state,
)
from dynamicpo.training.checkpoints.stopping import StopRequest

log = logging.getLogger(__name__)


class Checkpoints(TrainerCallback):
    """The checkpoints of one training, whose main process reads and writes them.

    Args:
        attempt: Their place; None in other processes.
        config: When they are due.

    Attributes:
        stop: A request to save and stop after the current step.
        is_over: Whether the step that has ended was the training's last.
    """

    def __init__(self, attempt: Attempt | None, config: CheckpointConfig) -> None:
        """Start the clock."""
        self.stop = StopRequest()
        self.is_over = False
        self._attempt = attempt
        self._config = config
        self._last_seconds = time.monotonic()

    def newest(self, model: nn.Module, num_steps: int, unit: str = "step") -> TrainingState | None:
        """The newest state that is whole; None where there is none.

        Args:
            model: The model in training, whose weights it must fit.
            num_steps: Steps of the whole training.
            unit: The name of a step.

        Raises:
            DataError: It is of another training, or the place can't be read.
        """
        own = None
        if self._attempt is not None:
            own = _newest_whole(self._attempt, model, num_steps)
        state = state_from_main(own)
        if state is not None:
            log.info("going on from %s %d of %d", unit, state.step, num_steps)
        return state

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the interval from the first step on."""
        self._last_seconds = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Have the trainer save when it is time to, or when the training is to stop."""
        self.stop.number = largest(self.stop.number)
        # By the trainer itself at its last step, or by early stopping.
        self.is_over = control.should_training_stop or state.global_step >= state.max_steps
        if self.stop:
            control.should_training_stop = True
        # Each process gives its part of what is saved.
        is_due = bool(largest(int(self.is_due(state.global_step))))
        if self.stop or (is_due and not self.is_over):
            control.should_save = True
        return control

    def save(self, state: TrainingState, unit: str = "step") -> None:
        """Save a state; `unit` is the name of a step.

        Raises:
            DataError: Another attempt has taken over, or it can't be written.
        """
        if self._attempt is None:
            return
        started = time.monotonic()
        with self._attempt.new_checkpoint() as folder:
            write_state(folder, state, self._attempt.request, self._attempt.mark)
        self._last_seconds = time.monotonic()
        seconds = self._last_seconds - started
        log.info("checkpoint at %s %d, in %.1f s", unit, state.step, seconds)

    def shards(self, name: str, work: str) -> Shards:
        """The finished shards of a model's work, which stay until all is done."""
        seconds = 60 * self._config.checkpoint_minutes
        attempt = self._attempt
        if attempt is None:
            return Shards("", "", seconds)
        key = canonical({"cause": attempt.request.cause, "name": name, "work": work})
        place = join(join(attempt.shards, name), work)
        return Shards(place, key, seconds, attempt.check_owner)

    def is_due(self, step: int) -> bool:
        """Tell whether a checkpoint is due after a step."""
        if self._config.checkpoint_steps:
            return step % self._config.checkpoint_steps == 0
        minutes = self._waited() / 60
        return minutes >= self._config.checkpoint_minutes

    def is_worth_it(self) -> bool:
        """Tell whether the work since the last checkpoint takes longer than to read it."""
        return self._waited() >= WORTH_SECONDS

    def _waited(self) -> float:
        return time.monotonic() - self._last_seconds


def _newest_whole(attempt: Attempt, model: nn.Module, num_steps: int) -> TrainingState | None:
    for folder in attempt.whole_checkpoints():
        try:
            state = read_state(folder, attempt.request)
        except OtherTrainingError:
            raise
        # As it was written, but not by us.
        except (ValueError, KeyError, RecursionError, OSError, SafetensorError) as error:
            log.warning("%s: can't be read, the one before is taken (%s)", folder, error)
            continue
        check_fits(folder, state, model, num_steps)
        log.info("%s: found", folder)
        return state
    return None


@contextmanager
def resumable_output(
    output: Path, manifest: Manifest, config: CheckpointConfig | None
) -> Iterator[tuple[Path, Checkpoints | None]]:
    """An output's unfinished folder, as of `output_of_main`, and the training's checkpoints.

    They are deleted once the output is there, and kept for the next attempt after a failure.

    Args:
        output: The result's folder.
        manifest: Stage, configuration and inputs.
        config: Place and interval of checkpoints; None where none are wanted.
    """
    if config is None or config.checkpoints == NO_CHECKPOINTS:
        with output_of_main(output, manifest) as folder:
            yield folder, None
        return
    if not is_main():
        with output_of_main(output, manifest) as folder:
            yield folder, Checkpoints(None, config)
        return
    root = config.checkpoints or str(output.parent / f".{output.name}.checkpoints")
    _check_place(root, output)
    attempt = Attempt(root, manifest, config.keep_checkpoints)
    try:
        with stage_output(output, manifest) as folder:
            # Now that no other process can make this output: it would lose its place to this one.
            attempt.begin()
            yield folder, Checkpoints(attempt, config)
            # A later attempt makes the same output, and needs what the end would delete.
            attempt.check_owner()
    except BaseException:
        attempt.give_up()
        raise
    # The output is there, whatever becomes of them.
    try:
        attempt.end()
    except DataError as error:
        log.warning("%s: its checkpoints are not deleted (%s)", output, error)


def _check_place(root: str, output: Path) -> None:
    """Refuse a folder whose files would be taken for those of an output.

    Raises:
        DataError: It is one, lies in one, or is no name of a folder.
    """
    if is_remote(root):
        return
    place = Path(root)
    check_name(place)
    for folder in (place.absolute(), *place.absolute().parents):
        if folder == output.absolute() or (folder / "manifest.json").is_file():
            raise DataError(
                f"{root}: checkpoints must not lie in the output {folder}, which they are no part "
                "of. Name another place with --checkpoints."
            )
