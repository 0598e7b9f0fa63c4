"""Text of ids: spaces around it, characters that do not show, and markers of missing values."""

import re

import ibis
import ibis.expr.types as ir

# Texts that programs write where a value is missing: pandas, R, Hive, spreadsheets, databases.
MISSING = (
    *(
        "",
        "nan",
        "NaN",
        "NAN",
        "-nan",
        "NaT",
        "None",
        "none",
        "null",
        "NULL",
        "Null",
        "<NA>",
        "<null>",
    ),
    *("NA", "N/A", "n/a", "#N/A", "#NA", "\\N", "(null)", "nil", "undefined"),
)
# White space of any kind, controls, and marks without width. U+200C and U+200D join letters.
_BLANKS = (
    r"\x00-\x20\x7f-\xa0\xad\u1680\u180e\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f"
    r"\u2800\u3000\u3164\ufeff"
)
_AROUND = re.compile(f"^[{_BLANKS}]+|[{_BLANKS}]+$")
# The same for DuckDB, whose engine of regular expressions writes code points in its own way.
_BLANKS_RE2 = re.sub(r"\\[xu]([0-9a-f]{2,4})", r"\\x{\1}", _BLANKS)
_AROUND_RE2 = f"^[{_BLANKS_RE2}]+|[{_BLANKS_RE2}]+$"
# Within an id, too, these can only be a mistake; spaces can not.
HIDDEN_RE2 = (
    r"[\x{00}-\x{1f}\x{7f}-\x{9f}\x{ad}\x{200b}\x{200e}\x{200f}\x{2028}-\x{202e}"
    r"\x{2060}-\x{206f}\x{feff}]"
)
_USUAL_MARKERS = "usual"
_USUAL = "[!-~]+"


def missing_markers(setting: str) -> tuple[str, ...]:
    """The texts that mean that a value is missing, from a list with commas or "usual"."""
    if setting == _USUAL_MARKERS:
        return MISSING
    return ("", *(marker.strip() for marker in setting.split(",")))


def trim(text: str) -> str:
    """A text without what does not show around it."""
    return _AROUND.sub("", text)


def trimmed(column: ir.StringValue) -> ir.StringValue:
    """A text column without what does not show around its values."""
    # Most ids are of visible ASCII characters, which is quick to see.
    is_usual = column.re_search(f"^{_USUAL}$")
    return ibis.ifelse(is_usual, column, column.re_replace(_AROUND_RE2, ""))


def null_if_missing(column: ir.StringValue, missing: tuple[str, ...] = MISSING) -> ir.StringValue:
    """A text column without spaces around, null where the text says that a value is missing."""
    text = trimmed(column)
    return ibis.ifelse(text.isin(missing), None, text)
