"""Files that the parameters of a run name: found before the run starts, here or on a cluster."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dynamicpo.core.errors import ConfigError, DataError
from dynamicpo.core.storage import SCHEMES
from dynamicpo.prompts.loader import load_template
from dynamicpo.runs.signatures import INPUT_PARAMETERS


def check_local_files(parameters: Mapping[str, object]) -> None:
    """Check that the input files of a run on this machine are there.

    Raises:
        DataError: One is not; those with a scheme are left to the stage that reads them.
    """
    for key in INPUT_PARAMETERS:
        path = str(parameters.get(key, ""))
        if path and "://" not in path and not Path(path).exists():
            raise DataError(
                f"{key}: must be a file or folder, but {path!r} does not exist. "
                "Give the right path."
            )


def check_cluster_files(parameters: Mapping[str, object], mounted: Sequence[str]) -> None:
    """Check that the files of a run on a cluster are where its tasks can read them.

    Args:
        parameters: Those of the run.
        mounted: Folders that tasks see beside the object store.

    Raises:
        ConfigError: A path of this machine.
    """
    prefixes = (*SCHEMES, *mounted)
    for key, value in parameters.items():
        if not isinstance(value, str) or not value:
            continue
        names_file = key in INPUT_PARAMETERS or is_path(value)
        if names_file and not value.startswith(prefixes):
            raise ConfigError(
                f"{key}: must begin with {' or '.join(prefixes)}, got {value!r}: a cluster sees no "
                "files of this machine. Put it into the bucket, or into a volume "
                "(--place data_claim=NAME mounts one at /data)."
            )


def check_template_parameter(
    parameters: Mapping[str, object], mounted: Sequence[str] | None
) -> None:
    """Check a run's prompt templates, where this machine has them.

    Args:
        parameters: Those of the run.
        mounted: Folders that tasks on a cluster see; None for a run on this machine.

    Raises:
        ConfigError: Templates that can't be used.
    """
    if "sft_template" not in parameters:
        return
    template = str(parameters["sft_template"])
    is_on_cluster = mounted is not None
    if is_on_cluster and is_path(template):
        return
    list_candidates = bool(parameters["sft_list_candidates"])
    try:
        load_template(template, list_candidates=list_candidates)
    except ConfigError as error:
        raise ConfigError(f"sft_template: {error}") from error


def is_path(text: str) -> bool:
    """Tell whether a text can only be meant as a file or folder.

    Models and templates may also be names: `compact`, `movies`, or `organisation/model` of Hugging
    Face, which has a slash but no file's beginning or end.
    """
    if "://" in text:
        return True
    return text.startswith(("/", ".", "~")) or text.endswith((".yaml", ".yml"))
