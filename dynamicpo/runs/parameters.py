"""The parameters of a run: completed, converted and checked. Nothing here imports kfp.

They come as a user gives them, or as Kubeflow hands them to the first task of a run. The fields
that are no parameter of their own stand in their stage's settings: `sft_lora_rank` is the
`lora_rank` of `sft_settings`.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

from dynamicpo.core.choices import DATASETS
from dynamicpo.core.config import RunConfig
from dynamicpo.core.config_fields import LARGEST_EXACT, from_mapping
from dynamicpo.core.config_inputs import check_exclusion
from dynamicpo.core.errors import ConfigError, DynamicPOError, unknown_name
from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.core.messages import quoted
from dynamicpo.runs.objectives import check_cells, parse_list, parse_objectives
from dynamicpo.runs.parameter_files import (
    check_cluster_files,
    check_local_files,
    check_template_parameter,
)
from dynamicpo.runs.signatures import (
    INPUT_PARAMETERS,
    SEED,
    STAGE_CONFIGS,
    STORE,
    field_of,
    pipeline_parameters,
    pipeline_signature,
    setting_name,
    settings_stage,
    stage_fields,
    stages_of,
)

_PLACEHOLDER = "{{"


def check_parameters(
    name: str, overrides: Mapping[str, object], mounted: Sequence[str] | None = None
) -> JsonObject:
    """All parameters of a run, checked as the stages would check them, before anything starts.

    Args:
        name: The pipeline.
        overrides: Some of its parameters, and fields of its stages' settings; text is converted
            to the parameter's type.
        mounted: For a run on a cluster: the folders there that files may be in, beside a store
            (default: a run on this machine).

    Raises:
        ConfigError: Unknown names, or values of a wrong type or out of their limits; a line each.
        DataError: A file that must be there is not, and that is the only mistake.
    """
    check = _Check(name)
    given = check.flatten(overrides)
    check.convert(given)
    parameters = check.parameters
    with check.collected():
        check_template_parameter(parameters, mounted)
    with check.collected():
        if mounted is None:
            check_local_files(parameters)
        else:
            check_cluster_files(parameters, mounted)
    check.relations()
    check.raise_problems()
    return parameters


class _Check:
    """The check of one run's parameters: it collects all problems, and goes on after each.

    Args:
        name: The pipeline.
    """

    def __init__(self, name: str) -> None:
        """Begin with the defaults."""
        self._name = name
        self._signature = pipeline_signature(name)
        self.parameters = pipeline_parameters(name)
        self._problems: list[DynamicPOError] = []
        # Parameters that could not be used: what depends on them is not checked.
        self._invalid: set[str] = set()

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Add a problem to the others and go on."""
        try:
            yield
        except DynamicPOError as error:
            self._problems.append(error)

    def raise_problems(self) -> None:
        """Raise all problems as one, each line once; a single one as it is."""
        if len(self._problems) == 1:
            raise self._problems[0]
        if self._problems:
            lines = "\n".join(str(problem) for problem in self._problems).splitlines()
            raise ConfigError("\n".join(dict.fromkeys(lines)))

    def flatten(self, overrides: Mapping[str, object]) -> dict[str, object]:
        """The parameters that were given, settings of stages by their names in the pipeline."""
        settings: dict[str, object] = {}
        given: dict[str, object] = {}
        for key, value in overrides.items():
            stage = settings_stage(key)
            with self.collected():
                if stage and key in self._signature:
                    settings.update(self._stage_settings(stage, key, value))
                elif key in self.parameters:
                    given[key] = value
                else:
                    raise unknown_name(f"{self._name}: parameter", key, self._names_like(key))
        # The name of a single field says more than a dictionary: it may come from a flag, which
        # wins over a file.
        return {**settings, **given}

    def _names_like(self, key: str) -> list[str]:
        """The names to choose from: those of the same stage, for all together nobody would read."""
        names = sorted({*self.parameters, *self._signature})
        stage, _, _ = key.partition("_")
        of_stage = [name for name in names if name.startswith(f"{stage}_")]
        similar = difflib.get_close_matches(key, names)
        return of_stage or sorted({*self._signature, *similar})

    def _stage_settings(self, stage: str, key: str, value: object) -> dict[str, object]:
        settings = _parse_mapping(key, value)
        allowed = []
        for field in stage_fields(stage, self._signature):
            if setting_name(stage, field) not in self._signature:
                allowed.append(field)
        flat = {}
        for field, setting in settings.items():
            name = setting_name(stage, field)
            with self.collected():
                if name in self._signature:
                    raise ConfigError(f"{key}: {field} is the parameter {name}. Give it there.")
                if field not in allowed:
                    raise unknown_name(key, field, allowed)
                flat[name] = setting
        return flat

    def convert(self, given: Mapping[str, object]) -> None:
        """Convert what was given to the types of the configurations, and check it."""
        exact = {}
        for key, value in given.items():
            with self.collected():
                _check_exact(key, value)
                check_literal(key, value)
                exact[key] = value
        self._convert_seed(exact)
        for stage in stages_of(self._signature):
            self._convert_stage(stage, exact)
        for key in INPUT_PARAMETERS:
            self.parameters[key] = str(exact.get(key, self.parameters[key]))
        if "objectives" in self.parameters:
            with self.collected():
                self._convert_objectives(exact)

    def _convert_seed(self, given: dict[str, object]) -> None:
        """Convert the seed of the run, and give it to the stages that were given none."""
        seed = self.parameters[SEED]
        with self.collected():
            values = {SEED: given.get(SEED, seed)}
            self.parameters[SEED] = seed = from_mapping(RunConfig, values, self._name).seed
        for stage in stages_of(self._signature):
            if SEED in stage_fields(stage, self._signature):
                given.setdefault(setting_name(stage, SEED), seed)

    def _convert_stage(self, stage: str, given: Mapping[str, object]) -> None:
        """Convert and check the parameters of one stage."""
        keys = {}
        for field in stage_fields(stage, self._signature):
            keys[field] = setting_name(stage, field)
        values = {field: given.get(key, self.parameters[key]) for field, key in keys.items()}
        try:
            self._take_values(stage, values)
        except ConfigError as error:
            self._problems.append(_named_by_parameter(error, stage, self._name))
            # Field by field, so that a problem here hides none of those that lie between stages.
            for field, value in values.items():
                try:
                    self._take_values(stage, {field: value})
                except ConfigError:
                    self._invalid.add(keys[field])

    def _take_values(self, stage: str, values: Mapping[str, object]) -> None:
        config = from_mapping(STAGE_CONFIGS[stage], values, self._name)
        for field in values:
            self.parameters[setting_name(stage, field)] = getattr(config, field)

    def _convert_objectives(self, given: Mapping[str, object]) -> None:
        value = given.get("objectives", self.parameters["objectives"])
        self.parameters["objectives"] = parse_list("objectives", value)
        objectives = parse_objectives(self.parameters)
        self.parameters["objectives"] = cast(JsonValue, objectives)

    def relations(self) -> None:
        """Check what no stage can see alone, or sees only after the one before it has run."""
        with self.collected():
            _check_inputs(self.parameters, self._invalid)
        with self.collected():
            _check_exclusion(self.parameters, self._invalid)
        with self.collected():
            _check_strategy(self.parameters)
        with self.collected():
            _check_store(self.parameters)
        key = "preference_num_negatives"
        if key in self.parameters:
            with self.collected():
                self._check_num_negatives(key, self.parameters[key])
        grid = "grid_num_negatives"
        is_grid_valid = not any(invalid.startswith("grid_") for invalid in self._invalid)
        if grid in self.parameters and is_grid_valid:
            with self.collected():
                self._check_num_negatives(grid, check_cells(self.parameters))

    def _check_num_negatives(self, key: str, requested: object) -> None:
        """Check that sampling gives every row as many negatives as a training asks for."""
        strategy, candidates = "negatives_strategy", "negatives_num_candidates"
        if self._invalid & {key, strategy, candidates}:
            return
        # Published rows bring their own candidates: their number is known once they have been read.
        if self.parameters[strategy] == "published":
            return
        num_candidates = self.parameters[candidates]
        assert isinstance(num_candidates, int) and isinstance(requested, int)
        num_sampled = num_candidates - 1  # one candidate is the target
        if requested > num_sampled:
            raise ConfigError(
                f"{key}: must be <= {candidates} - 1 ({num_sampled}), got {requested}. "
                f"Lower it or raise {candidates}."
            )


def _parse_mapping(key: str, value: object) -> Mapping[str, object]:
    """The settings of a stage: as they are, or as JSON.

    Raises:
        ConfigError: They are neither.
    """
    settings = value
    if isinstance(value, str):
        try:
            settings = json.loads(value)
        except ValueError:
            settings = None
    if not isinstance(settings, dict):
        raise ConfigError(f"{key}: must be a dictionary of settings, got {value!r}.")
    return {str(field): setting for field, setting in settings.items()}


def _check_exact(key: str, value: object) -> None:
    """Refuse a whole number that Kubeflow can't pass on: it would arrive as another one."""
    item = field_of(key)
    if item is None or item.type is not int or not isinstance(value, (int, float)):
        return
    if abs(value) > LARGEST_EXACT:
        raise ConfigError(
            f"{key}: must be text above {LARGEST_EXACT}, because Kubeflow damages larger numbers, "
            f"got {value!r}. Put it in quotes."
        )


def check_literal(key: str, value: object) -> None:
    """Refuse a text in which Kubeflow would put something else, such as the run's name.

    Args:
        key: The parameter or flag, for messages.
        value: The text, or what holds texts.

    Raises:
        ConfigError: It holds the beginning of a placeholder.
    """
    # kfp's local runs and its drivers replace `{{$...}}`, Argo all of `{{...}}`; neither can be
    # told to leave a text as it is.
    if _PLACEHOLDER in str(value):
        raise ConfigError(
            f"{key}: must not hold {_PLACEHOLDER!r}, where Kubeflow puts texts of its own, got "
            f"{quoted(value)}. Choose another text or name."
        )


def _named_by_parameter(error: ConfigError, stage: str, pipeline: str) -> ConfigError:
    """The same problems with the names of parameters in place of fields."""
    # Lines begin with `field:`, or with `PIPELINE: field` where text can't be converted.
    start = rf"(?m)^((?:{pipeline}: )?)(\w+)"
    return ConfigError(re.sub(start, rf"\1{stage}_\2", str(error)))


def _check_inputs(parameters: Mapping[str, object], invalid: set[str]) -> None:
    if "data_source" in invalid:
        return
    source = parameters["data_source"]
    # `movielens` has a copy of its own, in the recbole wheel.
    required = {"table": INPUT_PARAMETERS, "movielens": ()}.get(str(source), INPUT_PARAMETERS[:1])
    missing = [key for key in required if not parameters[key]]
    if missing:
        raise ConfigError(f"{' and '.join(missing)}: must be given for data_source {source!r}.")
    # Its default is another source, which would leave the file unread.
    if source not in ("table", *DATASETS) and parameters["data_items"]:
        raise ConfigError(
            f"data_items: must be empty for data_source {source!r}, got "
            f"{parameters['data_items']!r}. Give data_source=table as well, or leave it out."
        )


def _check_exclusion(parameters: Mapping[str, object], invalid: set[str]) -> None:
    """Check that negatives exclude what goes with the repeats that the data keep."""
    keys = ("negatives_exclude", "data_repeats")
    if not invalid & {*keys, "data_source"}:
        exclude, repeats = (str(parameters[key]) for key in keys)
        is_published = parameters["data_source"] == "published"
        check_exclusion(exclude, "" if is_published else repeats, "negatives_exclude")


def _check_store(parameters: Mapping[str, object]) -> None:
    if not parameters.get(STORE, True):
        raise ConfigError(
            f"{STORE}: must be given: versions, decisions and the champion are kept there."
        )


def _check_strategy(parameters: Mapping[str, object]) -> None:
    """Check that negatives need no model, as a pipeline samples before it trains one."""
    if parameters["negatives_strategy"] == "model":
        raise ConfigError(
            "negatives_strategy: must not be 'model' in a pipeline, which samples before it trains "
            "the model. Choose another one, or mine with `dynamicpo sample-negatives --model`."
        )


def pipeline_arguments(name: str, parameters: Mapping[str, JsonValue]) -> JsonObject:
    """Checked parameters as the arguments of the pipeline.

    Args:
        name: The pipeline.
        parameters: All its parameters, as `check_parameters` gives them.

    Returns:
        A value for each parameter of its signature. Settings hold what differs from the defaults,
        so that equal runs have equal arguments.
    """
    signature = pipeline_signature(name)
    defaults = pipeline_parameters(name)
    arguments: JsonObject = {}
    for key in signature:
        stage = settings_stage(key)
        arguments[key] = {} if stage else parameters[key]
    if not _is_exact(parameters[SEED]):
        # As a number it would be damaged; below, each stage gets it as text.
        arguments[SEED] = defaults[SEED]
    for key in signature:
        stage = settings_stage(key)
        if stage:
            arguments[key] = _changed_settings(stage, signature, arguments, parameters, defaults)
    return arguments


def _changed_settings(
    stage: str,
    signature: Mapping[str, object],
    arguments: Mapping[str, JsonValue],
    parameters: Mapping[str, JsonValue],
    defaults: Mapping[str, JsonValue],
) -> JsonObject:
    """The fields of a stage that are no parameters, where they differ from their defaults."""
    settings: JsonObject = {}
    for field in stage_fields(stage, signature):
        key = setting_name(stage, field)
        default = arguments[SEED] if field == SEED else defaults[key]
        if key not in signature and parameters[key] != default:
            settings[field] = exact_json(parameters[key])
    return settings


def stage_settings(name: str, parameters: Mapping[str, JsonValue]) -> dict[str, JsonObject]:
    """All settings of each stage, from checked parameters."""
    signature = pipeline_signature(name)
    settings: dict[str, JsonObject] = {}
    for stage in stages_of(signature):
        fields = stage_fields(stage, signature)
        values = {field: parameters[setting_name(stage, field)] for field in fields}
        settings[stage] = {field: exact_json(value) for field, value in values.items()}
    return settings


def exact_json(value: JsonValue) -> JsonValue:
    """A value that survives Kubeflow: whole numbers that a float can't hold become text."""
    return value if _is_exact(value) else str(value)


def _is_exact(value: JsonValue) -> bool:
    return not isinstance(value, int) or abs(value) <= LARGEST_EXACT


def restored_parameters(parameters: Mapping[str, JsonValue]) -> JsonObject:
    """Checked parameters that went through Kubeflow, with whole numbers as such again."""
    restored: JsonObject = {}
    for key, value in parameters.items():
        item = field_of(key)
        is_whole = item is not None and item.type is int and isinstance(value, (float, str))
        restored[key] = int(value) if is_whole else value  # type: ignore[arg-type]
    return restored
