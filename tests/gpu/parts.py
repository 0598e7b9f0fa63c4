"""Parts of a check, each of which fails alone."""

import logging
from collections.abc import Callable, Mapping
from typing import Any


def run_parts(parts: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, Any]:
    """The report of each part, or its error, and whether all passed."""
    report: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            report[name] = part()
        except Exception as error:  # a part failing must not hide the others
            logging.getLogger(__name__).exception("%s failed", name)
            report[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        print(f"{name}: {report[name]}")
    report["passed"] = not any("error" in part for part in report.values())
    return report
