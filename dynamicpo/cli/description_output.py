"""The description of an input as lines of text, with settings to paste."""

import argparse
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynamicpo.data.description import DataDescription


def description_lines(result: "DataDescription", _: argparse.Namespace) -> list[str]:
    """The content of an input, its problems, and the settings that read it."""
    lines = [_first_line(result), ""]
    lines.append(f"{'column':<24} {'type':<16} {'missing':>9} {'distinct':>9}  examples")
    for column in result["columns"]:
        examples = ", ".join(column["examples"])
        lines.append(
            f"{column['name']:<24} {column['type']:<16} {column['missing']:>9} "
            f"{column['distinct']:>9}  {examples}".rstrip()
        )
    lines.append("")
    counts = [f"{name} {count}" for name, count in result["counts"].items()]
    if counts:
        lines.append(f"{result['holds']}: {', '.join(counts)}")
    if result["times"]:
        first, last, unit = result["times"]
        lines.append(f"times: {first} to {last}, written as {unit}")
    lines += [f"problem: {problem}" for problem in result["problems"]]
    return [*lines, *_setting_lines(result["settings"])]


def _first_line(result: "DataDescription") -> str:
    parts = [result["format"]]
    if result["delimiter"]:
        header = "a header" if result["header"] else "no header"
        parts += [f"delimiter {result['delimiter']!r}", header]
    if result["encoding"]:
        parts.append(result["encoding"])
    files = "" if result["files"] == 1 else f" in {result['files']} files"
    return f"{result['input']}: {', '.join(parts)}, {result['rows']} rows{files}"


def _setting_lines(settings: dict[str, str]) -> list[str]:
    if not settings:
        return ["settings: none are needed"]
    import yaml  # 20 ms, which other commands need not wait for

    flags = [f"--{name.replace('_', '-')} {shlex.quote(text)}" for name, text in settings.items()]
    # One line a setting, however long: a folded one would not be read by all.
    text = yaml.safe_dump(settings, sort_keys=False, width=10_000, allow_unicode=True)
    return ["settings, as flags:", " ".join(flags), "and in YAML:", *text.splitlines()]
