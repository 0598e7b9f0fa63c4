"""Numbers as a reader sees them, in charts, tables and sentences alike."""

import math
import re
from collections.abc import Sequence
from itertools import pairwise

# Sign and zeros of an exponent, as in 2e-05.
_EXPONENT = re.compile(r"e([+-])0*")
_LEADING_ZERO = re.compile(r"^(-?)0\.")


def format_number(value: float) -> str:
    """A number for a reader: `.286`, `12.35`, `1,682`, `2e−5`; `–` for one that is missing."""
    if math.isnan(value):
        return "–"
    if value == math.inf:
        return "∞"
    if value == -math.inf:
        return "−∞"
    magnitude = abs(value)
    # Three decimals would show it as zero.
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
    bounds = (format_number(low), format_number(high))
    return f"[{', '.join(bounds)}]"


def format_signed(value: float) -> str:
    """A difference: `+.129`, `−.012`."""
    text = format_number(value)
    return f"+{text}" if value > 0 else text


def format_p_value(value: float) -> str:
    """`.021`, `< .001`."""
    # As statistics are usually reported: the digits of a smaller one say nothing.
    return "< .001" if value < 0.001 else format_number(value)


def format_count(value: float) -> str:
    """`1,682`; a dash where it is missing."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def format_percent(share: float) -> str:
    """`25 %` of .25; a dash where it is missing."""
    return "–" if math.isnan(share) else f"{100 * share:.0f} %"


def typeset(text: str) -> str:
    """A printed number without its leading zero, with a short exponent and a true minus sign."""
    text = _EXPONENT.sub(_short_exponent, text)
    text = _LEADING_ZERO.sub(r"\1.", text)
    return text.replace("-", "−")


def _short_exponent(match: re.Match[str]) -> str:
    sign = match[1]
    return "e-" if sign == "-" else "e"


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The shortest labels of one format that say exactly where the ticks are."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    # Exponents where decimals would fill the margin.
    is_tiny = 0 < largest < 1e-3
    step = _smallest_step(ticks, largest)
    if is_tiny or largest >= 1e6:
        labels = _shortest_exact(ticks, "g", step)
    else:
        fixed = _shortest_exact(ticks, "f", step)
        labels = [_without_trailing_zeros(label) for label in fixed]
    return [typeset(label) for label in labels]


def _smallest_step(ticks: Sequence[float], default: float) -> float:
    """The smallest distance of two neighbouring ticks; the default for fewer than two."""
    steps = []
    for before, after in pairwise(ticks):
        steps.append(after - before)
    return min(steps, default=default)


def _shortest_exact(ticks: Sequence[float], presentation: str, step: float) -> list[str]:
    """The ticks with as few digits as place each within a fiftieth of a step of its value."""
    # Less than a reader can see between two ticks.
    tolerance = step / 50
    labels: list[str] = []
    # A double has no more than 16 significant digits to show.
    for digits in range(16):
        specification = f",.{digits}{presentation}"
        labels = [format(tick, specification) for tick in ticks]
        if _largest_error(labels, ticks) <= tolerance:
            break
    return labels


def _largest_error(labels: Sequence[str], ticks: Sequence[float]) -> float:
    errors = [0.0]
    for label, tick in zip(labels, ticks, strict=True):
        shown = float(label.replace(",", ""))
        errors.append(abs(shown - tick))
    return max(errors)


def _without_trailing_zeros(label: str) -> str:
    if "." not in label:
        return label
    return label.rstrip("0").rstrip(".")
