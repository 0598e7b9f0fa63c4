"""Preference trainings that a pipeline runs side by side: objectives, or the cells of a study."""

import json
import re
from collections.abc import Mapping
from typing import TypedDict, cast

from dynamicpo.core.choices import BASELINES, LOSSES, VARIANTS
from dynamicpo.core.config import GridConfig, PreferenceConfig
from dynamicpo.core.config_fields import from_mapping
from dynamicpo.core.errors import ConfigError, unknown_name
from dynamicpo.core.json_values import JsonValue
from dynamicpo.study.grid import PlannedCell, plan_cells
from dynamicpo.study.kinds import PLAIN, VARIANT_NAMES

# An objective's name becomes a model's name: a folder, a column of tables, part of a chart.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
RESERVED_NAMES = sorted((*BASELINES, "sft", "champion"))


class Objective(TypedDict):
    """One preference training of the training pipeline.

    Attributes:
        objective: The model's name.
        loss: The base objective.
        dynamic: Whether DynamicPO is off, on, or halved: one of `choices.VARIANTS`.
    """

    objective: str
    loss: str
    dynamic: str


def parse_list(key: str, value: object) -> list[JsonValue]:
    """A parameter that is a list: as it is, as JSON, or as text with commas.

    Raises:
        ConfigError: It is none of these, or empty.
    """
    entries = _split_text(key, value) if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{key}: must be a list with at least one entry, got {entries!r}.")
    return entries


def _split_text(key: str, text: str) -> object:
    if not text.lstrip().startswith("["):
        return text.split(",")
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(
            f"{key}: must be a JSON list or names with commas, got {text!r}."
        ) from error


def objective_of(name: str) -> Objective:
    """The objective of a short name: a loss, with `dynamicpo-`, `selection-` or `beta-` before it.

    Raises:
        ConfigError: There is no such loss or variant.
    """
    objectives = _short_names()
    if name not in objectives:
        raise unknown_name("objectives", name, objectives)
    return objectives[name]


def _short_names() -> dict[str, Objective]:
    """The objectives that have a short name, as a study names its cells."""
    objectives: dict[str, Objective] = {}
    for variant in VARIANTS:
        prefix = "" if variant == PLAIN else f"{VARIANT_NAMES[variant]}-"
        for loss in LOSSES:
            name = f"{prefix}{loss}"
            objectives[name] = {"objective": name, "loss": loss, "dynamic": variant}
    return objectives


def parse_objectives(parameters: Mapping[str, object]) -> list[Objective]:
    """The objectives of a run, each checked together with the settings of all trainings.

    Args:
        parameters: Those of the run; `objectives` holds short names or complete objectives.

    Raises:
        ConfigError: Objectives that can't be trained, a line each, or two of the same name.
    """
    entries = cast(list[object], parameters["objectives"])
    shared = _shared_settings(parameters)
    objectives, problems = [], []
    for entry in entries:
        try:
            objective = _parse_objective(entry)
            _check_objective(objective, shared)
            objectives.append(objective)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    names = [objective["objective"] for objective in objectives]
    # Case is ignored: on some file systems `DMPO` and `dmpo` are the same folder.
    different = {name.casefold() for name in names}
    if len(different) < len(names):
        listed = ", ".join(names)
        raise ConfigError(f"objectives: names must differ, got {listed}.")
    return objectives


def _parse_objective(entry: object) -> Objective:
    return objective_of(entry.strip()) if isinstance(entry, str) else cast(Objective, entry)


def _check_objective(objective: Objective, shared: Mapping[str, object]) -> None:
    keys = set(Objective.__annotations__)
    if not isinstance(objective, dict) or set(objective) != keys:
        raise ConfigError(
            f'objectives: an entry must have "objective", "loss" and "dynamic", got {objective!r}.'
        )
    name = objective["objective"]
    # A cast does not look: from a form it may be a number.
    text = name if isinstance(name, str) else ""
    is_reserved = text.casefold() in RESERVED_NAMES
    if is_reserved or not _NAME.fullmatch(text):
        reserved = ", ".join(RESERVED_NAMES)
        raise ConfigError(
            "objectives: a name must be up to 64 letters, digits, '-', '_', '.' and not one of "
            f"{reserved}, got {name!r}."
        )
    settings = {**shared, "loss": objective["loss"], "dynamic": objective["dynamic"]}
    try:
        _check_training(settings)
    except ConfigError as error:
        lines = [f"objectives: {name}: {line}" for line in str(error).splitlines()]
        raise ConfigError("\n".join(lines)) from error


def planned_cells(parameters: Mapping[str, object]) -> list[PlannedCell]:
    """The cells that a study of these parameters trains."""
    settings = {}
    for field in GridConfig.__dataclass_fields__:
        settings[field] = parameters[f"grid_{field}"]
    return plan_cells(from_mapping(GridConfig, settings, "grid"))


def check_cells(parameters: Mapping[str, object]) -> int:
    """Check the settings of a study's cells, as preference training will.

    Returns:
        The largest number of negatives of a cell.

    Raises:
        ConfigError: A cell can't be trained.
    """
    shared = _shared_settings(parameters)
    delivered = shared.get("deliver", "last")
    if delivered != "last":
        raise ConfigError(
            f"preference_deliver: must be 'last' in a study, got {delivered!r}: what training ends "
            "with is what is studied. Leave it out."
        )
    num_negatives = []
    for cell in planned_cells(parameters):
        num_negatives.append(cell["num_negatives"])
        settings = {**shared, **cell}
        del settings["cell"]  # its name
        _check_training(settings)
    return max(num_negatives)


def _check_training(settings: Mapping[str, object]) -> None:
    # Not by `from_mapping`, which takes the text "1" for a number: in an objective it is a mistake,
    # because KFP hands the entry to the task as it stands. The config checks its types itself.
    PreferenceConfig(**settings)  # type: ignore[arg-type]


def _shared_settings(parameters: Mapping[str, object]) -> dict[str, object]:
    """The settings of preference training that all trainings of a run have in common."""
    settings = {}
    for field in PreferenceConfig.__dataclass_fields__:
        key = f"preference_{field}"
        if key in parameters:
            settings[field] = parameters[key]
    return settings
