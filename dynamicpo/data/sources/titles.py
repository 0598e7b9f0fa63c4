"""Titles: one line each, not too long, in natural word order, no two alike."""

import re

import pandas as pd

TITLE_LIMIT = 300
# White space, control characters, and marks that are invisible or turn the direction of writing.
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")
_ARTICLES = (
    "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|I|Gli|El|Los|Las|Una|O|Os|"
    "Der|Die|Das|Ein|Eine|De|Den|Det|Het"
)
# "Name, Article" alone, before a bracket, or all of a bracket's content.
_INVERTED = re.compile(rf"(^|(?<=\())([^()]+), ({_ARTICLES})(?=\s*(?:[()]|$))")
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")


def clean_titles(titles: "pd.Series[str]") -> tuple["pd.Series[str]", dict[str, int]]:
    """Replace control characters and runs of spaces by one space, and cut at 300 characters.

    Returns:
        The titles, and the number of those changed (`titles_cleaned`) or shortened (`titles_cut`).
    """
    # NFC, so that two spellings of one letter in Unicode do not make two titles.
    composed = titles.str.normalize("NFC")
    spaced = composed.str.replace(_BLANK, " ", regex=True)
    clean = spaced.str.strip()
    is_long = clean.str.len() > TITLE_LIMIT
    beginning = clean.str.slice(0, TITLE_LIMIT - 1)
    shortened = beginning.str.rstrip() + "…"
    counts = {
        "titles_cleaned": int((clean != titles).sum()),
        "titles_cut": int(is_long.sum()),
    }
    return clean.mask(is_long, shortened), counts


def natural_title(title: str, year: str = "") -> str:
    """Write a MovieLens title in natural order, with its year.

    "Matrix, The" of 1999 becomes "The Matrix (1999)".

    Args:
        title: As MovieLens writes it, with or without the year behind it.
        year: The year, used where the title has none; anything but four digits is none.
    """
    match = _YEAR.search(title)
    if match:
        # Taken off first: an article stands at the end of the name, in front of the year.
        year = match.group(1)
        title = title[: match.start()]
    name = _INVERTED.sub(_with_article_first, title)
    has_year = re.fullmatch(r"\d{4}", year)
    return f"{name} ({year})" if has_year else name


def _with_article_first(match: re.Match[str]) -> str:
    _, name, article = match.groups()
    # "L'Avventura", without a space.
    separator = "" if article.endswith("'") else " "
    return f"{article}{separator}{name}"


def distinct_titles(items: pd.DataFrame) -> tuple["pd.Series[str]", int]:
    """Make titles distinct, upper and lower case counting as alike.

    Those that are alike get their year where it is known, then a number: the first by item id stays
    as it is.

    Args:
        items: `item_id`, `title` and, where known, `year` ("" for unknown).

    Returns:
        The titles, in the order of `items`, and the number of those changed.
    """
    ordered = items.sort_values("item_id")
    titles = ordered["title"]
    if "year" in ordered:
        titles = _with_years(titles, ordered["year"])
    titles = _with_numbers(titles).reindex(items.index)
    is_changed = titles != items["title"]
    return titles, int(is_changed.sum())


def _with_years(titles: "pd.Series[str]", years: "pd.Series[str]") -> "pd.Series[str]":
    """Add their years to titles that are alike."""
    folded = titles.str.casefold()
    is_alike = folded.duplicated(keep=False)
    has_year = years != ""
    dated = titles + " (" + years + ")"
    return titles.mask(is_alike & has_year, dated)


def _with_numbers(titles: "pd.Series[str]") -> "pd.Series[str]":
    """Add numbers from 2 on to titles that are alike, but for the first."""
    folded = titles.str.casefold()
    is_repeated = folded.duplicated()
    # Until none is repeated: "Title (2)" may be the title of another item already.
    while is_repeated.any():
        number = titles.groupby(folded).cumcount() + 1
        numbered = titles + " (" + number.astype(str) + ")"
        titles = titles.mask(is_repeated, numbered)
        folded = titles.str.casefold()
        is_repeated = folded.duplicated()
    return titles
