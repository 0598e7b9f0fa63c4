"""Signatures that repeat the configuration, written by `python -m dynamicpo_pipelines.signatures`.

Kubeflow ships a function's own source and reads its signature, so that the parameters of pipelines
and components must stand there. They are written between markers, with the defaults of a preset;
`--check` fails where they are not as they would be written now.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

import dynamicpo_components
from dynamicpo.core.config_fields import Field, choices_of
from dynamicpo.core.errors import ConfigError
from dynamicpo.core.json_values import JsonObject, JsonValue
from dynamicpo.runs.pipeline_texts import OTHER_TEXTS, STAGE_NAMES
from dynamicpo.runs.signatures import STAGE_CONFIGS, field_of, pipelines_folder, settings_stage

PIPELINES = pipelines_folder()
COMPONENTS = Path(dynamicpo_components.__path__[0])
# The file whose values are a pipeline's defaults.
PRESETS: Mapping[str, Path] = {
    "training": PIPELINES / "training" / "presets" / "compact.yaml",
    "negative_scaling": PIPELINES / "negative_scaling" / "studies" / "reproduce.yaml",
    "retraining": PIPELINES / "retraining" / "presets" / "compact.yaml",
}
# What people change; all else stands in the settings of its stage.
PARAMETERS: Mapping[str, Sequence[str]] = {
    "training": (
        *("data_source", "data_interactions", "data_items", "data_k_core"),
        *("negatives_num_candidates", "negatives_strategy"),
        *("sft_backbone", "sft_loss_on", "sft_rows", "sft_epochs", "sft_max_steps"),
        *("sft_learning_rate", "objectives", "preference_num_negatives", "preference_rows"),
        *("preference_epochs", "preference_learning_rate"),
        *("evaluation_rows", "evaluation_candidates", "seed"),
    ),
    "negative_scaling": (
        *("data_source", "data_interactions", "data_items", "data_k_core"),
        *("negatives_num_candidates", "sft_backbone", "sft_loss_on", "sft_rows"),
        *("sft_max_steps", "sft_learning_rate"),
        *("grid_num_negatives", "grid_objectives", "grid_variants", "grid_seeds"),
        *("preference_rows", "preference_epochs", "preference_learning_rate"),
        *("evaluation_rows", "evaluation_sasrec", "seed"),
    ),
    "retraining": (
        *("data_source", "data_interactions", "data_items", "data_k_core"),
        *("retrain_store", "retrain_mode", "retrain_forced", "retrain_until"),
        *("retrain_window_days", "sft_backbone", "sft_loss_on", "sft_rows", "sft_max_steps"),
        *("objectives", "preference_num_negatives", "preference_rows", "preference_epochs"),
        *("gate_rule", "gate_metric", "seed"),
    ),
}
STAGES: Mapping[str, Sequence[str]] = {
    "training": ("data", "negatives", "sft", "preference", "evaluation", "drift"),
    "negative_scaling": ("data", "negatives", "sft", "preference", "evaluation", "study"),
    "retraining": (
        *("data", "negatives", "sft", "preference", "evaluation", "drift"),
        *("retrain", "gate"),
    ),
}
# The stage of each component's settings, and the settings that are parameters of their own too.
MAIN_PARAMETERS: Mapping[str, tuple[str, Sequence[str]]] = {
    "data_prep": ("data", ("source", "k_core")),
    "negative_sampling": ("negatives", ("num_candidates", "strategy", "seed")),
    "sft": (
        "sft",
        ("backbone", "loss_on", "rows", "epochs", "max_steps", "learning_rate", "seed"),
    ),
    "preference_training": (
        "preference",
        ("loss", "dynamic", "num_negatives", "rows", "epochs", "learning_rate", "seed"),
    ),
    "baselines": ("evaluation", ()),
    "evaluation": ("evaluation", ("candidates", "rows", "base", "sasrec", "generator", "seed")),
    "cell_plan": ("grid", ("num_negatives", "objectives", "variants", "seeds")),
    "drift_monitoring": ("drift", ("split", "threshold", "rows", "seed")),
    "study": ("study", ("min_drop", "level")),
    "retraining_plan": ("retrain", ()),
    "window_check": ("drift", ()),
    "challenge": ("gate", ()),
}
START, END = "# Written by dynamicpo_pipelines.signatures", "# to here."
# No default of theirs is ever changed: Kubeflow reads them from the source.
_MUTABLE = "  # noqa: B006"
_ENTRY = re.compile(r"        (\w+): ")


def pipeline_defaults(name: str) -> JsonObject:
    """The parameters of a pipeline's signature: the preset's values, or the configuration's.

    What the preset has besides stands in the settings of its stage.

    Raises:
        ConfigError: The preset names what can't be set.
    """
    preset = yaml.safe_load(PRESETS[name].read_text(encoding="utf-8"))
    names = PARAMETERS[name]
    settings: dict[str, JsonObject] = {stage: {} for stage in STAGES[name]}
    for key in preset:
        if key not in names:
            stage, _, field = key.partition("_")
            if stage not in settings or field_of(key) is None:
                raise ConfigError(
                    f"{PRESETS[name]}: {key} must be a parameter of {name}, or a field of one of "
                    "its stages. Correct it."
                )
            settings[stage][field] = _default(key, preset)
    defaults: JsonObject = {key: _default(key, preset) for key in names}
    return {**defaults, **{f"{stage}_settings": fields for stage, fields in settings.items()}}


def _default(key: str, preset: Mapping[str, JsonValue]) -> JsonValue:
    item = field_of(key)
    value = preset.get(key, "" if item is None else item.default)  # type: ignore[call-overload]
    is_float = item is not None and item.type is float
    return float(value) if is_float else value  # type: ignore[no-any-return]


def files() -> dict[Path, str]:
    """Every file with markers, with its text as it must be."""
    texts = {}
    for name in PARAMETERS:
        path = PIPELINES / name / "pipeline.py"
        defaults = pipeline_defaults(name)
        texts[path] = _replaced(path, [_pipeline_lines(defaults), _call_lines(name, defaults)])
    for stage in MAIN_PARAMETERS:
        path = COMPONENTS / stage / "component.py"
        texts[path] = _documented(_replaced(path, [_component_lines(stage)]), _main_entries(stage))
    path = COMPONENTS / "settings_check" / "component.py"
    replaced = _replaced(path, [_check_lines(), _collection_lines()])
    texts[path] = _documented(replaced, _check_entries())
    return texts


def _pipeline_lines(defaults: Mapping[str, JsonValue]) -> list[str]:
    lines = []
    for key, value in defaults.items():
        first, *others = f"{key}: {type(value).__name__} = {_literal(value)},".splitlines()
        mark = _MUTABLE if isinstance(value, (list, dict)) else ""
        lines += [f"{first}{mark}", *others]
    return lines


def _literal(value: JsonValue) -> str:
    """A value as source, a list or a dictionary with a line for each entry."""
    if isinstance(value, dict) and value:
        fields = "".join(f"\n    {_quoted(key)}: {_quoted(item)}," for key, item in value.items())
        return f"{{{fields}\n}}"
    if not isinstance(value, list):
        return _quoted(value)
    entries = "".join(f"\n    {_quoted(entry)}," for entry in value)
    return f"[{entries}\n]"


def _quoted(value: object) -> str:
    # As ruff writes strings.
    return repr(value).replace("'", '"')


def _call_lines(name: str, defaults: Mapping[str, JsonValue]) -> list[str]:
    return [f'pipeline="{name}",', *(f"{key}={key}," for key in defaults)]


def _component_lines(stage: str) -> list[str]:
    config_name, names = MAIN_PARAMETERS[stage]
    fields = STAGE_CONFIGS[config_name].__dataclass_fields__
    return [
        *(_optional(name, fields[name].type.__name__) for name in names),
        f"settings: dict = {{}},{_MUTABLE}",
    ]


def _optional(name: str, kind: str) -> str:
    return f"{name}: Optional[{kind}] = None,"


def _all_parameters() -> dict[str, str]:
    """The parameters of all pipelines with the names of their types."""
    kinds = {}
    for name in PARAMETERS:
        for key, value in pipeline_defaults(name).items():
            kinds[key] = type(value).__name__
    # Settings come last, as in the pipelines.
    return dict(sorted(kinds.items(), key=lambda item: item[1] == "dict"))


def _check_lines() -> list[str]:
    return [_optional(key, kind) for key, kind in _all_parameters().items()]


def _collection_lines() -> list[str]:
    return [f'"{key}": {key},' for key in _all_parameters()]


def _replaced(path: Path, blocks: Sequence[Sequence[str]]) -> str:
    """A file's text with the lines between its pairs of markers replaced, pair by pair."""
    remaining = iter(blocks)
    result: list[str] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        content = line.strip()
        inside = inside and content != END
        if not inside:
            result.append(line)
        if content == START:
            indent = line[: -len(content)]
            result.extend(f"{indent}{entry}" for entry in next(remaining))
            inside = True
    return "\n".join(result) + "\n"


def _main_entries(stage: str) -> dict[str, str]:
    """The texts of a component's main parameters."""
    config_name, names = MAIN_PARAMETERS[stage]
    fields = STAGE_CONFIGS[config_name].__dataclass_fields__
    entries = {name: _text(fields[name]) for name in names}
    return {**entries, "settings": "Other settings by name; those above win."}


def _check_entries() -> dict[str, str]:
    """The texts of all parameters of pipelines."""
    entries = {}
    for key in _all_parameters():
        item = field_of(key)
        if settings_stage(key):
            entries[key] = f"Other settings of {STAGE_NAMES[settings_stage(key)]}, by name."
        else:
            entries[key] = _sentence(OTHER_TEXTS[key]) if item is None else _text(item)
    return entries


def _text(item: Field) -> str:
    choices = ", ".join(choices_of(item))
    return _sentence(f"{item.metadata['help']} [{choices}]" if choices else item.metadata["help"])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _documented(source: str, entries: Mapping[str, str]) -> str:
    """A component's source with the texts of parameters in its docstring, behind the others."""
    generated = [line for name, text in entries.items() for line in _wrapped(f"{name}: {text}")]
    lines = source.splitlines()
    first, last = _section(lines)
    kept = list(_handwritten(lines[first:last], {*entries}))
    return "\n".join([*lines[:first], *kept, *generated, *lines[last:]]) + "\n"


def _wrapped(entry: str) -> list[str]:
    return textwrap.wrap(
        entry, 100, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False
    )


def _section(lines: Sequence[str]) -> tuple[int, int]:
    """The first line below `Args:`, and the one behind the section."""
    first = lines.index("    Args:") + 1
    last = next(
        number
        for number in range(first, len(lines))
        if not lines[number].strip() or lines[number].strip() == '"""'
    )
    return first, last


def _handwritten(lines: Sequence[str], generated: set[str]) -> Iterator[str]:
    """The lines of entries that are not generated."""
    is_kept = True
    for line in lines:
        match = _ENTRY.match(line)
        if match:
            is_kept = match[1] not in generated
        if is_kept:
            yield line


def main(arguments: Sequence[str]) -> int:
    """Write the signatures, or with `--check` name the files that are stale."""
    stale = [path for path, text in files().items() if path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            sys.stderr.write(f"{path}: run `python -m dynamicpo_pipelines.signatures`\n")
        return int(bool(stale))
    for path, text in files().items():
        ast.parse(text)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
