"""The files of an input: one file, a folder of parts, or a glob; all of one format."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import BinaryIO, cast

from dynamicpo.core.errors import DataError
from dynamicpo.core.messages import shown

DELIMITERS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*DELIMITERS, ".jsonl", ".json", ".parquet")
_GZIP = ".gz"
# Files that hold data in a way that is not read: to leave them out would be to lose rows.
_UNREAD = (
    ".arrow .avro .bz2 .dat .feather .h5 .ndjson .orc .pickle .pkl .psv .rar .sqlite .tab .tar "
    ".tgz .txt .xls .xlsx .xml .xz .zip .zst .7z"
).split()
# Notes that stand beside the parts of published data sets, whatever text they are.
_NOTES = ("readme", "license", "licence", "changelog", "citation", "notice")
# Checksums, logs, programs and pictures. Any other file may be a part, and is not left out.
_NO_DATA = (
    ".asc .cff .crc .css .db .html .ini .ipynb .jpeg .jpg .js .lnk .log .md .md5 .pdf .png .py "
    ".r .rst .sh .sha1 .sha256 .sha512 .sig .sql .svg .toml .url .yaml .yml"
).split()


@dataclass(frozen=True)
class Part:
    """One file of an input.

    Attributes:
        path: The file.
        suffix: Its format, in lower case and without `.gz`.
        is_compressed: Whether it is a gzip file.
    """

    path: Path
    suffix: str
    is_compressed: bool

    def open(self) -> BinaryIO:
        """Open the content, decompressed."""
        opened = gzip.open(self.path) if self.is_compressed else self.path.open("rb")
        return cast(BinaryIO, opened)


def is_glob(path: str) -> bool:
    """True where a path names several files by a pattern; a file of just this name comes first."""
    return has_magic(path) and not Path(path).exists()


def find_parts(path: Path, any_format: bool = False) -> list[Part]:
    """Find the file, the files of a folder, or those that match a glob, by their names.

    Empty files are left out: they hold no rows.

    Args:
        path: A file, a folder or a glob.
        any_format: Whether the format is known, whatever the names.

    Raises:
        DataError: No file, files of several formats or of one that is not read, or only empty ones.
    """
    parts = [_part(file) for file in _candidates(path)]
    if not any_format:
        suffix = _one_format(path, parts)
        parts = [part for part in parts if part.suffix == suffix]
    _check_copies(path, parts)
    filled = [part for part in parts if part.path.stat().st_size]
    if not filled:
        raise no_rows(path)
    return filled


def no_rows(path: Path) -> DataError:
    """Make the error for an input without rows."""
    return DataError(
        f"{path}: must hold at least one row, but it is empty. Check how it was exported."
    )


def _candidates(path: Path) -> list[Path]:
    if is_glob(str(path)):
        matches = sorted(Path(name) for name in glob(str(path), recursive=True))
        files = [file for file in matches if file.is_file()]
        if not files:
            raise DataError(f"{path}: must match at least one file, got none. Check the pattern.")
        return files
    if not path.is_dir():
        return [path]
    entries = sorted(path.iterdir())
    visible = [entry for entry in entries if not _is_bookkeeping(entry)]
    _check_folders(path, [entry for entry in visible if entry.is_dir()])
    return [entry for entry in visible if entry.is_file() and not _is_note(entry)]


def _is_bookkeeping(file: Path) -> bool:
    """True where a file is one that Spark, Hadoop or a file system keeps beside the data."""
    # Spark's have no suffix: `_SUCCESS`, `_metadata`.
    is_spark = file.name.startswith("_") and format_of(file) not in FORMATS
    return is_spark or file.name.startswith(".")


def _is_note(file: Path) -> bool:
    is_named_so = file.stem.lower().startswith(_NOTES)
    return is_named_so and file.suffix.lower() in ("", ".txt", *_NO_DATA)


def _check_folders(path: Path, folders: Sequence[Path]) -> None:
    """Refuse folders within a folder that hold data, too: they would be left out in silence."""
    for folder in folders:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        for file in files:
            suffix = _part(file).suffix
            if suffix in FORMATS:
                ending = (
                    file.name[-len(suffix) :] if file.suffix.lower() != _GZIP else suffix + _GZIP
                )
                raise DataError(
                    f"{path}: must hold its files itself, but {shown(folder.name)} is a folder "
                    f"with {shown(file.name)}. Give a glob, such as '{path}/**/*{ending}', "
                    "or move the files."
                )


def format_of(file: Path) -> str:
    """The format that a name says, in lower case and without `.gz`."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix == _GZIP else suffix


def _part(file: Path) -> Part:
    return Part(file, format_of(file), file.suffix.lower() == _GZIP)


def _one_format(path: Path, parts: Sequence[Part]) -> str:
    # A folder of two formats may hold one table twice, so only one format is read.
    suffixes = {part.suffix for part in parts}
    is_one_file = not path.is_dir() and not is_glob(str(path))
    if not is_one_file:
        suffixes -= {*_NO_DATA}
    if len(suffixes) == 1 and suffixes <= {*FORMATS}:
        return suffixes.pop()
    known = ", ".join(FORMATS)
    found = ", ".join(suffix or "no suffix" for suffix in sorted(suffixes)) or "none of these"
    strange = [part.path.name for part in parts if part.suffix in suffixes - {*FORMATS, *_UNREAD}]
    remedy = "Convert it, or leave one kind."
    if strange and not is_one_file:
        # To leave it out would be to lose rows, were it a part.
        found = f"{found} with {shown(strange[0])}"
        remedy = f"Rename or remove it, or name the parts by a glob, such as '{path}/*.csv'."
    raise DataError(
        f"{path}: must be a {known} file (or a folder of one kind, or .gz of either), "
        f"got {shown(found)}. {remedy}"
    )


def _check_copies(path: Path, parts: Sequence[Part]) -> None:
    """Refuse a file that lies beside its own compressed copy: its rows would count twice."""
    # Without regard to case, which some systems take from names.
    plain = {str(part.path).lower() for part in parts if not part.is_compressed}
    for part in parts:
        original = part.path.with_suffix("")
        if part.is_compressed and str(original).lower() in plain:
            raise DataError(
                f"{path}: must hold each part once, but {shown(original.name)} and "
                f"{shown(part.path.name)} have one name. Remove one of them."
            )
