"""The settings of checkpoints: they say how much a kill costs, and change no result."""

from dataclasses import dataclass

from dynamicpo.core.config_fields import Checked, setting

# In the place of a prefix: no checkpoints.
NO_CHECKPOINTS = "none"
# Of a pipeline's tasks, which have no flags.
CHECKPOINT_PREFIX_VARIABLE = "DYNAMICPO_CHECKPOINT_PREFIX"
CHECKPOINT_MINUTES_VARIABLE = "DYNAMICPO_CHECKPOINT_MINUTES"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig(Checked):
    """Place, interval and number of the checkpoints of a training or an evaluation.

    They are no part of a stage's configuration: a result, and the cache of it, depend on none.
    """

    checkpoints: str = setting(
        "",
        "folder or prefix (gs://..., s3://..., minio://...) for checkpoints, from which work that "
        "was killed goes on; 'none' keeps none (empty: beside the output)",
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between two checkpoints", above=0, unit="minutes"
    )
    checkpoint_steps: int = setting(
        0,
        "steps (of SASRec: epochs) between two checkpoints, whatever the time (0: by minutes)",
        low=0,
        unit="steps",
    )
    keep_checkpoints: int = setting(
        2, "newest checkpoints that are kept until the training ends", low=1, unit="checkpoints"
    )


def checkpoint_values(config: CheckpointConfig | None) -> dict[str, object]:
    """Values of the flags of checkpoints; without a configuration, those that keep none."""
    return {"checkpoints": NO_CHECKPOINTS} if config is None else {**vars(config)}
