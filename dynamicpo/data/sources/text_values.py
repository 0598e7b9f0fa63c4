"""Text of ids: spaces around it, characters that do not show, and markers of missing values."""

import re

import ibis
import ibis.expr.types as ir

# Texts that programs write where a value is missing: pandas, R, Hive, databases; then what
# spreadsheets write where a formula fails.
_MARKERS = (
    *("", "nan", "-nan", "nat", "none", "null", "nil", "undefined", "na", "n/a", "\\n", "''", '""'),
    *("<na>", "<null>", "<none>", "(null)", "(none)", "[null]", "1.#qnan", "-1.#ind"),
    *("#n/a", "#na", "#n/a n/a", "#ref!", "#value!", "#name?", "#num!", "#null!", "#div/0!"),
)
# Each program has its own idea of which letters are large.
_IN_CASES = [(mark, mark.upper(), mark.capitalize()) for mark in _MARKERS]
MISSING = (*dict.fromkeys(text for texts in _IN_CASES for text in texts), "NaN", "-NaN", "NaT")
# White space of any kind, controls, marks without width, letters without a glyph, and what joins
# letters, of which there are none on one side.
_BLANKS = (
    r"\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180e\u2000-\u200f"
    r"\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufeff\uffa0"
)
_AROUND = re.compile(f"^[{_BLANKS}]+|[{_BLANKS}]+$")
# The same for DuckDB, whose engine of regular expressions writes code points in its own way.
_BLANKS_RE2 = re.sub(r"\\[xu]([0-9a-f]{2,4})", r"\\x{\1}", _BLANKS)
_AROUND_RE2 = f"^[{_BLANKS_RE2}]+|[{_BLANKS_RE2}]+$"
# Within an id, too, these can only be a mistake; spaces can not.
HIDDEN_RE2 = (
    r"[\x{00}-\x{1f}\x{7f}-\x{9f}\x{ad}\x{61c}\x{180e}\x{200b}\x{200e}\x{200f}\x{2028}-\x{202e}"
    r"\x{2060}-\x{206f}\x{feff}]"
)
_USUAL_MARKERS = "usual"
_USUAL = "[!-~]+"


def missing_markers(setting: str) -> tuple[str, ...]:
    """The texts that mean that a value is missing, from a list with commas or "usual"."""
    if setting == _USUAL_MARKERS:
        return MISSING
    written = setting.split(",")
    markers = [marker.strip() for marker in written]
    return ("", *markers)


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
