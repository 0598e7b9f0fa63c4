"""Guesses of which column of a file is which of ours, by names and by what stands in it."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# Names as people give them, without case and signs; the first that a file has is taken.
_NAMES: Mapping[str, Sequence[str]] = {
    "user_id": (
        *("userid", "user", "uid", "username", "customerid", "customer", "visitorid", "reviewerid"),
        *("memberid", "accountid", "playerid", "steamid", "buyerid", "clientid", "personid"),
    ),
    "item_id": (
        *("itemid", "movieid", "parentasin", "asin", "productid", "bookid", "artistid", "trackid"),
        *(
            "songid",
            "gameid",
            "appid",
            "newsid",
            "articleid",
            "videoid",
            "isbn",
            "sku",
            "contentid",
        ),
        *("item", "product", "iid", "id"),
    ),
    "timestamp": (
        *("timestamp", "unixreviewtime", "time", "ts", "datetime", "date", "ratedat", "createdat"),
        *(
            "eventtime",
            "unixtime",
            "playedat",
            "dateadded",
            "purchasedate",
            "orderdate",
            "watchedat",
        ),
    ),
    "rating": ("rating", "stars", "score", "overall"),
    "event": ("event", "eventtype", "action", "behavior", "behaviortype"),
    "title": (
        *("title", "itemname", "moviename", "movietitle", "productname", "booktitle", "artistname"),
        *("trackname", "songname", "appname", "name"),
    ),
    "category": (
        "category",
        "genre",
        "genres",
        "maincategory",
        "categories",
        "department",
        "class",
    ),
    "year": ("year", "releaseyear", "publicationyear"),
}
_FEW_VALUES = 20  # of a column of ratings
INTERACTION_ROLES = ("user_id", "item_id", "timestamp")
ITEM_ROLES = ("item_id", "title")
_INTERACTION_NAMES = (*INTERACTION_ROLES, "rating", "event")
_ITEM_NAMES = ("item_id", "title", "category", "year")


class ColumnFacts(NamedTuple):
    """A column, as far as a guess needs it.

    Attributes:
        name: Its name, or its position where there are no names.
        is_number: Whether all its values are numbers.
        is_time: Whether all its values are times of the last decades.
        distinct: Number of different values.
    """

    name: str
    is_number: bool
    is_time: bool
    distinct: int


def guessed_roles(columns: Sequence[ColumnFacts]) -> dict[str, str]:
    """The file's names by ours: of interactions, or of items where no user and no time is there."""
    if all(column.name.isdecimal() for column in columns):
        return _by_content(columns)
    found = {ours: name for ours in _NAMES if (name := _by_name(ours, columns))}
    is_interactions = "user_id" in found and "timestamp" in found
    names = _INTERACTION_NAMES if is_interactions or "title" not in found else _ITEM_NAMES
    return {ours: found[ours] for ours in names if ours in found}


def _by_name(ours: str, columns: Sequence[ColumnFacts]) -> str:
    # `Title` may stand beside `title`, which is the name that is read without settings.
    if any(column.name == ours for column in columns):
        return ours
    # RecBole writes a type behind a colon, as in `user_id:token`.
    plain = {_plain(column.name.partition(":")[0]): column.name for column in reversed(columns)}
    return next((plain[name] for name in _NAMES[ours] if name in plain), "")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _by_content(columns: Sequence[ColumnFacts]) -> dict[str, str]:
    """Guess for a file without names: the time by its values, users and items by their places."""
    roles = {}
    others = []
    for column in columns:
        if column.is_time and "timestamp" not in roles:
            roles["timestamp"] = column.name
        else:
            others.append(column)
    if "timestamp" not in roles:
        names = ("item_id", "title")
        return {ours: column.name for ours, column in zip(names, columns, strict=False)}
    for ours, column in zip(("user_id", "item_id"), others, strict=False):
        roles[ours] = column.name
    ratings = [column for column in others[2:] if column.is_number]
    few = [column.name for column in ratings if column.distinct <= _FEW_VALUES]
    return roles | ({"rating": few[0]} if few else {})
