"""Titles: one line each, not too long, in natural word order, no two alike."""

import re

import pandas as pd

TITLE_LIMIT = 300
_BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]+")
_ARTICLES = "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|I|Gli|El|Los|Las|Una|O|Os|Der|Die|Das|Ein|Eine|De|Den|Det|Het"
_INVERTED = re.compile(rf"(^|(?<=\())([^()]+), ({_ARTICLES})(?=\s*(?:[()]|$))")
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")


def clean_titles(titles: "pd.Series[str]") -> tuple["pd.Series[str]", dict[str, int]]:
    """Titles with control characters and runs of spaces as one space, at most 300 characters long.

    Returns:
        The titles, and how many were changed (`titles_cleaned`) or shortened (`titles_cut`).
    """
    composed = titles.str.normalize("NFC")
    clean = composed.str.replace(_BLANK, " ", regex=True).str.strip()
    long = clean.str.len() > TITLE_LIMIT
    short = clean.mask(long, clean.str.slice(0, TITLE_LIMIT - 1).str.rstrip() + "…")
    return short, {"titles_cleaned": int((clean != titles).sum()), "titles_cut": int(long.sum())}


def natural_title(title: str, year: str = "") -> str:
    """A MovieLens title in natural order, with its year: "Matrix, The" of 1999 as "The Matrix (1999)".

    Args:
        title: As MovieLens writes it, with or without the year behind it.
        year: The year, used where the title has none; anything but four digits is none.
    """
    found = _YEAR.search(title)
    name = title[: found.start()] if found else title
    year = found.group(1) if found else year
    name = _INVERTED.sub(_turn, name)
    return f"{name} ({year})" if re.fullmatch(r"\d{4}", year) else name


def _turn(match: re.Match[str]) -> str:
    name, article = match.group(2), match.group(3)
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{name}"


def distinct_titles(items: pd.DataFrame) -> tuple["pd.Series[str]", int]:
    """Titles of which no two read the same, upper and lower case alike.

    Those that do get their year where it is known, then a number: the first by item id stays as it is.

    Args:
        items: `item_id`, `title` and, where known, `year` ("" for unknown).

    Returns:
        The titles, in the order of `items`, and how many were changed.
    """
    ordered = items.sort_values("item_id")
    titles = ordered["title"]
    if "year" in ordered:
        alike = titles.str.casefold().duplicated(keep=False) & (ordered["year"] != "")
        titles = titles.mask(alike, titles + " (" + ordered["year"] + ")")
    while (again := titles.str.casefold().duplicated()).any():
        number = titles.groupby(titles.str.casefold()).cumcount() + 1
        titles = titles.mask(again, titles + " (" + number.astype(str) + ")")
    titles = titles.reindex(items.index)
    return titles, int((titles != items["title"]).sum())
