"""Damage of values and bytes, whatever file they are in; all by a seeded generator."""

import copy
import random
from collections.abc import Sequence
from typing import Any

LARGE = (2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308)
TEXTS = (
    *("", " ", "0", "text", "-1", "NaN", "a" * 10_000, "é\u0301\u200b", "\x00", "../../etc/passwd"),
    *("\x1b]8;;http://x\x07y\x1b]8;;\x07", "\x9b2J", "a\rb\nc", "\u202eabc", "{{$.x}}", "\ud800"),
    *("1e999", "9" * 5000, "i1", "Film 3", "<script>"),
)
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 0.5, -1.5, float("nan"), float("inf"), [], {}, [None]),
    *({"a": [1]}, [[1, 2]], ["x"], *LARGE, *TEXTS),
)
# Pieces that have meaning in some format.
_PIECES = (
    *(b'"', b"\\", b"\n", b"\r", b",", b":", b"{", b"}", b"[", b"]", b"\0", b"\xff", b"\xc3"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"NaN", b"null", b"1e400", b"-1", b"- ", b"&a *a", b"!!python"),
    *(b"\x1b[2J", b"x" * 5000, b"[" * 5000, b"PK\x03\x04", b"PAR1"),
)


def damaged_bytes(raw: bytes, rng: random.Random, pieces: Sequence[bytes] = _PIECES) -> bytes:
    """Change a few places: bytes, pieces with a meaning, parts cut, doubled or moved."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.randint(1, 40))
        change = rng.randrange(12)
        if change < 4 and at < len(data):
            data[at] = rng.randrange(256)
        elif change < 7:
            data[at:at] = rng.choice(pieces)
        elif change < 9:
            del data[at:end]
        elif change < 11:
            data[at:at] = data[at:end]
        else:
            del data[at:]
    return bytes(data)


def damaged_value(value: Any, rng: random.Random) -> Any:
    """A copy of JSON-like content with one or two places changed."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = _places(root)
        # The first change may have removed all of it.
        if places:
            _damage(*rng.choice(places), rng)
    return root[0] if root else None


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Every place in nested lists and mappings, as its holder and its key there."""
    places = []
    pending = [root]
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], (dict, list)):
                pending.append(holder[key])
    return places


def _damage(holder: Any, key: Any, rng: random.Random) -> None:
    change = rng.randrange(10)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[rng.choice([text for text in TEXTS if isinstance(text, str)])] = holder.pop(key)
    elif change == 2:
        holder[key] = [holder[key]]
    elif change == 3 and isinstance(holder[key], (int, float)):
        holder[key] = rng.choice((-holder[key], holder[key] + 1, *LARGE))
    elif change == 4 and isinstance(holder[key], str):
        holder[key] = damaged_text(holder[key], rng)
    else:
        holder[key] = copy.deepcopy(rng.choice(ODD))


def damaged_text(text: str, rng: random.Random) -> str:
    """A text with an odd piece somewhere in it."""
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(TEXTS) + text[at:]
