"""Results of the commands on versions as lines of text."""

import argparse
import json

from dynamicpo.cli.commands.versions import (
    DecisionResult,
    ListedVersion,
    MoveEntry,
    PublishedVersion,
    RegisteredVersion,
    ShownVersion,
    VersionList,
)
from dynamicpo.cli.results import DriftOutcome, GateOutcome
from dynamicpo.core.model_names import short_version


def gate_lines(result: GateOutcome, _: argparse.Namespace) -> list[str]:
    """The decision and its reasons, and the folder."""
    return [*result["reasons"], result["output"]]


def drift_lines(result: DriftOutcome, _: argparse.Namespace) -> list[str]:
    """The verdict, and the folder."""
    return [result["verdict"], result["output"]]


def published_lines(result: PublishedVersion, _: argparse.Namespace) -> list[str]:
    """The version's URI and its name, which scripts take by `tail -1`."""
    return [result["uri"], result["version"]]


def registered_lines(result: RegisteredVersion, _: argparse.Namespace) -> list[str]:
    """The registered version, and whether it was there before."""
    version = short_version(result["version"])
    state = "registered" if result["is_new"] else "was registered before"
    return [f"{result['model']} {version}: {state}, {result['uri']}"]


def decision_lines(result: DecisionResult, _: argparse.Namespace) -> list[str]:
    """The champion, and what it replaced."""
    champion = short_version(result["champion"])
    previous = short_version(result["previous"]) or "none"
    if result["has_moved"]:
        lines = [f"champion: {champion} (before: {previous})"]
    else:
        lines = [f"champion: {champion}, as before"]
    return [*lines, *(f"deleted: {short_version(name)}" for name in result["deleted"])]


def version_list_lines(result: VersionList, arguments: argparse.Namespace) -> list[str]:
    """A line for each version, and one for each move of the champion."""
    if not result["versions"] and not result["moves"]:
        return [f"no versions in {arguments.store}"]
    versions = [_version_line(version) for version in result["versions"]]
    moves = [_move_line(move) for move in result["moves"]]
    return [*versions, "", *moves]


def shown_version_lines(result: ShownVersion, _: argparse.Namespace) -> list[str]:
    """The card as JSON, and where the version is."""
    card = json.dumps(result["card"], indent=1, sort_keys=True, ensure_ascii=False)
    return [card, result["output"] or result["uri"]]


def _version_line(version: ListedVersion) -> str:
    mark = "*" if version["is_champion"] else " "
    hit_ratio = version["hit_ratio_at_1"]
    figure = "–" if hit_ratio is None else f"{hit_ratio:.3f}"
    line = f"{mark} {short_version(version['version'])}  {version['model']:<24} HitRatio@1 {figure}"
    if "forgotten_users" in version:
        line += f"  forgotten users: {version['forgotten_users']}"
    return line


def _move_line(move: MoveEntry) -> str:
    name = short_version(move["version"])
    return f"{move['time']}  {move['kind']:<9}  {name}  {move['who']}: {move['why']}"
