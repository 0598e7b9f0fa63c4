"""Numbers and names as a reader sees them, in charts and tables alike."""

import math
import re
import unicodedata
from collections.abc import Sequence


def number(value: float) -> str:
    """A number for a reader: `.286`, `12.35`, `1,682`, `2e−5`; `–` for one that is missing."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if 0 < size < 5e-4 or size >= 1e9:
        return typeset(f"{value:.2g}")
    decimals = 3 if size < 10 else 2 if size < 100 else 1 if size < 1000 else 0
    return typeset(f"{value:,.{decimals}f}")


def interval(low: float, high: float) -> str:
    """`[.270, .302]`, or nothing where there is no interval."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{number(low)}, {number(high)}]"


def typeset(text: str) -> str:
    """A printed number without its leading zero, with a short exponent and a true minus sign."""
    text = re.sub(r"e([+-])0*", lambda found: "e" + found[1].strip("+"), text)
    return re.sub(r"^(-?)0\.", r"\1.", text).replace("-", "−")


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The shortest labels of one kind that say exactly where the ticks are."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    step = min((b - a for a, b in zip(ticks, ticks[1:], strict=False)), default=largest)
    kind = "g" if 0 < largest < 1e-3 or largest >= 1e6 else "f"
    for digits in range(16):
        texts = [f"{tick:,.{digits}{kind}}" for tick in ticks]
        if all(
            abs(float(text.replace(",", "")) - tick) <= step / 50
            for text, tick in zip(texts, ticks, strict=True)
        ):
            break
    return [
        typeset(text if kind == "g" or "." not in text else text.rstrip("0").rstrip("."))
        for text in texts
    ]


def one_line(text: str) -> str:
    """Text on one line, without control characters (an SVG may not hold them)."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def columns(text: str) -> int:
    """How wide a text is in letters; Chinese, Japanese and Korean ones count twice, combining marks not at all."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def shorten(text: str, room: int) -> str:
    """Text on one line of at most `room` columns, with the middle left out where it is longer."""
    text = one_line(text)
    if len(text) <= 2 * room and columns(text) <= room:
        return text
    head, tail = text[:room], text[-room:]
    while columns(head) > room // 2:
        head = head[:-1]
    while columns(tail) > room - room // 2 - 1:
        tail = tail[1:]
    return f"{head}…{tail}"


def short_names(names: Sequence[str], room: int = 40) -> list[str]:
    """Names on one line of at most `room` columns, all different (numbered where the shortened ones are not)."""
    short = [shorten(name, room) or "(no name)" for name in names]
    return [
        f"{place + 1} {name}" if short.count(name) > 1 else name for place, name in enumerate(short)
    ]
