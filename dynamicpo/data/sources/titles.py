"""Titles: one line each, not too long, in natural word order, no two alike."""

import re

import pandas as pd

TITLE_LIMIT = 300
# White space, control characters, letters without a glyph (Hangul fillers, the blank of Braille),
# and marks that are invisible or turn the direction of writing.
_BLANK = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\u115f\u1160\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069\u2800\u3164"
    r"\ufeff\uffa0]+"
)
# Marks that show nothing and join nothing: they go, without a space.
_INVISIBLE = re.compile(
    r"[\xad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200e\u200f\u2060-\u2065\u206a-\u206f\ufff0-\ufffb]"
    # Tags, but for those of a flag, which follow the black flag.
    r"|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
)
# What does not show by itself, but changes its neighbours: joiners, and variants of emoji.
_MODIFIERS = re.compile(r"[\u200c\u200d\ufe00-\ufe0f\U000e0000-\U000e0fff]")
_ARTICLES = (
    "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|I|Gli|El|Los|Las|Una|O|Os|"
    "Der|Die|Das|Ein|Eine|De|Den|Det|Het"
)
# "Name, Article" alone, before a bracket, or all of a bracket's content.
_INVERTED = re.compile(rf"(^|(?<=\())([^()]+), ({_ARTICLES})(?=\s*(?:[()]|$))")
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")


def clean_titles(titles: "pd.Series[str]") -> tuple["pd.Series[str]", dict[str, int]]:
    """Replace control characters and runs of spaces by one space, and cut at 300 characters.

    Marks that do not show are removed; what joins emoji or letters stays.

    Returns:
        The titles, and the number of those changed (`titles_cleaned`) or shortened (`titles_cut`).
    """
    # NFC, so that two spellings of one letter in Unicode do not make two titles.
    composed = titles.str.normalize("NFC")
    visible = composed.str.replace(_INVISIBLE, "", regex=True)
    spaced = visible.str.replace(_BLANK, " ", regex=True)
    clean = spaced.str.strip()
    # Modifiers alone show nothing.
    shows = clean.str.replace(_MODIFIERS, "", regex=True).str.strip() != ""
    clean = clean.where(shows, "")
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
    folded = _reading(titles)
    is_alike = folded.duplicated(keep=False)
    has_year = years != ""
    is_dated = is_alike & has_year
    in_brackets = " (" + years + ")"
    dated = titles + in_brackets
    return titles.mask(is_dated, dated)


def _reading(titles: "pd.Series[str]") -> "pd.Series[str]":
    """Titles as a reader tells them apart: without case, and without what does not show."""
    return titles.str.replace(_MODIFIERS, "", regex=True).str.casefold()


def _with_numbers(titles: "pd.Series[str]") -> "pd.Series[str]":
    """Add numbers from 2 on to titles that are alike, but for the first."""
    folded = _reading(titles)
    is_repeated = folded.duplicated()
    # Until none is repeated: "Title (2)" may be the title of another item already.
    while is_repeated.any():
        alike = titles.groupby(folded)
        number = alike.cumcount() + 1
        number_text = number.astype(str)
        numbered = titles + " (" + number_text + ")"
        titles = titles.mask(is_repeated, numbered)
        folded = _reading(titles)
        is_repeated = folded.duplicated()
    return titles
