"""The page of formulas shows lines that are really there."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "dynamicpo" / "objective"
ROWS = re.findall(
    r"^\|[^`]*\| `(.+)` \| \[(\w+\.py)\]\(\2\) \|$",
    (FOLDER / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize(("line", "module"), ROWS)
def test_the_line_beside_a_formula_is_in_its_file(line: str, module: str) -> None:
    lines = [text.strip() for text in (FOLDER / module).read_text(encoding="utf-8").splitlines()]
    assert line.replace("\\|", "|") in lines


def test_the_page_covers_every_module_of_the_mathematics() -> None:
    assert {module for _, module in ROWS} == {
        "boundary.py",
        "losses.py",
        "objective.py",
        "metrics.py",
        "intervals.py",
    }
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert len(ROWS) == text.count("| [")
