"""Names of models, runs and titles as a reader sees them: on one line, short, and all different."""

import unicodedata
from collections import Counter
from collections.abc import Sequence


def one_line(text: str) -> str:
    """Text on one line, without control characters (an SVG may not hold them)."""
    printable = ""
    for char in str(text):
        printable += char if char.isprintable() else " "
    words = printable.split()
    return " ".join(words)


def display_width(text: str) -> int:
    """Width of a text in columns of a terminal."""
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    # Wide and full-width letters, as Chinese, Japanese and Korean have, take two columns.
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, max_width: int) -> str:
    """Text on one line of at most `max_width` columns; the middle of a longer one is left out."""
    text = one_line(text)
    # Combining marks have no width, so that letters are limited as well as columns.
    max_letters = 2 * max_width
    if len(text) <= max_letters and display_width(text) <= max_width:
        return text
    head_width = max_width // 2
    head = text[:max_width]
    while display_width(head) > head_width:
        head = head[:-1]
    # The ellipsis takes one column.
    tail_width = max_width - head_width - 1
    tail = text[-max_width:]
    while display_width(tail) > tail_width:
        tail = tail[1:]
    return f"{head}…{tail}"


def short_names(names: Sequence[str], max_width: int = 40) -> list[str]:
    """Names on one line of at most `max_width` columns; numbered where shortened ones are equal."""
    # A name of control characters alone leaves nothing to show.
    shortened = [shorten(name, max_width) or "(no name)" for name in names]
    counts = Counter(shortened)
    unique = []
    for number, name in enumerate(shortened, start=1):
        if counts[name] > 1:
            unique.append(f"{number} {name}")
        else:
            unique.append(name)
    return unique
