"""Numbers as a reader sees them, in charts, tables and sentences alike."""

import math
import re
from collections.abc import Sequence


def format_number(value: float) -> str:
    """A number for a reader: `.286`, `12.35`, `1,682`, `2e−5`; `–` for one that is missing."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    magnitude = abs(value)
    is_tiny = 0 < magnitude < 5e-4
    if is_tiny or magnitude >= 1e9:
        return typeset(f"{value:.2g}")
    decimals = _decimals(magnitude)
    return typeset(f"{value:,.{decimals}f}")


def _decimals(magnitude: float) -> int:
    """Digits after the point, so that three or four digits are significant."""
    if magnitude < 10:
        return 3
    if magnitude < 100:
        return 2
    return 1 if magnitude < 1000 else 0


def format_interval(low: float, high: float) -> str:
    """`[.270, .302]`, or nothing where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{format_number(low)}, {format_number(high)}]"


def format_signed(value: float) -> str:
    """A difference: `+.129`, `−.012`."""
    text = format_number(value)
    return f"+{text}" if value > 0 else text


def format_p_value(value: float) -> str:
    """`.021`, `< .001`."""
    return "< .001" if value < 0.001 else format_number(value)


def format_count(value: float) -> str:
    """`1,682`; a dash where it is missing."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def format_percent(share: float) -> str:
    """`25 %` of .25; a dash where it is missing."""
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def typeset(text: str) -> str:
    """A printed number without its leading zero, with a short exponent and a true minus sign."""

    def short_exponent(match: re.Match[str]) -> str:
        sign = match[1].strip("+")
        return f"e{sign}"

    text = re.sub(r"e([+-])0*", short_exponent, text)
    text = re.sub(r"^(-?)0\.", r"\1.", text)
    return text.replace("-", "−")


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The shortest labels of one format that say exactly where the ticks are."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    is_tiny = 0 < largest < 1e-3
    presentation = "g" if is_tiny or largest >= 1e6 else "f"
    labels = _shortest_exact(ticks, presentation, _smallest_step(ticks, largest))
    if presentation == "f":
        labels = [_without_trailing_zeros(label) for label in labels]
    return [typeset(label) for label in labels]


def _smallest_step(ticks: Sequence[float], default: float) -> float:
    """The smallest distance of two neighbouring ticks; the default for fewer than two."""
    neighbours = zip(ticks, ticks[1:], strict=False)
    steps = [after - before for before, after in neighbours]
    return min(steps, default=default)


def _shortest_exact(ticks: Sequence[float], presentation: str, step: float) -> list[str]:
    """The ticks with as few digits as place each within a fiftieth of a step of its value."""
    labels: list[str] = []
    # A double has no more than 16 significant digits to show.
    for digits in range(16):
        labels = [f"{tick:,.{digits}{presentation}}" for tick in ticks]
        shown = [float(label.replace(",", "")) for label in labels]
        errors = [abs(value - tick) for value, tick in zip(shown, ticks, strict=True)]
        if all(error <= step / 50 for error in errors):
            break
    return labels


def _without_trailing_zeros(label: str) -> str:
    if "." not in label:
        return label
    return label.rstrip("0").rstrip(".")
