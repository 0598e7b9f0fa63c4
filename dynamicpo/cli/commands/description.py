"""The command that describes an input before data preparation reads it."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamicpo.data.description import DataDescription


def describe(arguments: argparse.Namespace) -> "DataDescription":
    """Describe a file of interactions or items, and the settings that read it."""
    from dynamicpo.data.description import describe_data

    return describe_data(arguments.input)
