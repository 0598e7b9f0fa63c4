"""Copies of published versions: which folder is one, and where its model lies."""

from pathlib import Path

CARD = "card.json"
MODEL_FOLDER = "model"
GENERATORS_FOLDER = "generators"  # of an evaluation, too


def is_version(folder: Path) -> bool:
    """Tell whether a folder is that of a published version."""
    return (folder / CARD).is_file()


def model_of(folder: Path) -> Path:
    """The model's folder of a version; any other folder is the model's own."""
    return folder / MODEL_FOLDER if is_version(folder) else folder


def enclosing_version(folder: Path) -> Path | None:
    """The version that a folder is, or whose model it is; None where it is of none."""
    if is_version(folder):
        return folder
    parent = folder.parent
    return parent if folder.name == MODEL_FOLDER and is_version(parent) else None
