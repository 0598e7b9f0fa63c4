"""The flags of the commands on versions of a recommender."""

import argparse
from collections.abc import Callable

# A command's name and its help text to its parser.
Add = Callable[[str, str], argparse.ArgumentParser]


def add_version_commands(add: Add) -> None:
    """Add the commands that publish, promote, roll back, list and show versions."""
    _add_publish(add("publish-version", "publish a trained model as an immutable version"))
    _add_promote(add("promote", "make a version the champion (exit code 3 if somebody was first)"))
    _add_roll_back(add("roll-back", "make the champion's predecessor the champion again"))
    _add_list(add("list-versions", "list versions and the moves of the champion"))
    _add_show(add("show-version", "show a version's card, or copy the version for serving"))
    _add_register(add("register-version", "register a version with Kubeflow Model Registry"))
    _add_version_store(add("list-retrainings", "list the decisions of retraining, and why"))


def _add_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="output of sft or train-preferences"
    )
    parser.add_argument(
        "--evaluation", required=True, metavar="PATH", help="an evaluation of this model"
    )
    parser.add_argument(
        "--preferences", required=True, metavar="PATH", help="the rows that it was trained on"
    )
    parser.add_argument(
        "--licence", default="", metavar="TEXT", help="under which the model may be used"
    )
    _add_version_store(parser)


def _add_promote(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="its name, or the beginning of it")
    parser.add_argument(
        "--decision",
        metavar="PATH",
        help="output of judge-challenger: against its champion, for its reasons, with its figures "
        "(exit code 3 where it says: keep)",
    )
    parser.add_argument(
        "--keep", type=int, metavar="N", help="then delete all but the newest N versions"
    )
    _add_reason(parser, is_required=False)
    _add_version_store(parser)


def _add_roll_back(parser: argparse.ArgumentParser) -> None:
    _add_reason(parser, is_required=True)
    _add_version_store(parser)


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--forgotten", metavar="FILE", help="ids of users: count those whom a version was shown"
    )
    parser.add_argument(
        "--hash-users", action="store_true", help="data preparation hashed the ids of users"
    )
    parser.add_argument(
        "--hash-key-file",
        default="",
        metavar="FILE",
        help="holds the key of the hashes (default: DYNAMICPO_HASH_KEY)",
    )
    _add_version_store(parser)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="its name, or: champion")
    parser.add_argument("--output", metavar="PATH", help="folder to copy it to, checked")
    _add_version_store(parser)


def _add_register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", metavar="VERSION", help="its name, or: champion")
    parser.add_argument(
        "--registry", required=True, metavar="URL", help="the registry's address, http(s)://..."
    )
    parser.add_argument(
        "--name", required=True, metavar="NAME", help="the registered model that it belongs to"
    )
    parser.add_argument(
        "--token-file", metavar="FILE", help="holds a bearer token, where it asks for one"
    )
    parser.add_argument("--who", default="", metavar="NAME", help="(default: this account)")
    _add_version_store(parser)


def _add_reason(parser: argparse.ArgumentParser, is_required: bool) -> None:
    parser.add_argument(
        "--why", required=is_required, metavar="TEXT", help="the reason, for the history"
    )
    parser.add_argument("--who", default="", metavar="NAME", help="(default: this account)")
    parser.add_argument(
        "--expected",
        metavar="VERSION",
        help="the champion that was decided against, or: none (exit code 3 if it is another)",
    )


def _add_version_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        required=True,
        metavar="PREFIX",
        help="where versions are: gs://..., s3://..., minio://... or a folder",
    )
