"""The page of formulas shows lines that are really there."""

from pathlib import Path

import pytest

from tests.fixtures.formulas import formula_rows, lines_of, page_text

FOLDER = Path(__file__).resolve().parents[3] / "dynamicpo" / "metrics"
ROWS = formula_rows(FOLDER)


@pytest.mark.parametrize(("line", "module"), ROWS)
def test_the_line_beside_a_formula_is_in_its_file(line: str, module: str) -> None:
    assert line in lines_of(FOLDER / module)


def test_the_page_covers_every_module_of_the_metrics() -> None:
    assert {module for _, module in ROWS} == {
        "beyond_accuracy.py",
        "bootstrap.py",
        "generated_answers.py",
        "intervals.py",
        "ranking.py",
    }
    assert len(ROWS) == page_text(FOLDER).count("| [")
