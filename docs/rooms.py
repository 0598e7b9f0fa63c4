"""Draws rooms.svg, the picture in architecture.md: `python docs/rooms.py`."""

from html import escape
from pathlib import Path
from typing import NamedTuple

PICTURE = Path(__file__).with_name("rooms.svg")


class Floor(NamedTuple):
    """A row of the picture.

    Attributes:
        title: What its rooms have in common.
        colour: Fill of its boxes.
        rooms: Each room's name and its content, in the order of imports.
    """

    title: str
    colour: str
    rooms: dict[str, str]


# From the top of the picture to its bottom. The rooms of a floor stand in the order of imports.
FLOORS = [
    Floor(
        "definitions that Kubeflow and local runs share",
        "#e8e4f3",
        {
            "components/": "each stage as a Kubeflow component",
            "pipelines/": "which artifact feeds which",
        },
    ),
    Floor(
        "what starts stages and pipelines",
        "#e8e4f3",
        {
            "runs": "parameters, local runs, Kubeflow, images",
            "cli": "flags, commands, exit codes",
        },
    ),
    Floor(
        "stages: from files and a configuration to files",
        "#dcebf7",
        {
            "data": "interactions to examples",
            "negatives": "candidate lists, audit",
            "training": "SFT, preferences",
            "evaluation": "ranks, baselines",
            "monitoring": "drift",
            "promotion": "versions",
            "study": "collapse study",
        },
    ),
    Floor(
        "language models, and pages to look at",
        "#e0f0e0",
        {
            "scoring": "shared prompts, kernels",
            "prompts": "templates, token ids",
            "models": "backbones, checkpoints",
            "reports": "charts, pages",
        },
    ),
    Floor(
        "mathematics, and what all share",
        "#fbeed5",
        {
            "core": "configuration, files, draws",
            "objective": "losses, boundary, beta (torch)",
            "metrics": "ranking, intervals (NumPy)",
            "distributed": "several processes",
        },
    ),
]
_LEFT = 60
_WIDTH = 860
_GAP = 10
_TITLE_HEIGHT = 22
_BOX_HEIGHT = 58
_FLOOR_HEIGHT = _TITLE_HEIGHT + _BOX_HEIGHT + 16
_WORD_WIDTH = 6.1  # of a character of the small text, on average


def draw() -> str:
    """The picture as SVG."""
    height = 20 + len(FLOORS) * _FLOOR_HEIGHT + 24
    width = _LEFT + _WIDTH + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" role="img" '
        'aria-label="The rooms of the package; imports go down, and to the left">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for index, floor in enumerate(FLOORS):
        parts += _draw_floor(floor, 12 + index * _FLOOR_HEIGHT)
    parts += _draw_arrow(height)
    return "\n".join([*parts, "</svg>", ""])


def _draw_floor(floor: Floor, top: int) -> list[str]:
    parts = [_text(_LEFT, top + 14, 13, floor.title, "#555")]
    width = (_WIDTH - _GAP * (len(floor.rooms) - 1)) / len(floor.rooms)
    for index, (name, content) in enumerate(floor.rooms.items()):
        left = _LEFT + index * (width + _GAP)
        box_top = top + _TITLE_HEIGHT
        parts.append(
            f'<rect x="{left:.0f}" y="{box_top}" width="{width:.0f}" height="{_BOX_HEIGHT}" '
            f'rx="5" fill="{floor.colour}" stroke="#888"/>'
        )
        parts.append(_text(left + 9, box_top + 20, 14, name, "#111", "bold"))
        lines = _wrapped(content, (width - 14) / _WORD_WIDTH)
        for number, line in enumerate(lines):
            parts.append(_text(left + 9, box_top + 36 + 14 * number, 12, line, "#333"))
    return parts


def _draw_arrow(height: int) -> list[str]:
    """The arrow beside the floors, with the rule of imports under them."""
    end = height - 44
    return [
        f'<path d="M34 24V{end}" stroke="#555" stroke-width="2" fill="none"/>',
        f'<path d="M27 {end - 2}h14l-7 13z" fill="#555"/>',
        _text(16, height - 14, 13, "Imports go down, and within a row to the left.", "#555"),
    ]


def _wrapped(text: str, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if len(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _text(x: float, y: float, size: int, text: str, colour: str, weight: str = "normal") -> str:
    return (
        f'<text x="{x:.0f}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{colour}">'
        f"{escape(text)}</text>"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
