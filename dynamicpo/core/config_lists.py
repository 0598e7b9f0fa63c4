"""Lists as settings: text with commas, because neither a flag nor a KFP parameter is a list."""

from dynamicpo.core.config_fields import LARGEST_EXACT, Field, choices_of, limits_of
from dynamicpo.core.errors import unknown_name


def entries_of(text: str) -> list[str]:
    """The entries of a list that is written with commas."""
    return [entry.strip() for entry in text.split(",")]


def list_problem(value: object, item: Field) -> str:
    """The problem of a list as a message; empty where it has none.

    Args:
        value: The list as text.
        item: The field, with the choices or the lower limit of an entry.
    """
    entries = entries_of(value) if isinstance(value, str) else [""]
    choices = choices_of(item)
    if choices:
        wrong = [entry for entry in entries if entry and entry not in choices]
        if wrong:
            return str(unknown_name(item.name, wrong[0], choices))
    else:
        low = limits_of(item).low or 0
        if not all(_is_whole_number(entry, low) for entry in entries):
            return f"{item.name}: must be whole numbers >= {low} with commas, got {value!r}."
        if not all(_is_exact(entry) for entry in entries):
            return (
                f"{item.name}: must be whole numbers <= {LARGEST_EXACT} with commas, because "
                f"Kubeflow damages larger ones, got {value!r}."
            )
        # "1,01" names the same number twice.
        entries = [str(int(entry)) for entry in entries]
    if "" in entries or len({*entries}) < len(entries):
        return f"{item.name}: must be a list with commas, each entry once, got {value!r}."
    return ""


def _is_whole_number(text: str, low: float) -> bool:
    # `isdigit` alone accepts superscripts, which `int` refuses.
    if not text.isascii() or not text.isdigit():
        return False
    # `int` refuses texts of thousands of digits.
    return not _is_exact(text) or int(text) >= low


def _is_exact(digits: str) -> bool:
    """Tell whether a number arrives as it is in a task of Kubeflow, which passes on floats."""
    return len(digits) <= len(str(LARGEST_EXACT)) and int(digits) <= LARGEST_EXACT
