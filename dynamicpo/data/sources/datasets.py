"""Data sets that people have as they were published: two files each, with a map of their columns.

What is known to be wrong with a data set, such as games without an id, is left out and counted.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import ibis

from dynamicpo.core.config_inputs import ColumnMap
from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import shown
from dynamicpo.data.sources.delimited import DelimitedLayout
from dynamicpo.data.sources.options import ReadingOptions
from dynamicpo.data.sources.tables import ImportedTables, read_interactions, read_item_table
from dynamicpo.data.sources.timestamps import AUTO

_PACKED = (".bz2", ".zip", ".tar", ".tgz", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class DatasetFile:
    """A file of a published data set.

    Attributes:
        patterns: The names that it has.
        columns: Its names of columns, by ours.
        layout: Its layout, where it has no usual header.
    """

    patterns: tuple[str, ...]
    columns: ColumnMap
    layout: DelimitedLayout | None = None


@dataclass(frozen=True)
class PublishedDataset:
    """A data set as it was published.

    Attributes:
        interactions: Its file of interactions.
        items: Its file of items.
        time_format: How its times are written.
        drops_early_times: Whether times before 1970 are mistakes that it is known for.
        drops_unnamed_items: Whether items without an id or a title are.
    """

    interactions: DatasetFile
    items: DatasetFile
    time_format: str = AUTO
    drops_early_times: bool = False
    drops_unnamed_items: bool = False


def _raw_tabs(*columns: str, header: bool = False) -> DelimitedLayout:
    """Columns with tabs between them and quotes that are part of names."""
    return DelimitedLayout(columns, "\t", header=header, quoted=False)


def _names(**columns: str) -> ColumnMap:
    return {ours: (theirs,) for ours, theirs in columns.items()}


_HETREC = PublishedDataset(
    # Tags are what has times: `user_artists.dat` holds counts alone.
    interactions=DatasetFile(
        ("user_taggedartists-timestamps.dat",),
        _names(user_id="userID", item_id="artistID"),
        _raw_tabs("userID", "artistID", "tagID", "timestamp", header=True),
    ),
    items=DatasetFile(
        ("artists.dat",),
        _names(item_id="id", title="name"),
        _raw_tabs("id", "name", "url", "pictureURL", header=True),
    ),
    time_format="ms",
    drops_early_times=True,
)
_PLAYS_1K = _raw_tabs("user", "timestamp", "artist_mbid", "artist", "track_mbid", "track")
_PLAYS_1K_PATTERN = ("userid-timestamp-artid-artname-traid-traname.tsv*",)
_LASTFM_1K = PublishedDataset(
    interactions=DatasetFile(
        _PLAYS_1K_PATTERN, _names(user_id="user", item_id="artist"), _PLAYS_1K
    ),
    # Artists have an id of MusicBrainz or none, so they go by their names.
    items=DatasetFile(_PLAYS_1K_PATTERN, _names(item_id="artist", title="artist"), _PLAYS_1K),
    time_format="iso",
)
_LFM_1B = PublishedDataset(
    interactions=DatasetFile(
        ("LFM-1b_LEs.txt*",),
        _names(user_id="user", item_id="artist"),
        _raw_tabs("user", "artist", "album", "track", "timestamp"),
    ),
    items=DatasetFile(
        ("LFM-1b_artists.txt*",),
        _names(item_id="artist", title="name"),
        _raw_tabs("artist", "name"),
    ),
    time_format="s",
    drops_unnamed_items=True,
)
_LFM_2B = PublishedDataset(
    interactions=DatasetFile(
        ("listening-events.tsv*", "listening_events.tsv*"), _names(item_id="track_id")
    ),
    items=DatasetFile(
        ("tracks.tsv*",), _names(item_id="track_id", title="track_name", category="artist_name")
    ),
    time_format="iso",
    drops_unnamed_items=True,
)
_STEAM = PublishedDataset(
    # `user_id` is in some rows only.
    interactions=DatasetFile(
        ("steam_reviews.json*", "steam_new.json*"),
        _names(user_id="username", item_id="product_id", timestamp="date"),
    ),
    items=DatasetFile(
        ("steam_games.json*",), _names(item_id="id", title="app_name", category="genres")
    ),
    time_format="iso",
    drops_unnamed_items=True,
)
_GOODREADS = PublishedDataset(
    interactions=DatasetFile(
        ("goodreads_interactions*.json*",),
        _names(item_id="book_id", timestamp="date_added", event="is_read"),
    ),
    items=DatasetFile(
        ("goodreads_books*.json*",), _names(item_id="book_id", year="publication_year")
    ),
    time_format="%a %b %d %H:%M:%S %z %Y",
    drops_unnamed_items=True,
)
_AMAZON_2023 = PublishedDataset(
    interactions=DatasetFile(("[!m]*.jsonl*", "[!m]*.csv*"), _names(item_id="parent_asin")),
    # A product's variants share its parent; a review's own `title` is another thing.
    items=DatasetFile(("meta_*.jsonl*",), _names(item_id="parent_asin", category="main_category")),
    time_format="ms",
    drops_unnamed_items=True,
)
PUBLISHED_DATASETS: Mapping[str, PublishedDataset] = MappingProxyType(
    {
        "hetrec-lastfm": _HETREC,
        "lastfm-1k": _LASTFM_1K,
        "lfm-1b": _LFM_1B,
        "lfm-2b": _LFM_2B,
        "steam": _STEAM,
        "goodreads": _GOODREADS,
        "amazon-2023": _AMAZON_2023,
    }
)


def dataset_files(name: str, interactions: Path, items: Path | None) -> dict[str, Path]:
    """Find the two files of a data set.

    Args:
        name: The data set.
        interactions: Its file of interactions, or a folder with both files.
        items: Its file of items; None where it stands beside the interactions.

    Raises:
        DataError: One is not there, or is packed in a way that is not read.
    """
    dataset = PUBLISHED_DATASETS[name]
    folder = interactions if interactions.is_dir() else interactions.parent
    files = {
        "interactions": interactions,
        "items": _found(name, folder, dataset.items) if items is None else items,
    }
    if interactions.is_dir():
        files["interactions"] = _found(name, interactions, dataset.interactions)
    for path in files.values():
        if path.suffix.lower() in _PACKED:
            raise DataError(
                f"{path}: must be unpacked or a .gz file, got {path.suffix}. Unpack it first."
            )
    return files


def _found(name: str, folder: Path, wanted: DatasetFile) -> Path:
    entries = [entry for entry in sorted(folder.rglob("*")) if entry.is_file()]
    for pattern in wanted.patterns:
        found = [entry for entry in entries if fnmatch.fnmatchcase(entry.name, pattern)]
        if len(found) > 1:
            names = ", ".join(shown(entry.name) for entry in found)
            raise DataError(
                f"{folder}: must hold one {pattern} of {name}, got {names}. Give the files "
                "themselves, as the interactions and the items."
            )
        if found:
            return found[0]
    raise DataError(
        f"{folder}: must hold {' or '.join(wanted.patterns)} of {name}, but it does not. Give both "
        "files, as the interactions and the items."
    )


def read_dataset(
    name: str, connection: ibis.BaseBackend, files: dict[str, Path], options: ReadingOptions
) -> ImportedTables:
    """Read interactions and items from the files of `dataset_files`.

    What the user says of columns and times comes before what is known of the data set.
    """
    dataset = PUBLISHED_DATASETS[name]
    known = replace(
        options,
        time_format=dataset.time_format if options.time_format == AUTO else options.time_format,
        drops_early_times=dataset.drops_early_times,
        drops_unnamed_items=dataset.drops_unnamed_items,
    )
    items = read_item_table(
        connection,
        files["items"],
        replace(known, columns={**dataset.items.columns, **options.columns}),
        dataset.items.layout,
    )
    interactions = read_interactions(
        connection,
        files["interactions"],
        replace(known, columns={**dataset.interactions.columns, **options.columns}),
        dataset.interactions.layout,
    )
    return ImportedTables(
        interactions=interactions.table,
        items=items.items,
        counts=items.counts | interactions.counts,
        notes=items.notes + interactions.notes,
    )
