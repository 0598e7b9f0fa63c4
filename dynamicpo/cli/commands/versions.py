"""The commands on versions of a recommender: publish, promote, roll back, list and show."""

import argparse
import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from dynamicpo.core.errors import ConfigError
from dynamicpo.core.json_values import JsonValue

if TYPE_CHECKING:
    from dynamicpo.promotion.champion import Decision, Move, Reason
    from dynamicpo.promotion.version_cards import VersionCard

_NONE = "none"
_MAIN_METRICS = ("hit_ratio_at_1", "ndcg_at_10")  # how their names end, of each split


class PublishedVersion(TypedDict):
    """The result of `publish-version`."""

    version: str
    uri: str


class DecisionResult(TypedDict):
    """The result of `promote` and `roll-back`.

    Attributes:
        champion: The champion now.
        previous: The champion before; "" where there was none.
        has_moved: False where it was the champion already.
        deleted: The versions that were deleted for `--keep`.
    """

    champion: str
    previous: str
    has_moved: bool
    deleted: list[str]


class ListedVersion(TypedDict):
    """A version in the list.

    Attributes:
        version: Its name.
        model: The name of its model in the evaluation.
        is_champion: It is served.
        hit_ratio_at_1: On the rows of its evaluation.
        forgotten_users: How many of the users in the file its training rows had.
    """

    version: str
    model: str
    is_champion: bool
    hit_ratio_at_1: float | None
    forgotten_users: NotRequired[int]


class MoveEntry(TypedDict):
    """A move of the champion."""

    number: int
    kind: str
    version: str
    time: str
    who: str
    why: str
    numbers: dict[str, JsonValue]


class VersionList(TypedDict):
    """The result of `list-versions`: the oldest version and the oldest move first."""

    versions: list[ListedVersion]
    moves: list[MoveEntry]


class ShownVersion(TypedDict):
    """The result of `show-version`."""

    version: str
    uri: str
    card: "VersionCard"
    output: str


class RegisteredVersion(TypedDict):
    """The result of `register-version`.

    Attributes:
        model: The registered model that it belongs to.
        version: Its name, in the registry too.
        uri: Where its files are.
        is_new: False where all of it was registered before.
    """

    model: str
    version: str
    uri: str
    is_new: bool


def publish_version(arguments: argparse.Namespace) -> PublishedVersion:
    """Publish a trained model as a version."""
    from dynamicpo.promotion import versions

    source = versions.VersionSource(
        model=Path(arguments.model),
        evaluation=Path(arguments.evaluation),
        preferences=Path(arguments.preferences),
        licence=arguments.licence,
    )
    version = versions.make_version(source, arguments.store)
    return {"version": version.name, "uri": version.uri}


def promote(arguments: argparse.Namespace) -> DecisionResult:
    """Make a version the champion."""
    # Before the champion moves: afterwards the user would take it for one that had not.
    if arguments.keep is not None and arguments.keep < 1:
        raise ConfigError(f"--keep: must be at least 1 version, got {arguments.keep}.")
    from dynamicpo.promotion import champion
    from dynamicpo.promotion.versions import find_version

    store = arguments.store
    name = find_version(store, arguments.version)
    reason, expected = _grounds(arguments, name)
    decision = champion.promote_version(store, name, reason, expected)
    result = _decision_result(decision)
    if arguments.keep is not None:
        result["deleted"] = champion.delete_old_versions(store, arguments.keep)
    return result


def roll_back(arguments: argparse.Namespace) -> DecisionResult:
    """Make the champion's predecessor the champion again."""
    from dynamicpo.promotion import champion

    expected = _expected(arguments)
    line = champion.champions(champion.read_moves(arguments.store))
    reason = _reason(arguments, line[-2:])
    decision = champion.roll_back_champion(arguments.store, reason, expected)
    return _decision_result(decision)


def list_versions(arguments: argparse.Namespace) -> VersionList:
    """List versions and the champion's moves."""
    from dynamicpo.promotion.champion import read_moves
    from dynamicpo.promotion.versions import published_names

    moves = read_moves(arguments.store)
    current = moves[-1].version if moves else ""
    names = published_names(arguments.store)
    entries = [_listed_version(arguments.store, name, current) for name in names]
    if arguments.forgotten:
        _add_forgotten(arguments, entries)
    return {"versions": entries, "moves": [_move_entry(move) for move in moves]}


def show_version(arguments: argparse.Namespace) -> ShownVersion:
    """Show a version's card, and copy the version for serving where that was asked for."""
    from dynamicpo.promotion.champion import named_version
    from dynamicpo.promotion.versions import fetch_version, read_version

    name = named_version(arguments.store, arguments.version)
    version = read_version(arguments.store, name)
    if arguments.output:
        fetch_version(arguments.store, name, Path(arguments.output))
    return {
        "version": name,
        "uri": version.uri,
        "card": version.card,
        "output": arguments.output or "",
    }


def register_version(arguments: argparse.Namespace) -> RegisteredVersion:
    """Register a version with Kubeflow Model Registry."""
    from dynamicpo.promotion import registration
    from dynamicpo.promotion.champion import named_version
    from dynamicpo.runs.cluster.credentials import Credentials, check_url

    server = check_url("--registry", arguments.registry)
    headers = Credentials(arguments.token_file or "").headers
    token = headers.get("Authorization", "").removeprefix("Bearer ")
    place = registration.RegistryPlace(server, arguments.name, token)
    name = named_version(arguments.store, arguments.version)
    author = arguments.who or _account()
    registered = registration.add_to_registry(arguments.store, name, place, author)
    return {
        "model": registered.model,
        "version": registered.version,
        "uri": registered.uri,
        "is_new": registered.is_new,
    }


def _grounds(arguments: argparse.Namespace, name: str) -> "tuple[Reason, str | None]":
    """The reason of a promotion, and the champion that it was decided against."""
    if arguments.decision:
        return _decided(arguments, name)
    from dynamicpo.promotion.champion import champions, read_moves

    line = champions(read_moves(arguments.store))
    return _reason(arguments, [*line[-1:], name]), _expected(arguments)


def _reason(arguments: argparse.Namespace, versions: Sequence[str]) -> "Reason":
    """The reason that the user gives, with the figures of the versions that the move is about."""
    from dynamicpo.promotion.champion import Reason

    if not arguments.why:
        raise ConfigError("--why or --decision: must be given, for the history.")
    numbers = _card_figures(arguments.store, versions)
    return Reason(who=arguments.who or _account(), why=arguments.why, numbers=numbers)


def _card_figures(store: str, versions: Sequence[str]) -> dict[str, JsonValue]:
    """The main figures of some versions, as their cards have them, each on rows of its own."""
    from dynamicpo.promotion.versions import is_published, read_version

    figures: dict[str, JsonValue] = {}
    for name in versions:
        if is_published(store, name):
            metrics = read_version(store, name).card["metrics"]
            main = {key: value for key, value in metrics.items() if key.endswith(_MAIN_METRICS)}
            figures[name] = dict(main)
    return figures


def _decided(arguments: argparse.Namespace, name: str) -> "tuple[Reason, str]":
    """The reason of a gate's decision, and the champion that it was made against."""
    from dynamicpo.promotion.champion import Reason
    from dynamicpo.promotion.gate import read_decision
    from dynamicpo.promotion.versions import read_version

    if arguments.why or arguments.expected is not None:
        raise ConfigError("--decision: says why and against whom. Leave --why and --expected out.")
    version = read_version(arguments.store, name)
    decision = read_decision(Path(arguments.decision), version)
    reason = Reason(who=arguments.who or _account(), why=decision["reasons"][0], numbers=decision)
    return reason, decision["champion"]


def _account() -> str:
    try:
        return getpass.getuser()
    # A container's user need not have a name.
    except (KeyError, OSError) as error:
        raise ConfigError("--who: must be given, but this account has no name.") from error


def _expected(arguments: argparse.Namespace) -> str | None:
    """The name of the champion that the user expects; "" for none, None for any."""
    from dynamicpo.promotion.versions import find_version

    if arguments.expected is None:
        return None
    return "" if arguments.expected == _NONE else find_version(arguments.store, arguments.expected)


def _decision_result(decision: "Decision") -> DecisionResult:
    return {
        "champion": decision.champion,
        "previous": decision.previous,
        "has_moved": decision.has_moved,
        "deleted": [],
    }


def _listed_version(store: str, name: str, current: str) -> ListedVersion:
    from dynamicpo.promotion.versions import read_version

    card = read_version(store, name).card
    split = card["protocol"].get("split", "test")
    return {
        "version": name,
        "model": card["model"],
        "is_champion": name == current,
        "hit_ratio_at_1": card["metrics"].get(f"{split}_hit_ratio_at_1"),
    }


def _add_forgotten(arguments: argparse.Namespace, entries: list[ListedVersion]) -> None:
    """Count the users of a file that each version's training rows had."""
    from dynamicpo.data.sources.user_ids import UserIds, hash_key, read_forgotten
    from dynamicpo.promotion.trained_users import count_trained_users
    from dynamicpo.promotion.versions import version_uri

    key = hash_key(arguments.hash_key_file) if arguments.hash_users else None
    user_ids = UserIds(key)
    users = [user_ids.hashed(user) for user in read_forgotten(Path(arguments.forgotten))]
    for entry in entries:
        uri = version_uri(arguments.store, entry["version"])
        entry["forgotten_users"] = count_trained_users(uri, users)


def _move_entry(move: "Move") -> MoveEntry:
    return {
        "number": move.number,
        "kind": move.kind,
        "version": move.version,
        "time": move.time,
        "who": move.reason.who,
        "why": move.reason.why,
        "numbers": dict(move.reason.numbers),
    }
