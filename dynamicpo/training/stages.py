"""Start and output of a training, which SFT and preference training have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dynamicpo.core.config import PreferenceConfig, SFTConfig
from dynamicpo.core.config_checkpoints import CheckpointConfig, checkpoint_values
from dynamicpo.core.records.manifest import Manifest
from dynamicpo.distributed.group import check_joined, is_main
from dynamicpo.distributed.workers import done_by_workers
from dynamicpo.models import checkpoints
from dynamicpo.models.checkpoints import PromptedModel
from dynamicpo.reports.pages.training import training_page
from dynamicpo.training.reporting import check_reporters
from dynamicpo.training.step_log import StepMetrics


class Training(NamedTuple):
    """A training that has ended, as its page shows it.

    Attributes:
        title: The page's title.
        steps: The lines of `steps.jsonl`.
        warnings: Sentences above its curves, besides those on the data.
    """

    title: str
    steps: Sequence[StepMetrics]
    warnings: Sequence[str] = ()


def trained_by_workers(
    stage: str,
    paths: Mapping[str, Path | None],
    config: SFTConfig | PreferenceConfig,
    checkpoints_config: CheckpointConfig | None,
) -> Manifest | None:
    """`done_by_workers` of a training; where this process trains, it can send its metrics on.

    Raises:
        ConfigError: Processes that do not know each other, or metrics that nobody takes.
        ToldError, RunFailedError: As of `done_by_workers`.
    """
    check_joined(stage)
    done = done_by_workers(stage, paths, config, checkpoint_values(checkpoints_config))
    if done is None:
        check_reporters(config)
    return done


def write_training(
    folder: Path, manifest: Manifest, model: PromptedModel, data: Manifest, training: Training
) -> None:
    """Write a trained model and its page into an unfinished output.

    Args:
        folder: The output.
        manifest: Its manifest with its counts; gets the entries that make the model again.
        model: The model.
        data: The manifest of the rows.
        training: The steps, for the page.
    """
    if is_main():
        checkpoints.save_model(folder, model.model, model.tokenizer)
    manifest.extra = checkpoints.manifest_entries(model.base, model.model, model.settings)
    manifest.extra["data"] = data.extra
    page = training_page(
        training.steps,
        training.title,
        {**manifest.counts, **manifest.config},
        [*data.extra.get("warnings", ()), *training.warnings],
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
